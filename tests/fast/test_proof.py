"""Programs of runtimes answer only where they answer as their network does, whatever network it is."""

from __future__ import annotations

import copy
import logging
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from hrformer.fast.optimize import FastModel, optimize
from hrformer.fast.proof import FP32_BOUND, DifferenceError, structure_of_same

pytest.importorskip("openvino", reason="needs openvino, from the extra 'fast-cpu'")


class Pair(NamedTuple):
    a: Tensor
    b: Tensor


class Net(nn.Module):
    """A convolution, and what a function makes of its maps and of the input."""

    def __init__(self, function: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.function = nn.Conv2d(3, 4, 3, padding=1), function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.conv(x), x)


def statement(write: Callable[[Tensor], Any]) -> Callable[[Tensor, Tensor], Tensor]:
    """A function whose in-place operation is a statement: its result is not used."""

    def function(y: Tensor, x: Tensor) -> Tensor:
        write(y)
        return y

    return function


def added(y: Tensor) -> None:
    y += 1


def across(y: Tensor, x: Tensor) -> Tensor:
    return y - y.mean(0, keepdim=True)


FAST: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "relu_": statement(F.relu_),
    "relu, in place": statement(lambda y: F.relu(y, inplace=True)),
    "torch.relu_": statement(torch.relu_),
    "add_": statement(lambda y: y.add_(1)),
    "mul_": statement(lambda y: y.mul_(3)),
    "+=": statement(added),
    "dict": lambda y, x: {"out": y},
    "ordered dict": lambda y, x: OrderedDict(b=y, a=y + 1),
    "tuple of one": lambda y, x: (y,),
    "tuple": lambda y, x: (y, x * 2),
    "list of one": lambda y, x: [y],
    "named tuple": lambda y, x: Pair(y, y * 2),
    "nested": lambda y, x: {"a": (y, y + 1), "b": [y * 2]},
    "dtype": lambda y, x: y if x.dtype == torch.float32 else y * 2,
    "is a tensor": lambda y, x: y if isinstance(x, Tensor) else y * 2,
    "is_cuda": lambda y, x: y * 2 if x.is_cuda else y,
    "requires_grad": lambda y, x: y * 2 if x.requires_grad else y,
    "is contiguous": lambda y, x: y if x.is_contiguous() else y * 2,
    "double": lambda y, x: y.to(torch.float64),
    "half": lambda y, x: (y * 0 + 0.5).to(torch.float16),
    "through integers": lambda y, x: (10 * y).to(torch.int32).to(torch.float32),
    "not a number": lambda y, x: y * (x[:, :1] == x[:, :1]),
    "the other way round": lambda y, x: 1 - 2 / (y * y + 1),
}
"""What a program gives."""
PLAIN: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "written through a view": statement(lambda y: y.permute(0, 2, 3, 1).add_(1)),
    "its input changed": lambda y, x: y + x.mul_(0.5).sum(1, keepdim=True),
    "mean of the batch": across,
    "batch norm without statistics": lambda y, x: F.batch_norm(y, None, None, training=True),
    "softmax over the batch": lambda y, x: y.softmax(0),
    "length of the batch": lambda y, x: y * x.shape[0],
    "reversed batch": lambda y, x: y.flip(0),
    "longer batch": lambda y, x: torch.cat([y, 2 * y], 0),
    "sum of the batch": lambda y, x: y.sum(0, keepdim=True),
    "batch at the end": lambda y, x: y.permute(1, 2, 3, 0),
    "no batch": lambda y, x: y.sum(),
    "with a number": lambda y, x: (y, 3),
    "branch on values": lambda y, x: y if x.sum() > 0 else y * 2,
    "number of a value": lambda y, x: y * float(x.max()),
    "random": lambda y, x: y + torch.rand(1),
}
"""What no program gives."""


def assert_equal(found: Any, expected: Any) -> None:
    """The same containers and types; the same values, by rounding."""
    (mine, structure), (theirs, wanted) = tree_flatten(found), tree_flatten(expected)
    assert (structure, type(found)) == (wanted, type(expected))
    assert list(map(type, mine)) == list(map(type, theirs))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, equal_nan=True)


def called(fast: nn.Module, count: int = 3) -> Any:
    """The result for one batch of two pictures, the last of some calls: programs answer the third."""
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    return [fast(x) for _ in range(count)][-1]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("name", [*FAST, *PLAIN])
@torch.no_grad()
def test_every_call_equals_the_networks(name: str, backend: str) -> None:
    pytest.importorskip(backend, reason=f"needs {backend}, from the extra 'fast-cpu'")
    network = Net((FAST | PLAIN)[name]).eval()
    fast = optimize(network, backend=backend, cache=False)
    for call, batch in enumerate([2, 2, 2, 1, 1, 3, 2]):
        # A warm-up with zeros shows nothing of what happens across pictures.
        x = torch.zeros(batch, 3, 16, 16) if call < 3 else torch.randn(batch, 3, 16, 16)
        mine, theirs = x.clone(), x.clone()
        torch.manual_seed(call)
        found = fast(mine)
        torch.manual_seed(call)
        assert_equal(found, network(theirs))
        assert torch.equal(mine, theirs)
    if backend == "openvino":
        assert fast.backend == ("openvino" if name in FAST else "reference")
        assert bool(fast.reason) == (name in PLAIN)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_so(value: float) -> None:
    network = Net(lambda y, x: F.relu(y)).eval()
    fast = optimize(network, backend="openvino", cache=False)
    called(fast)
    x = torch.randn(2, 3, 16, 16)
    x[1, 2, 3, 4] = value
    assert_equal(fast(x), network(x).detach())
    assert fast.backend == "openvino"


def test_a_branch_on_gradients_is_seen_when_it_comes() -> None:
    network = Net(FAST["requires_grad"]).eval()
    fast = optimize(network, backend="openvino", cache=False)
    called(fast)
    x = torch.randn(2, 3, 16, 16, requires_grad=True)
    assert_equal(fast(x), network(x).detach())


CHANGES: dict[str, Callable[[FastModel], FastModel]] = {
    "copy": copy.deepcopy,
    "pickle": lambda fast: pickle.loads(pickle.dumps(fast)),
    "weights": lambda fast: fast.load_state_dict(fast.state_dict()) and fast,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_difference_is_for_good_until_copied_or_loaded(change: Callable[[FastModel], FastModel], caplog) -> None:
    fast = optimize(Net(across), backend="openvino", cache=False)
    with caplog.at_level(logging.WARNING, "hrformer"):
        called(fast, 6)
    (record,) = caplog.records
    assert "the plain network runs from now on: output 0 differs by" in record.message
    assert fast.reason.startswith("openvino fails: output 0 differs by")
    again = change(fast)
    assert again.backend == "openvino"
    called(again, 6)
    assert again.backend == "reference"


SAME: dict[str, tuple[Callable[[Tensor], list[Tensor]], Callable[[Tensor], Any]]] = {
    "rounding": (lambda x: [x * (1 + FP32_BOUND / 2)], lambda x: x),
    "not a number": (lambda x: [x / 0, x * torch.nan], lambda x: (x / 0, x * torch.nan)),
    "integers": (lambda x: [x.long()], lambda x: {"a": x.long()}),
    "nothing": (lambda x: [x[:0]], lambda x: [x[:0]]),
    "zeros": (lambda x: [x * 0], lambda x: [x * 0]),
}
OTHER: dict[str, tuple[Callable[[Tensor], list[Tensor]], Callable[[Tensor], Any]]] = {
    "output 1 differs by 1.0e-03, where the largest is 1.0e+00": (
        lambda x: [x, x * 0 + 0.999],
        lambda x: (x, torch.ones_like(x)),
    ),
    "output 0 differs by nan": (lambda x: [x * torch.nan], lambda x: x),
    "output 0 is torch.float64 (2, 3, 4, 5), the program's torch.float32 (2, 3, 4, 5)": (
        lambda x: [x],
        lambda x: x.double(),
    ),
    "output 0 is torch.float32 (3, 4, 5), the program's torch.float32 (2, 3, 4, 5)": (lambda x: [x], lambda x: x[0]),
    "output 1 is of type int, which no program returns": (lambda x: [x, x], lambda x: [x, 3]),
    "output 0 is of type Parameter": (lambda x: [x], nn.Parameter),
    "2 outputs are 1": (lambda x: [x], lambda x: {"a": x, "b": x}),
    "the network writes to its input": (lambda x: [x + 1], lambda x: x.add_(1)),
    "the network looks at the values": (lambda x: [x], lambda x: x if x.min() < 5 else 2 * x),
}


@pytest.mark.parametrize("scale", [0.0, 1.0, -1.0])
@pytest.mark.parametrize(("run", "network"), SAME.values(), ids=SAME)
def test_the_same_has_the_networks_structure(run: Any, network: Any, scale: float) -> None:
    x = scale * torch.ones(2, 3, 4, 5)
    assert structure_of_same(run, network, x, FP32_BOUND) == tree_flatten(network(x))[1]


@pytest.mark.parametrize("scale", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("reason", OTHER)
def test_a_difference_is_told(reason: str, scale: float) -> None:
    run, network = OTHER[reason]
    with pytest.raises(DifferenceError, match=re.escape(reason)):
        structure_of_same(run, network, scale * torch.ones(2, 3, 4, 5), FP32_BOUND)


def test_a_proof_draws_no_numbers_of_the_callers() -> None:
    before = torch.get_rng_state()
    structure_of_same(lambda x: [x], lambda x: x + 0 * torch.rand(1), torch.ones(1, 3, 4, 5), FP32_BOUND)
    assert torch.equal(torch.get_rng_state(), before)
