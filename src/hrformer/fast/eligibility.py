"""Whether modules still are what kernels and folded weights compute: types, settings, shapes, methods.

What runs instead of a module reads its parameters without calling it. A hook, a subclass (an adapter, a quantised
layer, a parametrised weight, batch norm over processes) or a method replaced on the object or the class would be passed
over. So every layer of a model is compared with a fresh one, built on the meta device with the sizes found; whatever
else sits there has to be run as it is. Biases of convolutions and every ``eps`` are read from layers and may be any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

from hrformer.models.attention import WindowAttention
from hrformer.models.blocks import BasicBlock, Bottleneck, ConvFFN, DropPath, TransformerBlock
from hrformer.models.fusion import FusionUnit
from hrformer.models.heads import ClassificationHead, FCNHead, OCRHead, PoseHead
from hrformer.models.model import VisionModel
from hrformer.models.trunk import HighResolutionTrunk

CALLED = (
    *("__call__", "forward", "_conv_forward", "_check_input_dim", "gathered_bias"),
    *("attend", "feed_forward", "upsampled", "forward_half", "forward_stem"),
)
"""Methods that take part when a module is called."""

_called: dict[type[nn.Module], list[tuple[str, Callable[..., Any]]]] = {}
_methods: dict[type[nn.Module], frozenset[str]] = {}


def _remember(kind: type[nn.Module]) -> None:
    """Note a class's methods as they are now."""
    _called[kind] = [(name, getattr(kind, name)) for name in CALLED if hasattr(kind, name)]
    _methods[kind] = frozenset(name for name in dir(kind) if callable(getattr(kind, name)))


for _kind in (
    *(nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.LayerNorm, nn.GELU, nn.Identity, nn.ReLU, nn.Sequential),
    *(WindowAttention, ConvFFN, TransformerBlock, Bottleneck, BasicBlock, FusionUnit, HighResolutionTrunk),
):
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


def runs_as_written(module: nn.Module) -> bool:
    """Whether a part under a coat has the methods of its plain class, none replaced there or on the object."""
    kind = plain_kind(type(module))
    return is_original(kind) and _methods[kind].isdisjoint(module.__dict__)


def is_plain_linear(module: nn.Module) -> bool:
    """Whether this is a linear layer with a bias and nothing else."""
    return is_unchanged(module, nn.Linear) and module.bias is not None


HEADS = (ClassificationHead, PoseHead, OCRHead, FCNHead)
"""Heads that are rewritten; others run as they are."""

PAIRS = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
"""Settings of a convolution that are two whole numbers, and the least of them."""

SETTINGS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv2d: ("in_channels", "out_channels", *PAIRS, "groups", "padding_mode"),
    nn.BatchNorm2d: ("num_features",),
    nn.LayerNorm: ("normalized_shape",),
    nn.Linear: ("in_features", "out_features"),
    nn.GELU: ("approximate",),
    WindowAttention: ("num_heads", "window"),
}
"""What a layer computes besides its type and tensors."""

FREE = {(nn.Conv2d, "bias"), (nn.BatchNorm2d, "num_batches_tracked")}
"""Tensors that may be there or not."""

SAME_IN_TRAINING = (nn.Conv2d, nn.Linear, nn.LayerNorm, nn.GELU, nn.ReLU, nn.Identity, nn.Sequential, nn.ModuleList)
"""Layers whose own mode changes nothing."""


def changed_part(model: nn.Module) -> str | None:
    """The first part of a model that fused blocks or compiled programs would pass over or get wrong, and what is
    wrong with it; None for a model that they compute.

    Of modules that are not ours only what no program can hold counts: hooks, and tensors of several kinds.
    """
    found = _watched_part(model) or _odd_tensor(model)
    if found or not isinstance(model, VisionModel) or not isinstance(model.backbone, HighResolutionTrunk):
        return found
    if not hasattr(model, "head"):
        return "the head was deleted"
    if plain_kind(type(model)).forward is not VisionModel.forward:
        return f"{type(model).__name__} has a forward of its own"
    return _difference(model.backbone, _fresh_trunk(model.backbone), "backbone") or _changed_bottleneck(model.head)


def part_in_training(model: nn.Module) -> str | None:
    """The first module in training mode, or None: what is fast computes evaluation mode alone."""
    for name, part in model.named_modules():
        if part.training and plain_kind(type(part)) not in SAME_IN_TRAINING:
            return f"{name or type(part).__name__} is in training mode"
    return None


def is_foldable(layer: nn.Module) -> bool:
    """Whether a convolution, a batch norm or a ReLU computes what its settings and tensors say, and nothing else.

    Only what passes may be folded; everything else in a head runs as it is.
    """
    if type(layer) is nn.Conv2d:
        pairs = [(getattr(layer, name), least) for name, least in PAIRS.items()]
        if not all(_is_pair(pair, least) for pair, least in pairs) or min(layer.in_channels, layer.out_channels) < 1:
            return False
        sizes: Any = (nn.Conv2d, layer.in_channels, layer.out_channels, *(pair for pair, _ in pairs), layer.groups)
    elif type(layer) in (nn.BatchNorm2d, nn.SyncBatchNorm):
        sizes = (nn.BatchNorm2d, layer.num_features)
    elif type(layer) is nn.ReLU:
        sizes = (nn.ReLU,)
    else:
        return False
    try:
        return _difference(layer, _fresh(*sizes), "") is None
    except (TypeError, ValueError):  # sizes that no layer can have
        return False


@lru_cache(maxsize=64)
def _fresh(kind: type[nn.Module], *sizes: Any, **further: Any) -> nn.Module:
    """A layer or block to compare with, without memory for its tensors."""
    with torch.device("meta"):
        return kind(*sizes, **further)


def _is_pair(value: Any, least: int) -> bool:
    return type(value) is tuple and len(value) == 2 and all(type(n) is int and n >= least for n in value)


def _watched_part(model: nn.Module) -> str | None:
    """A module with hooks, or whose ``forward`` was replaced on the object."""
    for name, part in model.named_modules():
        hooks = [*part._forward_hooks.values(), *part._forward_pre_hooks.values()]
        if not all(map(_collects_features, hooks)):
            return f"{name or type(part).__name__} has forward hooks"
        if "forward" in vars(part) and not isinstance(part, torch.jit.ScriptModule):
            return f"forward of {name or type(part).__name__} was replaced"
    return None


def _collects_features(hook: Any) -> bool:
    """Whether it is one of those by which timm's backbones take their maps, which are part of their function."""
    holder = type(getattr(getattr(hook, "func", hook), "__self__", None))
    return (holder.__module__, holder.__name__) == ("timm.models._features", "FeatureHooks")


def _odd_tensor(model: nn.Module) -> str | None:
    """A tensor that is no ordinary one, or has another precision or device than the first."""
    first: tuple[str, torch.dtype, torch.device] | None = None
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided or tensor.is_quantized:
            return f"{name} is no ordinary tensor but {type(tensor).__name__} of {tensor.dtype}"
        if not tensor.is_floating_point():
            continue
        first = first or (name, tensor.dtype, tensor.device)
        if (tensor.dtype, tensor.device) != first[1:]:
            return f"{name} is {tensor.dtype} on {tensor.device}, {first[0]} is {first[1]} on {first[2]}"
    return None


class _AnyBlock(nn.Module):
    """Stands where a fresh trunk has a block: one of either family, with ``channels``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels


def _fresh_trunk(trunk: HighResolutionTrunk) -> nn.Module:
    """A trunk of the same configuration; another number of input channels may have been given to its stem later."""
    config = replace(trunk.config, in_chans=_found(trunk, "conv1.in_channels", trunk.config.in_chans))
    with torch.device("meta"):
        return HighResolutionTrunk(config, lambda branch, depth: _AnyBlock(config.channels[branch]))


def _fresh_block(block: nn.Module, channels: int) -> nn.Module:
    """A block of a branch with ``channels`` that has the other sizes of this one."""
    if plain_kind(type(block)) is BasicBlock:
        return _fresh(BasicBlock, channels)
    hidden = _found(block, "ffn.fc1.out_channels", channels)
    return _fresh(
        TransformerBlock,
        channels,
        _found(block, "attn.num_heads", 1),
        window=_found(block, "attn.window", 1),
        mlp_ratio=(hidden + 0.5) / channels,
        drop_path=0.5 if isinstance(_found(block, "drop_path", None), DropPath) else 0.0,
    )


def _found(part: nn.Module, path: str, default: Any) -> Any:
    """A size of a part, or the default where something else took the part's place."""
    try:
        return attrgetter(path)(part)
    except AttributeError:
        return default


def _changed_bottleneck(head: nn.Module | None) -> str | None:
    """Bottlenecks are the only parts of heads that are rewritten as a whole."""
    if head is None or type(head) not in HEADS:
        return None
    for name, part in head.named_modules():
        if plain_kind(type(part)) is Bottleneck:
            inner, depthwise = _found(part, "conv2.in_channels", 1), _found(part, "conv2.groups", 1) > 1
            fresh = _fresh(Bottleneck, _found(part, "conv1.in_channels", 1), inner, depthwise=depthwise)
            difference = _difference(part, fresh, f"head.{name}")
            if difference:
                return difference
    return None


def _difference(found: nn.Module, fresh: nn.Module, path: str) -> str | None:
    """What distinguishes a module from a fresh one, or None."""
    if isinstance(fresh, _AnyBlock):
        try:
            fresh = _fresh_block(found, fresh.channels)
        except (TypeError, ValueError) as error:  # sizes that no block can have
            return f"{path}: {error}"
    kind = type(fresh)
    if plain_kind(type(found)) is not kind and not (kind is nn.BatchNorm2d and type(found) is nn.SyncBatchNorm):
        return f"{path} is {_named(type(found), kind)}, not {kind.__name__}"
    for what, is_, was in chain(_replaced(found), _other_settings(found, fresh), _other_tensors(found, fresh)):
        return f"{path}.{what} is {is_}, not {was}"
    if list(found._modules) != list(fresh._modules):
        return f"{path} holds {', '.join(found._modules)}, not {', '.join(fresh._modules)}"
    for name, child in fresh._modules.items():
        assert child is not None
        difference = _difference(found._modules[name], child, f"{path}.{name}")  # type: ignore[arg-type]
        if difference:
            return difference
    return None


def _named(kind: type, other: type) -> str:
    """Its name, with its module where the other has the same."""
    return kind.__name__ if kind.__name__ != other.__name__ else f"{kind.__module__}.{kind.__name__}"


def _replaced(found: nn.Module) -> Iterator[tuple[str, str, str]]:
    """Methods that were replaced on the object, where ``compile()`` leaves its result, which computes the same; a
    forward that was replaced in the class."""
    kind = type(found)
    names = [] if is_original(kind) and is_original(plain_kind(kind)) else ["forward"]
    names += [n for n, value in vars(found).items() if callable(value) and callable(getattr(kind, n, None))]
    for name in names:
        if name != "_compiled_call_impl":
            yield name, "another function", f"that of {kind.__name__}"


def _other_settings(found: nn.Module, fresh: nn.Module) -> Iterator[tuple[str, str, str]]:
    for name in SETTINGS.get(type(fresh), ()):
        is_, was = getattr(found, name), getattr(fresh, name)
        if is_ != was:
            yield name, repr(is_), repr(was)


def _other_tensors(found: nn.Module, fresh: nn.Module) -> Iterator[tuple[str, str, str]]:
    for name, tensor in chain(fresh._parameters.items(), fresh._buffers.items()):
        there = found._parameters.get(name, found._buffers.get(name))
        if there is None and (tensor is None or (type(fresh), name) in FREE):
            continue
        shape = tensor.shape if tensor is not None else (fresh.out_channels,)  # a bias that a fresh layer lacks
        if there is None or there.shape != shape:
            yield name, "missing" if there is None else f"{tuple(there.shape)}", f"{tuple(shape)}"


def is_watched(x: Tensor) -> bool:
    """Whether hooks, a transform, a mode, tracing or a kind of tensor waits for the plain network's operations."""
    if _has_any_global_hook():
        return True
    if torch.compiler.is_compiling():
        return False
    return (
        type(x) not in (Tensor, nn.Parameter)
        or torch.jit.is_tracing()
        or forward_ad._current_level >= 0
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
    )
