"""A name for what a module computes: its weights, its settings and the code of its classes."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable
from inspect import isbuiltin, isfunction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_PLAIN = (bool, int, float, str, tuple, list, dict, torch.dtype, type(None))


def module_fingerprint(module: nn.Module, further: Iterable[object] = ()) -> str:
    """Hex digest that changes with any weight, any plain attribute of any submodule and any line of their code.

    Compiled graphs are stored under it, so it must not miss anything that changes a result: names of weights alone
    would not show another upsampling mode, and a version number would not show an edited checkout.

    Args:
        module: on any device.
        further: what else the stored thing depends on; its ``repr`` counts.
    """
    digest = hashlib.sha256()
    sources: dict[str, None] = {}
    for name, part in module.named_modules():
        kind = type(part)
        digest.update(f"{name}:{kind.__module__}.{kind.__qualname__}".encode())
        for key, value in sorted(vars(part).items()):
            if isinstance(value, Tensor):
                digest.update(f"{key}{tuple(value.shape)}{value.dtype}".encode() + _bytes(value))
            elif isfunction(value) or isbuiltin(value):  # an activation, say
                digest.update(f"{key}{value.__module__}{value.__qualname__}".encode() + _code(value))
            elif isinstance(value, _PLAIN) and key not in vars(nn.Module()):
                digest.update(f"{key}{value!r}".encode())
        sources.setdefault(inspect.getsourcefile(kind) or "")
    for source in [*sources, *map(str, sorted(Path(__file__).parent.glob("*.py")))]:
        digest.update(Path(source).read_bytes() if Path(source).is_file() else source.encode())
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(_bytes(tensor))
    for item in further:
        digest.update(repr(item).encode())
    return digest.hexdigest()


def _code(function: Any) -> bytes:
    """What a function does, also one without a name."""
    code = getattr(function, "__code__", None)
    return code.co_code + repr((code.co_names, code.co_consts)).encode() if code is not None else b""


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().view(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
