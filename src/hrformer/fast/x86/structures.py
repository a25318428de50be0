"""The structures that the kernels take, field by field as in ``source/*.cpp``; a test compares the two."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

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
THREADS = fields("int threads")


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
        **THREADS,
    },
    "feed_forward_training_backward": {
        **fields("floats grad x reduced expanded mixed back2 back1 statistics"),
        **FEED_FORWARD_SIZE,
        **fields("int expanded_given"),
        **FEED_FORWARD_WEIGHTS,
        **fields(
            "floats grad_x layer_weight_grad layer_bias_grad fc1_grad norm1_grad norm1_bias_grad depthwise_grad "
            "norm2_grad norm2_bias_grad fc2_grad norm3_grad norm3_bias_grad"
        ),
        **THREADS,
    },
    "attention_training": {**fields("floats x y"), **ATTENTION_SIZE, **ATTENTION_WEIGHTS, **THREADS},
    "attention_training_backward": {
        **fields("floats grad x grad_x"),
        **ATTENTION_SIZE,
        **ATTENTION_WEIGHTS,
        **{f"{name}_grad": kind for name, kind in ATTENTION_WEIGHTS.items()},
        **THREADS,
    },
}
"""Function of the library, without its prefix -> fields of its structure."""
