"""Whether a module still is what its class says, so that its parameters may be used without calling it.

A hook, a subclass (an adapter, a quantised layer, a parametrised weight, batch norm over processes) or a forward of
its own would be passed over.
"""

# No postponed annotations here: TorchScript compiles the attention layer, which is built on this module.
from torch import Tensor, nn


def has_hooks(module: nn.Module) -> bool:
    """Whether something watches or changes the calls of this module alone."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def is_original(kind: type[nn.Module]) -> bool:
    """Whether the forward of a class is the one that its source has, and not another put in its place."""
    forward = kind.forward
    owner = next(base for base in kind.__mro__ if "forward" in vars(base))
    return owner is nn.Module or (
        getattr(forward, "__qualname__", "") == f"{owner.__qualname__}.forward"
        and getattr(forward, "__globals__", {}).get("__name__") == owner.__module__
    )


def is_unchanged(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether this is exactly a ``kind``, without hooks or a forward of its own, its tensors ordinary ones."""
    return (
        type(module) is kind
        and not has_hooks(module)
        and "forward" not in module.__dict__
        and all(t is None or type(t) in (Tensor, nn.Parameter) for t in module._parameters.values())
    )


def is_plain_linear(module: nn.Module) -> bool:
    """Whether this is a linear layer with a bias and nothing else."""
    return is_unchanged(module, nn.Linear) and module.bias is not None
