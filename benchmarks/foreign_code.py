"""Modules of another project, executed where they lie, without touching this process's own modules.

Small replacements stand in for what they import. The real packages (mmcv, mmengine, einops, old timm) need compilers or
old versions, while the models use a handful of their functions. Each one here does what the model files need of it and
nothing else. None of them takes time in a forward pass, except ``rearrange``, which costs the same two reshapes and one
permutation as einops'.
"""

from __future__ import annotations

import logging
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

from timm.layers import DropPath, to_2tuple, trunc_normal_
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Members = Mapping[str, Any]


@contextmanager
def foreign_module(root: Path, name: str, replaced: Mapping[str, Members], prefix: str) -> Iterator[Any]:
    """Execute one module of a checkout, and whatever it imports from there.

    Packages on the way are not initialised, so that their ``__init__`` need not be importable. Inside the context the
    module's own lazy imports work too. Afterwards ``sys.modules`` is as before, except that the files just read are
    listed under ``prefix``: ``torch.compile`` looks modules up by name.

    Args:
        root: folder in which the module's top package lies.
        name: full name of the module, such as "models.hrt".
        replaced: modules to be imported instead of the real ones, by name with their members.
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
    for one, members in replaced.items():
        sys.modules[one] = ModuleType(one)
        vars(sys.modules[one]).update(members)
    # The checkout is the user's: no __pycache__ folders in it.
    sys.dont_write_bytecode = True
    try:
        with warnings.catch_warnings():
            # Old code under a new torch; nobody here can mend it.
            warnings.simplefilter("ignore")
            yield _execute(root, name)
    finally:
        sys.dont_write_bytecode = writes_bytecode
        for one in concerned():
            module = sys.modules.pop(one)
            if one not in replaced:
                _rename(module, f"{prefix}.{one}")
        sys.modules.update(hidden)


def _execute(root: Path, name: str) -> ModuleType:
    parts = name.split(".")
    for depth in range(1, len(parts)):
        # Empty packages above the module, through which its neighbours are found.
        package = ModuleType(".".join(parts[:depth]))
        package.__path__ = [str(root.joinpath(*parts[:depth]))]
        sys.modules[package.__name__] = package
    path = root.joinpath(*parts).with_suffix(".py")
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ModuleNotFoundError(f"there is no {path}", name=name)
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _rename(module: ModuleType, name: str) -> None:
    """Give a module, and the classes defined in it, a name that nobody else has."""
    for member in list(vars(module).values()):
        if isinstance(member, type) and member.__module__ == module.__name__:
            member.__module__ = name
    module.__name__ = name
    sys.modules[name] = module


def stand_ins(origin: str, task: str, trunk: Callable[[], nn.Module]) -> dict[str, Members]:
    """What the files of one implementation import, by module.

    Args:
        origin: "official" or "mmpose".
        task: official: the code of each task has surroundings of its own.
        trunk: official segmentation: makes the backbone that the network asks its selector for.
    """
    registry = SimpleNamespace(register_module=lambda: lambda decorated: decorated)
    if origin == "mmpose":  # mmcv 2.x, mmengine and mmpose's registry
        return {
            "mmcv": {},
            "mmcv.cnn": {
                "ConvModule": refuse,
                "build_activation_layer": activation_layer,
                "build_conv_layer": conv_layer,
                "build_norm_layer": norm_layer,
            },
            "mmcv.cnn.bricks": {},
            "mmcv.cnn.bricks.transformer": {"build_dropout": lambda config: DropPath(config["drop_prob"])},
            "mmengine": {},
            "mmengine.model": {
                "BaseModule": BaseModule,
                "constant_init": leave_as_it_is,
                "trunc_normal_init": leave_as_it_is,
            },
            "mmengine.utils": {},
            "mmengine.utils.dl_utils": {},
            "mmengine.utils.dl_utils.parrots_wrapper": {"_BatchNorm": _BatchNorm},
            "mmpose.registry": {"MODELS": registry},
        }
    common: dict[str, Members] = {
        "einops": {"rearrange": rearrange},
        "timm.models.layers": {"DropPath": DropPath, "to_2tuple": to_2tuple, "trunc_normal_": trunc_normal_},
    }
    if task == "pose":  # mmcv 1.x, and the parts of the old mmpose around its backbones
        initialisers = dict.fromkeys(("constant_init", "kaiming_init", "normal_init"), leave_as_it_is)
        loaders = dict.fromkeys(("load_checkpoint", "load_state_dict"), refuse)
        return common | {
            "mmcv": {},
            "mmcv.cnn": {"build_conv_layer": conv_layer, "build_norm_layer": norm_layer, **initialisers},
            "mmcv.runner": loaders,
            "mmcv.runner.checkpoint": loaders,
            "mmcv.utils": {},
            "mmcv.utils.parrots_wrapper": {"_BatchNorm": _BatchNorm},
            "mmpose.utils": {"get_root_logger": partial(logging.getLogger, "mmpose")},
            "mmpose.models.builder": {"BACKBONES": registry},
        }
    if task == "segmentation":  # the parts of openseg around the network

        def selector(configer: Any) -> SimpleNamespace:
            return SimpleNamespace(get_backbone=trunk)

        return common | {
            "timm.models.registry": {"register_model": lambda decorated: decorated},
            "torchvision.models.utils": {"load_state_dict_from_url": refuse},
            "lib.utils.tools.logger": {"Logger": logging.getLogger("openseg")},
            "lib.models.backbones.backbone_selector": {"BackboneSelector": selector},
        }
    return common


def conv_layer(config: Mapping[str, Any] | None, *arguments: Any, **options: Any) -> nn.Conv2d:
    """mmcv's ``build_conv_layer`` for plain convolutions."""
    return nn.Conv2d(*arguments, **options)


def norm_layer(config: Mapping[str, Any], channels: int, postfix: int | str = "") -> tuple[str, nn.Module]:
    """mmcv's ``build_norm_layer`` for batch and layer norm: the name of the layer, and the layer."""
    name, kind = {"BN": ("bn", nn.BatchNorm2d), "LN": ("ln", nn.LayerNorm)}[config["type"]]
    options = {key: value for key, value in config.items() if key not in ("type", "requires_grad")}
    return f"{name}{postfix}", kind(channels, **options)


def activation_layer(config: Mapping[str, Any]) -> nn.Module:
    """mmcv's ``build_activation_layer`` for the two functions that HRFormer uses."""
    return {"GELU": nn.GELU, "ReLU": nn.ReLU}[config["type"]]()


def leave_as_it_is(*arguments: Any, **options: Any) -> None:
    """An initialiser: random weights of any kind take the same time."""


def refuse(*arguments: Any, **options: Any) -> NoReturn:
    """Something a model that starts from random weights has no use for."""
    raise NotImplementedError("this model is built for timing, with random weights")


class BaseModule(nn.Module):
    """mmengine's base class, which keeps the recipe of initial weights."""

    def __init__(self, init_cfg: Any = None) -> None:
        super().__init__()
        self.init_cfg = init_cfg


def rearrange(x: Tensor, pattern: str, **lengths: int) -> Tensor:
    """einops' function for patterns such as ``"n (qh ph) c -> (ph n) qh c"``: split, permute, merge.

    Args:
        x: its dimensions are the groups on the left.
        pattern: every name once on either side.
        **lengths: of all names.
    """
    split, order, groups = _recipe(pattern)
    permuted = x.reshape([lengths[name] for name in split]).permute(order)
    return permuted.reshape([math.prod(lengths[name] for name in group) for group in groups])


@lru_cache(maxsize=64)
def _recipe(pattern: str) -> tuple[tuple[str, ...], tuple[int, ...], tuple[tuple[str, ...], ...]]:
    """Names on the left in order, where each name on the right stands among them, and the groups on the right."""
    left, right = pattern.split("->")
    split = tuple(re.findall(r"\w+", left))
    groups = tuple(tuple(part.strip("()").split()) for part in re.findall(r"\([^)]*\)|\w+", right))
    return split, tuple(split.index(name) for group in groups for name in group), groups
