"""Whether a module still is what its class says, so that its parameters may be used without calling it.

A hook, a subclass (an adapter, a quantised layer, a parametrised weight, batch norm over processes) or a method
replaced on the object or on the class would be passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from hrformer.models.attention import WindowAttention
from hrformer.models.blocks import ConvFFN

CALLED = ("__call__", "forward", "_conv_forward", "_check_input_dim", "gathered_bias")
"""Methods that take part when a module is called."""

_called: dict[type[nn.Module], list[tuple[str, Callable[..., Any]]]] = {}
_methods: dict[type[nn.Module], frozenset[str]] = {}


def _remember(kind: type[nn.Module]) -> None:
    """Note a class's methods as they are now."""
    _called[kind] = [(name, getattr(kind, name)) for name in CALLED if hasattr(kind, name)]
    _methods[kind] = frozenset(name for name in dir(kind) if callable(getattr(kind, name)))


for _kind in (nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.LayerNorm, nn.GELU, WindowAttention, ConvFFN):
    _remember(_kind)


def plain_kind(kind: type[nn.Module]) -> type[nn.Module]:
    """The plain class under a coat, see ``hrformer.fast.coat``; other classes as they are."""
    plain: type[nn.Module] = vars(kind).get("coat_of", kind)
    return plain


def is_original(kind: type[nn.Module]) -> bool:
    """Whether a class runs the methods that it had when this package was imported.

    Of a class that was not remembered then, its forward has to be the one that its source has.
    """
    if kind in _called:
        return [(name, getattr(kind, name)) for name, _ in _called[kind]] == _called[kind]
    forward = kind.forward
    owner = next(base for base in kind.__mro__ if "forward" in vars(base))
    return owner is nn.Module or (
        getattr(forward, "__qualname__", "") == f"{owner.__qualname__}.forward"
        and getattr(forward, "__globals__", {}).get("__name__") == owner.__module__
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether something watches or changes the calls of this module alone."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def is_unchanged(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether this is exactly a ``kind``, without hooks or replaced methods, its tensors ordinary ones."""
    return (
        type(module) is kind
        and is_original(kind)
        and not has_hooks(module)
        and _methods[kind].isdisjoint(module.__dict__)
        and all(t is None or type(t) in (Tensor, nn.Parameter) for t in module._parameters.values())
    )


def is_plain_linear(module: nn.Module) -> bool:
    """Whether this is a linear layer with a bias and nothing else."""
    return is_unchanged(module, nn.Linear) and module.bias is not None
