"""An OpenVINO graph of a PyTorch module, made by running its ``forward`` once on stand-ins for tensors.

Each stand-in holds a node of the graph. PyTorch hands every function that is called with one to
``__torch_function__`` (documented in "Extending PyTorch"), and the table at the end of this file says which node
answers.
For the networks of this package that is complete and takes a second; OpenVINO's own converter, which knows every
operation, traces first and takes half a minute for the same networks, so it is left to foreign modules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


class UnknownOperationError(NotImplementedError):
    """The module calls a function for which this file has no node."""


def _operator(name: str) -> Callable[..., Any]:
    return lambda *args: _call(name, args, {})


class Traced:
    """Stand-in for a float32 tensor of known shape on the CPU: ``node`` is an output of an OpenVINO node.

    It passes for a tensor and answers what is listed here; whatever else is asked of it is an unknown operation.
    """

    dtype = torch.float32
    device = torch.device("cpu")
    is_cuda = False

    def __init__(self, node: Any) -> None:
        self.node = node

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return Tensor

    @property
    def shape(self) -> torch.Size:
        return torch.Size(self.node.get_shape())

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def dim(self) -> int:
        return self.ndim

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return _call(getattr(func, "__name__", str(func)), args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if _bare(name).removesuffix("_") not in _FUNCTIONS:
            raise UnknownOperationError(f"no answer for a tensor's {name!r}")
        return lambda *args, **kwargs: _call(name, (self, *args), kwargs)

    def __getitem__(self, index: Any) -> Traced:
        return _slice(self, index)

    __add__ = __radd__ = _operator("add")
    __sub__ = _operator("sub")
    __mul__ = __rmul__ = _operator("mul")
    __truediv__ = _operator("div")
    __iadd__, __isub__, __imul__, __itruediv__ = map(_operator, ("add_", "sub_", "mul_", "div_"))
    # Unknown operations, which Python would answer by itself.
    __eq__, __ne__, __bool__ = map(_operator, ("eq", "ne", "bool"))


def build_graph(module: nn.Module, shape: Sequence[int]) -> Any:
    """The ``openvino.Model`` that computes ``module`` for inputs of ``shape`` (B, C, H, W), float32.

    Args:
        module: in evaluation mode; returns a tensor, or a mapping or sequence of tensors, which become the outputs in
            their order.

    Raises:
        UnknownOperationError: the module needs a function that this file does not know.
    """
    import openvino as ov

    parameter = _ops().parameter(list(shape), np.float32, name="image")
    with torch.no_grad():
        result = module(Traced(parameter.output(0)))
    outputs = tree_leaves(result)
    if not all(type(output) is Traced for output in outputs):
        raise UnknownOperationError(f"{type(module).__name__} returns something else than tensors")
    return ov.Model([output.node for output in outputs], [parameter], type(module).__name__)


def _ops() -> Any:
    import openvino.opset13 as ops

    return ops


def _bare(name: str) -> str:
    return name.removeprefix("__").removesuffix("__")


def _call(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """A function of torch; one whose name ends in "_" leaves its result in its first argument."""
    name = _bare(name)
    known = _FUNCTIONS.get(name.removesuffix("_"))
    if known is None:
        raise UnknownOperationError(f"no node for torch's {name!r}")
    result = known(*args, **kwargs)
    if not name.endswith("_"):
        return result
    args[0].node = result.node
    return args[0]


def _node(value: Any) -> Any:
    """A node for a stand-in, a weight or a number."""
    if isinstance(value, Traced):
        return value.node
    if isinstance(value, Tensor):
        return _ops().constant(value.detach().float().cpu().contiguous().numpy())
    return _ops().constant(np.float32(value))


def _integers(values: Any) -> Any:
    return _ops().constant(np.array(values, np.int64))


def _wrap(node: Any) -> Traced:
    return Traced(node.output(0))


def _binary(name: str, *settings: Any) -> Callable[[Any, Any], Traced]:
    return lambda a, b: _wrap(getattr(_ops(), name)(_node(a), _node(b), *settings))


def _relu(x: Traced, inplace: bool = False) -> Any:
    return _call("relu_", (x,), {}) if inplace else _wrap(_ops().relu(x.node))


def _to(x: Traced, *args: Any, **kwargs: Any) -> Traced:
    if any(value not in (torch.float32, torch.device("cpu"), "cpu") for value in (*args, *kwargs.values())):
        raise UnknownOperationError(f"no node for 'to' with {args} {kwargs}")
    return x


def _pair(value: Any) -> list[int]:
    return [int(value)] * 2 if isinstance(value, int) else [int(v) for v in value]


def _conv2d(
    x: Traced, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Traced:
    if isinstance(padding, str):
        raise UnknownOperationError(f"no node for conv2d with padding {padding!r}")
    geometry = (_pair(stride), _pair(padding), _pair(padding), _pair(dilation))
    if groups == 1:
        node = _ops().convolution(x.node, _node(weight), *geometry)
    else:
        grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        node = _ops().group_convolution(x.node, _node(grouped), *geometry)
    if bias is not None:
        node = _ops().add(node, _node(bias.view(1, -1, 1, 1)))
    return _wrap(node)


def _linear(x: Traced, weight: Tensor, bias: Tensor | None = None) -> Traced:
    node = _ops().matmul(x.node, _node(weight), False, True)
    return _wrap(node if bias is None else _ops().add(node, _node(bias)))


def _batch_norm(
    x: Traced,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Traced:
    if training or mean is None or var is None:
        raise UnknownOperationError("no node for batch norm without running statistics")
    scale = torch.rsqrt(var.double() + eps) * (1.0 if weight is None else weight.double())
    shift = (0.0 if bias is None else bias.double()) - mean.double() * scale
    scaled = _ops().multiply(x.node, _node(scale.view(1, -1, 1, 1)))
    return _wrap(_ops().add(scaled, _node(shift.view(1, -1, 1, 1))))


def _dropout(x: Traced, p: float = 0.5, training: bool = True, inplace: bool = False) -> Traced:
    if training:
        raise UnknownOperationError("no node for dropout in training mode")
    return x


def _gelu(x: Traced, approximate: str = "none") -> Traced:
    return _wrap(_ops().gelu(x.node, "erf" if approximate == "none" else "tanh"))


def _reduce(name: str) -> Callable[..., Traced]:
    def reduce(x: Traced, dim: Any = None, keepdim: bool = False) -> Traced:
        axes = list(range(x.ndim)) if dim is None else [dim] if isinstance(dim, int) else list(dim)
        return _wrap(getattr(_ops(), name)(x.node, _integers(axes), keepdim))

    return reduce


def _vector_norm(x: Traced, ord: float = 2, dim: Any = None, keepdim: bool = False) -> Traced:
    if ord != 2:
        raise UnknownOperationError(f"no node for the norm of order {ord}")
    return _reduce("reduce_l2")(x, dim, keepdim)


def _softmax(x: Traced, dim: int, dtype: Any = None, _stacklevel: int = 3) -> Traced:
    if dtype not in (None, torch.float32):
        raise UnknownOperationError(f"no node for softmax in {dtype}")
    return _wrap(_ops().softmax(x.node, dim % x.ndim))


def _permute(x: Traced, *dims: Any) -> Traced:
    order = dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims
    return _wrap(_ops().transpose(x.node, _integers(order)))


def _transpose(x: Traced, first: int, second: int) -> Traced:
    order = list(range(x.ndim))
    order[first], order[second] = order[second], order[first]
    return _permute(x, order)


def _reshape(x: Traced, *shape: Any) -> Traced:
    sides = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
    return _wrap(_ops().reshape(x.node, _integers(sides), False))


def _flatten(x: Traced, start: int = 0, end: int = -1) -> Traced:
    start, end = start % x.ndim, end % x.ndim
    return _reshape(x, [*x.shape[:start], -1, *x.shape[end + 1 :]])


def _unbind(x: Traced, dim: int = 0) -> tuple[Traced, ...]:
    parts = _ops().split(x.node, _integers(dim), x.shape[dim])
    rest = [side for axis, side in enumerate(x.shape) if axis != dim % x.ndim]
    return tuple(_reshape(Traced(part), rest) for part in parts.outputs())


def _pad(x: Traced, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Traced:
    if mode != "constant":
        raise UnknownOperationError(f"no node for padding {mode!r}")
    before, after = [0] * x.ndim, [0] * x.ndim
    for pair in range(len(pad) // 2):
        before[-1 - pair], after[-1 - pair] = pad[2 * pair], pad[2 * pair + 1]
    return _wrap(_ops().pad(x.node, _integers(before), _integers(after), "constant", _node(value or 0.0)))


def _slice(x: Traced, index: Any) -> Traced:
    items = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(item, slice) and item.step in (None, 1) for item in items):
        raise UnknownOperationError(f"no node for the index {index!r}")
    axes = [axis for axis, item in enumerate(items) if item != slice(None)]
    if not axes:
        return x
    bounds = [items[axis].indices(x.shape[axis]) for axis in axes]
    starts, stops = [b[0] for b in bounds], [b[1] for b in bounds]
    return _wrap(_ops().slice(x.node, _integers(starts), _integers(stops), _integers([1] * len(axes)), _integers(axes)))


# torch's mode and align_corners -> OpenVINO's mode and way to place the samples.
_RESIZING = {
    ("nearest", False): ("nearest", "asymmetric"),
    ("bilinear", False): ("linear_onnx", "half_pixel"),
    ("bilinear", True): ("linear_onnx", "align_corners"),
}


def _interpolate(
    x: Traced,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: Any = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Traced:
    if antialias or (mode, bool(align_corners)) not in _RESIZING:
        raise UnknownOperationError(f"no node for resizing {mode!r}")
    kind, placing = _RESIZING[mode, bool(align_corners)]
    if size is None:
        factors = [scale_factor] * 2 if isinstance(scale_factor, int | float) else list(scale_factor)
        if any(factor != int(factor) for factor in factors):
            raise UnknownOperationError(f"no node for resizing by {scale_factor}")
        size = [side * int(factor) for side, factor in zip(x.shape[-2:], factors, strict=True)]
    target, settings = _integers([int(side) for side in size]), {"nearest_mode": "floor", "axes": _integers([2, 3])}
    return _wrap(_ops().interpolate(x.node, target, kind, "sizes", coordinate_transformation_mode=placing, **settings))


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": _binary("add"),
    "sub": _binary("subtract"),
    "mul": _binary("multiply"),
    "div": _binary("divide"),
    "truediv": _binary("divide"),
    "conv2d": _conv2d,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "dropout": _dropout,
    "dropout2d": _dropout,
    "gelu": _gelu,
    "relu": _relu,
    "rsqrt": lambda x: _wrap(_ops().power(x.node, _node(-0.5))),
    "sum": _reduce("reduce_sum"),
    "mean": _reduce("reduce_mean"),
    "linalg_vector_norm": _vector_norm,
    "matmul": _binary("matmul", False, False),
    "softmax": _softmax,
    "permute": _permute,
    "transpose": _transpose,
    "reshape": _reshape,
    "view": _reshape,
    "flatten": _flatten,
    "unsqueeze": lambda x, dim: _wrap(_ops().unsqueeze(x.node, _integers(dim))),
    "unbind": _unbind,
    "cat": lambda xs, dim=0: _wrap(_ops().concat([_node(x) for x in xs], dim)),
    "pad": _pad,
    "interpolate": _interpolate,
    "contiguous": lambda x, memory_format=None: x,
    "to": _to,
}
