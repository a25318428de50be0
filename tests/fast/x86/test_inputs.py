"""Compiled kernels given inputs that do not fit, or under torch's global settings: as the plain network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

from hrformer.fast.optimize import FastModel, optimize
from hrformer.fast.x86.library import find_library
from hrformer.zoo import create_model

needs_kernels = pytest.mark.skipif(find_library()[0] is None, reason=f"needs compiled kernels: {find_library()[1]}")


def pose_model(**settings: int) -> nn.Module:
    return create_model("hrformer_nano", "pose", num_keypoints=3, **settings).eval()


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    torch.manual_seed(0)
    return pose_model()


@pytest.fixture(scope="module")
def shared(plain: nn.Module) -> FastModel:
    """One for all tests that show it a size of their own: each size is new to it, and then recorded."""
    fast = optimize(plain, backend="native")
    for _ in range(3):
        fast(torch.rand(1, 3, 64, 48))
    return fast


def outcome(call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor | tuple[type[Exception], str]:
    """What a call returns, or its error."""
    try:
        with torch.no_grad():
            return call(x)
    except (RuntimeError, ValueError, IndexError, NotImplementedError) as error:
        return type(error), str(error)


MISFITS: dict[str, Callable[[], Tensor]] = {
    "one channel": lambda: torch.rand(1, 1, 64, 48),
    "four channels": lambda: torch.rand(2, 4, 64, 48),
    "no batch": lambda: torch.rand(3, 64, 48),
    "five dimensions": lambda: torch.rand(1, 1, 3, 64, 48),
    "channels last": lambda: torch.rand(1, 64, 48, 3),
    "float64": lambda: torch.rand(1, 3, 64, 48, dtype=torch.float64),
    "float16": lambda: torch.rand(1, 3, 64, 48).half(),
    "bytes": lambda: torch.zeros(1, 3, 64, 48, dtype=torch.uint8),
    "complex": lambda: torch.rand(1, 3, 64, 48, dtype=torch.complex64),
    "no rows": lambda: torch.rand(1, 3, 0, 48),
    "sparse": lambda: torch.rand(1, 3, 64, 48).to_sparse(),
}


@needs_kernels
@pytest.mark.parametrize("kind", MISFITS)
def test_what_does_not_fit_gets_the_plain_networks_error(kind: str, plain: nn.Module, shared: FastModel) -> None:
    """A recording of another input is there."""
    x = MISFITS[kind]()
    wanted = outcome(plain, x)
    assert isinstance(wanted, tuple)
    assert outcome(shared, x) == wanted


@needs_kernels
def test_a_network_of_many_channels_refuses_few() -> None:
    fast = optimize(pose_model(in_chans=256), backend="native")
    with pytest.raises(RuntimeError, match="256 channels, but got 1 channels"):
        fast(torch.rand(1, 1, 64, 48))


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "negated": lambda x: torch._neg_view(-x),
    "expanded": lambda x: x[:1].expand(2, -1, -1, -1),
    "cut out": lambda x: torch.nn.functional.pad(x, (3, 2, 1, 4))[:, :, 1:-4, 3:-2],
    "turned": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "behind an offset": lambda x: torch.cat([x, x])[2:],
    "upside down": lambda x: x.flip(2).flip(2),
}


@needs_kernels
@pytest.mark.parametrize(("width", "kind"), list(zip(range(48, 72, 4), VIEWS, strict=True)))
def test_views_of_any_kind_give_the_plain_networks_result(
    width: int, kind: str, plain: nn.Module, shared: FastModel
) -> None:
    x = VIEWS[kind](torch.rand(2, 3, 64, width))
    with torch.no_grad():
        wanted = plain(x)
        for _ in range(3):
            torch.testing.assert_close(shared(x), wanted, rtol=1e-4, atol=1e-6)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    before = torch.get_default_device()
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(before)


STATES: dict[str, Callable[[ExitStack], object]] = {
    "float64": lambda stack: stack.enter_context(default_dtype(torch.float64)),
    "bfloat16": lambda stack: stack.enter_context(default_dtype(torch.bfloat16)),
    "float16": lambda stack: stack.enter_context(default_dtype(torch.float16)),
    "device context": lambda stack: stack.enter_context(torch.device("meta")),
    "default device": lambda stack: stack.enter_context(default_device("meta")),
    "inference mode": lambda stack: stack.enter_context(torch.inference_mode()),
}


@pytest.fixture(scope="module")
def chosen(plain: nn.Module) -> FastModel:
    """Whatever runs here, for tests that show it a size of their own."""
    return optimize(plain)


@pytest.mark.parametrize("when", ["made under it", "called under it"])
@pytest.mark.parametrize("size", [(64, 48), (70, 45)])
@pytest.mark.parametrize(("more", "state"), list(zip(range(0, 24, 4), STATES, strict=True)))
def test_inference_does_not_depend_on_global_state(
    more: int, state: str, size: tuple[int, int], when: str, plain: nn.Module, chosen: FastModel
) -> None:
    x = torch.rand(2, 3, size[0], size[1] + more)
    with torch.no_grad():
        wanted = plain(x)
    with ExitStack() as stack:
        STATES[state](stack)
        fast = optimize(plain) if when == "made under it" else chosen
        results = [fast(x) for _ in range(4)]
    for result in results:
        assert (result.dtype, result.device.type) == (torch.float32, "cpu")
        torch.testing.assert_close(result, wanted, rtol=1e-4, atol=1e-6)


def tangent(call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(call(forward_ad.make_dual(x, torch.ones_like(x)))).tangent


def shape_of_fake(call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with FakeTensorMode(allow_non_fake_inputs=True):
        return torch.empty(call(x).shape)


WATCHED: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]] = {
    "tangent": tangent,
    "jvp": lambda call, x: torch.func.jvp(call, (x,), (torch.ones_like(x),))[1],
    "tracing": lambda call, x: torch.jit.trace(call, x)(x),
    "fake tensors": lambda call, x: torch.tensor(shape_of_fake(call, x).shape).float(),
}


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace.*:DeprecationWarning")
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("watch", WATCHED.values(), ids=WATCHED)
def test_what_watches_operations_sees_the_plain_networks(watch: Any, first: bool) -> None:
    model, x = create_model("hrformer_nano", "classification", num_classes=3).eval(), torch.rand(2, 3, 64, 48)
    fast = copy.deepcopy(optimize(model))
    for _ in range(0 if first else 3):
        fast(x)
    found, expected = watch(fast, x), watch(model, x)
    torch.testing.assert_close(found.detach(), expected.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("calls", [0, 3])
@pytest.mark.parametrize("task", ["pose", None])
def test_autocast_sets_the_precision_also_once_a_recording_exists(task: str | None, calls: int) -> None:
    model, x = create_model("hrformer_nano", task).eval(), torch.rand(2, 3, 64, 48)
    fast = optimize(model)
    for _ in range(calls):
        fast(x)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found, expected = fast(x), model(x)
    for one, other in zip(*([y] if isinstance(y, Tensor) else y.values() for y in (found, expected)), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("state", ["float64", "bfloat16", "device context", "default device"])
def test_training_does_not_depend_on_global_state(state: str) -> None:
    model, x = create_model("hrformer_nano", "pose", num_keypoints=3).train(), torch.rand(2, 3, 64, 48)
    parameters = list(model.parameters())
    weights = {name: value.clone() for name, value in model.state_dict().items()}

    def step() -> list[Tensor]:
        model.load_state_dict(weights)
        return list(torch.autograd.grad(model(x).square().mean(), parameters, allow_unused=True))

    wanted = step()
    with ExitStack() as stack:
        STATES[state](stack)
        found = step()
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.equal(ours, theirs)
