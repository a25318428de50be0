"""Modules of another project, executed where they lie and without touching this process's own modules."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any


@contextmanager
def foreign_module(root: Path, name: str, replaced: Mapping[str, ModuleType], prefix: str) -> Iterator[Any]:
    """Execute one module of a checkout, and whatever it imports from there.

    Packages on the way are not initialised, so that their ``__init__`` need not be importable. Inside the context the
    module's own lazy imports work too. Afterwards ``sys.modules`` is as before, except that the files just read are
    listed under ``prefix``: ``torch.compile`` looks modules up by name.

    Args:
        root: folder in which the module's top package lies.
        name: full name of the module, such as "models.hrt".
        replaced: modules to be imported instead of the real ones; whole packages in whose place they stand.
        prefix: put before the names under which the files stay listed.

    Yields:
        The module.

    Raises:
        ImportError: a file is missing, or imports what is neither installed nor replaced.
    """
    packages = {one.partition(".")[0] for one in (name, *replaced)} - {"timm", "torchvision"}

    def concerned() -> list[str]:
        return [one for one in sys.modules if one.partition(".")[0] in packages or one in replaced]

    hidden = {one: sys.modules.pop(one) for one in concerned()}
    writes_bytecode = sys.dont_write_bytecode
    sys.modules.update(replaced)
    # The checkout is the user's: no __pycache__ folders in it.
    sys.dont_write_bytecode = True
    try:
        with warnings.catch_warnings():
            # Old code under a new torch; nobody here can mend it.
            warnings.simplefilter("ignore")
            _add_packages(root, name)
            yield _execute(root, name)
    finally:
        sys.dont_write_bytecode = writes_bytecode
        for one in concerned():
            module = sys.modules.pop(one)
            if one not in replaced:
                _rename(module, f"{prefix}.{one}")
        sys.modules.update(hidden)


def _add_packages(root: Path, name: str) -> None:
    """Empty packages above the module, through which its neighbours are found."""
    parts = name.split(".")
    for depth in range(1, len(parts)):
        package = ModuleType(".".join(parts[:depth]))
        package.__path__ = [str(root.joinpath(*parts[:depth]))]
        sys.modules[package.__name__] = package


def _execute(root: Path, name: str) -> ModuleType:
    path = root.joinpath(*name.split(".")).with_suffix(".py")
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ModuleNotFoundError(f"there is no {path}", name=name)
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _rename(module: ModuleType, name: str) -> None:
    """Give a module, and the functions and classes defined in it, a name that nobody else has."""
    before = module.__name__
    for member in list(vars(module).values()):
        if getattr(member, "__module__", None) == before and isinstance(member, type):
            member.__module__ = name
    module.__name__ = name
    sys.modules[name] = module
