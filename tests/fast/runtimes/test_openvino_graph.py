"""Graphs built by running a module on stand-ins: every function against PyTorch, unknown ones refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("openvino", reason="needs openvino, from the extra 'fast-cpu'")

from hrformer.fast.runtimes.openvino import openvino_core
from hrformer.fast.runtimes.openvino_graph import UnknownOperationError, build_graph


class Calls(nn.Module):
    """A module whose forward is one function."""

    def __init__(self, function: Callable[[Tensor], Tensor | tuple[Tensor, ...] | dict[str, Tensor]]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...] | dict[str, Tensor]:
        return self.function(x)


def run(module: nn.Module, x: Tensor) -> list[Tensor]:
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    program = openvino_core().compile_model(build_graph(module, x.shape), "CPU", settings)
    return [torch.from_numpy(value.copy()) for value in program({0: x.numpy()}).values()]


def in_place(y: Tensor) -> Tensor:
    other = y
    y += 1
    y.mul_(0.7)
    F.relu_(y)
    y -= 0.5
    F.relu(y, inplace=True)
    return other


def is_plain(x: Tensor) -> bool:
    return isinstance(x, Tensor) and x.dtype == torch.float32 and x.device.type == "cpu" and not x.is_cuda


WEIGHT = torch.linspace(-1, 1, 4 * 6).view(4, 6)
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "numbers on both sides": lambda x: (2 * x + 1) / 4 - 0.5,
    "tensors on both sides": lambda x: torch.ones(6, 1, 1) * x + torch.full((1,), 0.25),
    "activations": lambda x: F.gelu(F.relu(x) - 0.3),
    "tanh gelu": lambda x: F.gelu(x, approximate="tanh"),
    "linear": lambda x: F.linear(x.permute(0, 2, 3, 1), WEIGHT, WEIGHT[:, 0]),
    "grouped convolution": lambda x: F.conv2d(x, WEIGHT.view(6, 4)[:, :1, None, None], stride=2, groups=6),
    "batch norm": lambda x: F.batch_norm(x, WEIGHT[0], WEIGHT[3].abs() + 0.1, WEIGHT[1], WEIGHT[2], eps=1e-3),
    "sums": lambda x: x.sum(1, keepdim=True) + x.mean((2, 3), keepdim=True) + x.sum(),
    "lengths": lambda x: torch.linalg.vector_norm(x, dim=1, keepdim=True),
    "root": lambda x: torch.rsqrt(x * x + 1),
    "attention": lambda x: torch.matmul(x, x.transpose(-1, -2)).softmax(-1),
    "reshaping": lambda x: x.view(1, 2, 3, -1).flatten(1, 2).unsqueeze(3).reshape(6, 35),
    "parts": lambda x: sum(part * (i + 1) for i, part in enumerate(x.unbind(1))),
    "negative axis": lambda x: torch.cat([part * (i + 1) for i, part in enumerate(x.unbind(-1))], -1),
    "padding and cropping": lambda x: F.pad(x, (1, 2, 0, 3), value=0.5)[:, 1:, 1:-2, 2:],
    "nearest": lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"),
    "bilinear": lambda x: F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False),
    "bilinear to a size": lambda x: F.interpolate(x, size=[9, 4], mode="bilinear", align_corners=False),
    "aligned corners": lambda x: F.interpolate(x, size=[9, 13], mode="bilinear", align_corners=True),
    "in place": lambda x: in_place(x * 1.0),
    "what it is": lambda x: x * 1.0 if is_plain(x) else x * 2.0,
    "softmax of its type": lambda x: F.softmax(x, 1, dtype=x.dtype).to(torch.float32).to("cpu"),
    "nothing": lambda x: F.dropout(x.contiguous(), 0.5, False) * 1.0,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_equals_torch(name: str) -> None:
    x = torch.randn(1, 6, 5, 7)
    expected = FUNCTIONS[name](x)
    (found,) = run(Calls(FUNCTIONS[name]), x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)


def test_several_outputs_keep_their_order() -> None:
    x = torch.randn(1, 2, 3, 4)
    found = run(Calls(lambda x: {"b": x + 1, "a": F.relu(x)}), x)
    assert [tuple(y.shape) for y in found] == [tuple(x.shape)] * 2
    assert torch.equal(found[0], x + 1)
    assert torch.equal(found[1], F.relu(x))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.erfinv(x),
        lambda x: F.dropout(x, 0.5, True),
        lambda x: F.pad(x, (1, 1), mode="reflect"),
        lambda x: x[:, 0],
        lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear"),
        lambda x: F.interpolate(x, size=[4, 4], mode="bicubic"),
        lambda x: F.interpolate(x, size=[2, 2], mode="bilinear", antialias=True),
        lambda x: F.batch_norm(x, None, None, training=True),
        lambda x: torch.linalg.vector_norm(x, 1, 1),
        lambda x: x.softmax(1, dtype=torch.float64),
        lambda x: x.to(torch.float64),
        lambda x: x.to(dtype=torch.int32),
        lambda x: x.tanh_(),
        lambda x: x * 2 if x.requires_grad else x,
        lambda x: x * 2 if hasattr(x, "names") else x,
        lambda x: x * (x == x),
        lambda x: x * (x != 0),
        lambda x: x if x else x * 2,
        lambda x: 3,
    ],
)
def test_unknown_functions_are_refused(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(UnknownOperationError):
        build_graph(Calls(function), (1, 2, 4, 4))
