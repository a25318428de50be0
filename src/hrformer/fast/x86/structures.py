"""The structures that the kernels take, field by field as in ``source/*.cpp``, and the numbers behind each pointer.

A pointer is all that a kernel gets: a buffer that is too small, or of another kind, would be read beyond its end. A
test compares the structures with the sources.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from hrformer.fast.x86.half import HALVES, TRAINING_HALVES
from hrformer.fast.x86.half import SIZES as HALF_SIZES

LARGEST = 2**31 - 1
"""Sizes are 32-bit integers in the kernels."""


def is_in_memory(tensor: Tensor) -> bool:
    """Whether a tensor's numbers lie as they are in a storage that holds them all.

    A view may be of negated numbers, zeros of automatic differentiation have no memory, and a storage may have been
    resized under its tensor, as sharding of parameters does. While a graph is compiled there is none to look at.
    """
    if torch.compiler.is_compiling():
        return True
    if tensor.layout is not torch.strided or tensor.is_neg() or tensor._is_zerotensor():
        return False
    count = tensor.numel()
    if count and not tensor.is_contiguous():
        count = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return not count or int(tensor.storage_offset() + count) * tensor.itemsize <= tensor.untyped_storage().nbytes()


def tensors_refusal(x: Tensor, others: Sequence[Tensor | None] = (), dtype: torch.dtype = torch.float32) -> str | None:
    """Why kernels in this precision take neither this map nor these tensors beside it, or None where they do."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return "the model is being compiled or exported"
    if torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack():
        return "a transform or a mode watches the operations"
    for tensor in (x, *others):
        if tensor is None:
            continue
        if type(tensor) not in (Tensor, nn.Parameter):
            return f"{type(tensor).__name__} is a subclass of torch.Tensor"
        if not tensor.is_cpu or tensor.dtype is not dtype:
            return f"compiled kernels take {dtype} on the CPU here, got {tensor.dtype} on {tensor.device.type}"
        if not is_in_memory(tensor):
            return f"compiled kernels take plain memory, got {tensor.layout}, negated numbers or none"
    if not 0 < x.numel() <= LARGEST:
        return f"a map of {x.numel()} numbers"
    return None


Fields = Mapping[str, type[Any]]
"""Name -> type of ctypes, in order."""

_TYPES: dict[str, type[Any]] = {"floats": ctypes.c_void_p, "int": ctypes.c_int, "float": ctypes.c_float}


def fields(text: str) -> Fields:
    """From declarations like "floats x y; int rows; float eps": "floats" are pointers, "a[4]" is a0 to a3."""
    found: dict[str, type[Any]] = {}
    for declaration in text.split(";"):
        kind, *names = declaration.split()
        for name in names:
            base, _, count = name.rstrip("]").partition("[")
            each = [f"{base}{i}" for i in range(int(count))] if count else [base]
            found |= dict.fromkeys(each, _TYPES[kind])
    return found


# Structures inside the structures of training, see source/training_feed_forward.h and training_norms.h.
FEED_FORWARD_SIZE = fields("int rows height width channels hidden; float layer_eps")
FEED_FORWARD_WEIGHTS = fields(
    "floats layer_weight layer_bias fc1 fc1_bias norm1 norm1_bias depthwise depthwise_bias norm2 norm2_bias "
    "fc2 fc2_bias norm3 norm3_bias"
)
ATTENTION_SIZE = fields("int batch height width channels window heads; float layer_eps")
ATTENTION_WEIGHTS = fields("floats layer_weight layer_bias qkv qkv_bias proj proj_bias bias")
RESIDUAL, THREADS = fields("int residual"), fields("int threads")


def _running(number: int) -> Fields:
    return fields(
        f"floats running_mean{number} running_var{number}; float running_momentum{number} running_eps{number}"
    )


STRUCTURES: dict[str, Fields] = {
    "feed_forward": fields(
        "floats x y; int rows height width channels hidden; float eps; "
        "floats fc1 fc1_bias depthwise depthwise_bias fc2 fc2_bias; int threads"
    ),
    "attention": fields(
        "floats x y; int batch height width channels window heads head_dim; float eps; "
        "floats qkv qkv_bias proj proj_bias bias; int threads"
    ),
    "linear": fields("floats x y; int rows depth channels; floats weight bias residual; int activation after threads"),
    "convolution": fields(
        "floats x y; int batch height width depth out_height out_width channels kernel_height kernel_width "
        "stride_y stride_x padding_y padding_x; floats weight bias zeros; int activation threads"
    ),
    "separable": fields(
        "floats x y; int batch height width depth channels stride; "
        "floats depthwise depthwise_bias weight bias residual; int middle activation threads"
    ),
    "fusion": fields(
        "floats y; int batch height width channels; floats term[4]; int height[4] width[4] factor[4] bilinear threads"
    ),
    "program": fields("floats steps relocations memories; int count threads"),
    "feed_forward_training": {
        **fields("floats x y expanded mixed reduced statistics"),
        **FEED_FORWARD_SIZE,
        **FEED_FORWARD_WEIGHTS,
        **_running(1),
        **_running(2),
        **_running(3),
        **RESIDUAL,
        **THREADS,
    },
    "feed_forward_training_backward": {
        **fields("floats grad x reduced expanded mixed back2 back1 statistics"),
        **FEED_FORWARD_SIZE,
        **fields("int expanded_given mixed_given"),
        **FEED_FORWARD_WEIGHTS,
        **fields(
            "floats grad_x layer_weight_grad layer_bias_grad fc1_grad norm1_grad norm1_bias_grad depthwise_grad "
            "norm2_grad norm2_bias_grad fc2_grad norm3_grad norm3_bias_grad"
        ),
        **RESIDUAL,
        **THREADS,
    },
    "batch_norm_training": {
        **fields("floats x added y statistics; int tokens channels relu; floats weight bias"),
        **_running(1),
        **THREADS,
    },
    "batch_norm_training_backward": fields(
        "floats grad x y grad_x grad_added statistics; int tokens channels relu; "
        "floats weight bias weight_grad bias_grad; int threads"
    ),
    "fusion_training_backward": fields(
        "floats grad y; int batch height width channels; floats term[4]; int factor[4] threads"
    ),
    "attention_training": {**fields("floats x y"), **ATTENTION_SIZE, **ATTENTION_WEIGHTS, **RESIDUAL, **THREADS},
    "attention_training_backward": {
        **fields("floats grad x grad_x"),
        **ATTENTION_SIZE,
        **ATTENTION_WEIGHTS,
        **{f"{name}_grad": kind for name, kind in ATTENTION_WEIGHTS.items()},
        **RESIDUAL,
        **THREADS,
    },
}
"""Function of the library, without its prefix -> fields of its structure."""

HALF_STRUCTURES: dict[str, Fields] = {
    **{name: STRUCTURES[name] for name in ("feed_forward", "attention", "linear", "separable", "fusion", "program")},
    "convolution": {name: kind for name, kind in STRUCTURES["convolution"].items() if name != "zeros"},
    **{name: STRUCTURES[name] for name in TRAINING_HALVES},
}
"""The same for kernels in bfloat16."""


Sizes = Mapping[str, int]
"""Field -> numbers behind it."""


def check_buffers(name: str, settings: Any, tensors: Mapping[str, Tensor], lanes: int, *, half: bool = False) -> None:
    """``check_numbers`` for a structure with all sizes filled in."""
    numbers = {field: getattr(settings, field) for field in _COUNTS[name]}
    check_numbers(name, numbers, tensors, lanes, half=half)


def check_numbers(
    name: str,
    numbers: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    lanes: int,
    *,
    in_memory: bool = False,
    half: bool = False,
) -> None:
    """Refuse tensors that do not fit a kernel.

    Args:
        name: of the kernel.
        numbers: its structure's fields, all sizes among them.
        tensors: by field.
        lanes: floats in a vector.
        in_memory: whether all tensors are known to be in memory, or to have been freed.
        half: whether the kernel computes in bfloat16.

    Raises:
        ValueError: a tensor is of another dtype than the kernel takes, not on the CPU, not contiguous, of another size
            or without memory for it.
    """
    sizes = _sizes(name, lanes, tuple([numbers[field] for field in _COUNTS[name]]), half)
    halves = TRAINING_HALVES.get(name, HALVES) if half else ()
    for field, tensor in tensors.items():
        dtype = torch.bfloat16 if field in halves else torch.float32
        fits = (
            tensor.dtype is dtype
            and tensor.is_cpu
            and (tensor.data_ptr() != 0 if in_memory else is_in_memory(tensor))
            and tensor.is_contiguous()
            and tensor.numel() == sizes[field]
        )
        if not fits:
            raise ValueError(
                f"kernel {name!r}: {field} must be {sizes[field]} contiguous {str(dtype)[6:]} numbers on the CPU, "
                f"got {tuple(tensor.shape)} with strides {tensor.stride() if tensor.layout == torch.strided else None} "
                f"in {tensor.dtype} on {tensor.device}"
            )


def filled_count(count: int, lanes: int) -> int:
    """``count`` rounded up to whole vectors."""
    return -(-count // lanes) * lanes


def _feed_forward(s: Any, lanes: int) -> Sizes:
    tokens, hidden, channels = s.rows * s.width, filled_count(s.hidden, lanes), filled_count(s.channels, lanes)
    return {
        **dict.fromkeys(("x", "y"), tokens * s.channels),
        "fc1": s.channels * hidden,
        "depthwise": 9 * hidden,
        **dict.fromkeys(("fc1_bias", "depthwise_bias"), hidden),
        "fc2": s.hidden * channels,
        "fc2_bias": channels,
    }


def _attention(s: Any, lanes: int) -> Sizes:
    places, inner, channels = s.window**2, s.heads * s.head_dim, filled_count(s.channels, lanes)
    packed = filled_count(3 * inner, lanes)
    return {
        **dict.fromkeys(("x", "y"), s.batch * s.height * s.width * s.channels),
        "qkv": s.channels * packed,
        "qkv_bias": packed,
        "proj": inner * channels,
        "proj_bias": channels,
        "bias": s.heads * places * filled_count(places, lanes),
    }


def _linear(s: Any, lanes: int) -> Sizes:
    channels = filled_count(s.channels, lanes)
    return {
        "x": s.rows * s.depth,
        **dict.fromkeys(("y", "residual"), s.rows * s.channels),
        "weight": s.depth * channels,
        "bias": channels,
    }


def _convolution(s: Any, lanes: int) -> Sizes:
    channels = filled_count(s.channels, lanes)
    return {
        "x": s.batch * s.height * s.width * s.depth,
        "y": s.batch * s.out_height * s.out_width * s.channels,
        "weight": s.kernel_height * s.kernel_width * s.depth * channels,
        "bias": channels,
        "zeros": s.depth,
    }


def _separable(s: Any, lanes: int) -> Sizes:
    depth, channels = filled_count(s.depth, lanes), filled_count(s.channels, lanes)
    cells = -(-s.height // s.stride) * -(-s.width // s.stride)
    return {
        "x": s.batch * s.height * s.width * s.depth,
        **dict.fromkeys(("y", "residual"), s.batch * cells * s.channels),
        "depthwise": 9 * depth,
        "depthwise_bias": depth,
        "weight": s.depth * channels,
        "bias": channels,
    }


def _fusion(s: Any, lanes: int) -> Sizes:
    terms = {f"term{i}": s.batch * getattr(s, f"height{i}") * getattr(s, f"width{i}") * s.channels for i in range(4)}
    return {"y": s.batch * s.height * s.width * s.channels, **terms}


def _with_gradients(sizes: dict[str, int], names: str) -> Sizes:
    return sizes | {f"{name}_grad": sizes[name] for name in names.split()}


def _feed_forward_training(s: Any, lanes: int) -> Sizes:
    tokens, hidden, channels = s.rows * s.width, s.hidden, s.channels
    sizes = {
        **dict.fromkeys(("x", "y", "grad", "grad_x", "reduced"), tokens * channels),
        **dict.fromkeys(("expanded", "mixed", "back1", "back2"), tokens * filled_count(hidden, lanes)),
        "statistics": 4 * filled_count(hidden, lanes) + 2 * filled_count(channels, lanes),
        **dict.fromkeys(("layer_weight", "layer_bias"), channels),
        **dict.fromkeys(("fc1", "fc2"), hidden * channels),
        "depthwise": 9 * hidden,
        **dict.fromkeys(("fc1_bias", "norm1", "norm1_bias", "depthwise_bias", "norm2", "norm2_bias"), hidden),
        **dict.fromkeys(("fc2_bias", "norm3", "norm3_bias"), channels),
    }
    for number, count in ((1, hidden), (2, hidden), (3, channels)):
        sizes |= dict.fromkeys((f"running_mean{number}", f"running_var{number}"), count)
    return _with_gradients(
        sizes, "layer_weight layer_bias fc1 norm1 norm1_bias depthwise norm2 norm2_bias fc2 norm3 norm3_bias"
    )


def _batch_norm_training(s: Any, lanes: int) -> Sizes:
    return {
        **dict.fromkeys(("x", "added", "y", "grad", "grad_x", "grad_added"), s.tokens * s.channels),
        "statistics": 2 * filled_count(s.channels, lanes),
        **dict.fromkeys(("weight", "bias", "weight_grad", "bias_grad"), s.channels),
        **dict.fromkeys(("running_mean1", "running_var1"), s.channels),
    }


def _fusion_training(s: Any, lanes: int) -> Sizes:
    cells = s.batch * s.height * s.width
    terms = {f"term{i}": cells // max(getattr(s, f"factor{i}"), 1) ** 2 * s.channels for i in range(4)}
    return {**dict.fromkeys(("grad", "y"), cells * s.channels), **terms}


def _attention_training(s: Any, lanes: int) -> Sizes:
    sizes = {
        **dict.fromkeys(("x", "y", "grad", "grad_x"), s.batch * s.height * s.width * s.channels),
        **dict.fromkeys(("layer_weight", "layer_bias", "proj_bias"), s.channels),
        "qkv": 3 * s.channels**2,
        "qkv_bias": 3 * s.channels,
        "proj": s.channels**2,
        "bias": s.heads * s.window**4,
    }
    return _with_gradients(sizes, "layer_weight layer_bias qkv qkv_bias proj proj_bias bias")


SIZES: Mapping[str, Callable[[Any, int], Sizes]] = {
    "feed_forward": _feed_forward,
    "attention": _attention,
    "linear": _linear,
    "convolution": _convolution,
    "separable": _separable,
    "fusion": _fusion,
    "program": lambda s, lanes: {},
    "feed_forward_training": _feed_forward_training,
    "feed_forward_training_backward": _feed_forward_training,
    "batch_norm_training": _batch_norm_training,
    "batch_norm_training_backward": _batch_norm_training,
    "fusion_training_backward": _fusion_training,
    "attention_training": _attention_training,
    "attention_training_backward": _attention_training,
}
"""Kernel -> its sizes, from its structure and the number of floats in a vector."""

_COUNTS = {
    name: [field for field, kind in structure.items() if kind is ctypes.c_int] for name, structure in STRUCTURES.items()
}


@lru_cache(maxsize=1024)
def _sizes(name: str, lanes: int, counts: tuple[int, ...], half: bool) -> Sizes:
    """The sizes that belong to the whole numbers of a structure, computed once."""
    settings = SimpleNamespace(**dict(zip(_COUNTS[name], counts, strict=True)))
    return HALF_SIZES[name](settings) if half and name in HALF_SIZES else SIZES[name](settings, lanes)
