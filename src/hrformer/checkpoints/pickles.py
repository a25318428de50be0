"""Read files written by ``torch.save`` without running anything they contain.

``torch.load(weights_only=True)`` does the work. Many published files hold a configuration object beside the tensors,
which it refuses by name. Names of well-known configuration classes and of numpy arrays are then mapped to stand-ins of
this module, so that such objects become plain dictionaries; everything else stays refused. No class or function that a
file names is ever imported.
"""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrformer.wording import listed


class CheckpointError(ValueError):
    """A weight file cannot be read, recognised or matched with a model."""


class _Record:
    """Stand-in for any configuration object: a dictionary with its items, whatever its class was."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        # torch only fills these very types, so the stand-in for a subclass of dict must be one of them.
        items = args[0] if len(args) == 1 and isinstance(args[0], dict) else {}
        return OrderedDict(items)


class _DType:
    """Stand-in for ``numpy.dtype``: plain numbers and strings only, so nothing can smuggle pointers in."""

    def __init__(self, code: str = "", *flags: Any) -> None:
        self.code = code if re.fullmatch(r"[biufUS]\d+", str(code)) else ""
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.order = state[1]

    def read(self, data: bytes) -> np.ndarray[Any, Any] | None:
        """Values of little or big endian ``data``, or None for a type other than numbers and strings."""
        return np.frombuffer(data, self.order + self.code) if self.code and isinstance(data, bytes) else None


class _Array:
    """Stand-in for ``numpy.ndarray``; ``value`` holds the array once its state has been read."""

    def __init__(self, *args: Any) -> None:
        self.value: np.ndarray[Any, Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        values = dtype.read(data) if isinstance(dtype, _DType) else None
        if values is not None:
            self.value = values.reshape(shape, order="F" if fortran else "C")


def _scalar(dtype: _DType, data: bytes = b"") -> Any:
    values = dtype.read(data) if isinstance(dtype, _DType) else None
    return None if values is None else values.reshape(-1)[0].item()


_STAND_INS: dict[str, Callable[..., Any]] = {
    r"numpy\.(_?core)\.multiarray\._reconstruct": _Array,
    r"numpy\.(_?core)\.multiarray\.scalar": _scalar,
    r"numpy\.ndarray": _Array,
    r"numpy\.dtype": _DType,
    r"numpy\.dtypes\.\w+": _DType,
    r"builtins\.bytes": lambda *args: b"",  # how protocol 2 writes an empty bytes object
    # Configurations, logged values and paths of yacs, mmcv, mmengine, easydict, omegaconf and argparse.
    r"(yacs|mmcv|mmengine|addict|easydict|omegaconf)\..+": _Record,
    r"argparse\.Namespace|pathlib\.\w*Path|collections\.defaultdict|types\.SimpleNamespace": _Record,
    # mmengine's logged values name methods with getattr; as a stand-in it gets nothing.
    r"builtins\.(getattr|list|dict|int|float|str|bool|object|slice|range|tuple)|typing\.\w+": _Record,
}

# How torch names what it refuses: "GLOBAL x.y was not an allowed global", "GLOBAL x.y whose module x is blocked".
_REFUSED = re.compile(r"GLOBAL (\S+) (?:was not|whose module)")
_MOST_STAND_INS = 200  # far more than any configuration has classes

_DAMAGE = (
    *(RuntimeError, EOFError, OSError, LookupError, TypeError, ValueError, AttributeError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)

_SANDBOX = (
    "If you trust its author, convert it once where it can do no harm (a container without network and without your "
    "files): torch.load(path, weights_only=False), then torch.save of a dictionary with nothing but the tensors"
)


def load_pickle(path: Path) -> Any:
    """Content of a file written by ``torch.save``, tensors on the CPU, memory-mapped where the format allows it.

    Raises:
        CheckpointError: the file is damaged, of another kind, or needs code of its own to be read.
    """
    try:
        if zipped := zipfile.is_zipfile(path):
            _check_archive(path)
        return _plain(_load(path, zipped))
    except (pickle.UnpicklingError, *_DAMAGE) as error:
        if refused := _REFUSED.search(str(error)):
            problem = f"{path} is refused: reading it would run code it names ({refused[1]}). {_SANDBOX}"
        else:
            text = (str(error).strip() or type(error).__name__).rpartition("WeightsUnpickler error: ")[2]
            # torch's own advice, behind the first sentence or line, is to switch the protection off
            text = re.split(r"\.? (?:In PyTorch 2\.6|Please use `torch|Please file|This file can)|\n", text)[0][:300]
            problem = f"{path} is damaged or was not written by torch.save: {text}"
        raise CheckpointError(problem) from error


def _check_archive(path: Path) -> None:
    """ValueError if a checksum of a zip archive, which PyTorch skips, is wrong, or the archive is of another kind."""
    with zipfile.ZipFile(path) as archive:
        members = archive.namelist()
        if any("/code/" in member for member in members):
            raise ValueError("a TorchScript program; save its state_dict() with torch.save instead")
        if not any(member.endswith("/data.pkl") or member == "data.pkl" for member in members):
            raise ValueError(f"a zip archive without data.pkl, holding {listed(members, 3) or 'nothing'}")
        if bad := archive.testzip():
            raise ValueError(f"the checksum of {bad} does not match its bytes; get the file again")


def _load(path: Path, zipped: bool) -> Any:
    """Load with a stand-in for every known name that torch refuses, one more in each attempt."""
    stand_ins: dict[str, Callable[..., Any]] = {}
    while True:
        try:
            with torch.serialization.safe_globals([(function, name) for name, function in stand_ins.items()]):
                if path.suffix != ".safetensors":
                    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
                with path.open("rb") as file:  # torch goes by the suffix of a path; an open file has none
                    return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            refused = _REFUSED.search(str(error))
            name = refused[1] if refused else ""
            name = name if "." in name else f"builtins.{name}"  # torch leaves that out
            function = next((value for pattern, value in _STAND_INS.items() if re.fullmatch(pattern, name)), None)
            if function is None or name in stand_ins or len(stand_ins) == _MOST_STAND_INS:
                raise
            stand_ins[name] = function


def _plain(value: Any) -> Any:
    """Nested containers with stand-in arrays replaced by real ones."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, _DType):
        return value.code
    if isinstance(value, dict):
        return {_plain(k): _plain(v) for k, v in dict.items(value)}
    if type(value) in (list, tuple):
        return type(value)(_plain(v) for v in value)
    return value
