"""Blocks in training by the kernels with products in bfloat16, beside PyTorch's autocast; every instruction set.

The bound: the norms of errors against float64 are at most twice those of autocast.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from statistics import median

import pytest
import torch
from torch import Tensor, nn

from half_libraries import LIBRARIES, half_library, use
from hrformer.fast.coat import RecomputedBranch, put_on, take_off
from hrformer.fast.x86 import training as native_training
from hrformer.fast.x86.library import NativeLibrary, kernel_threads, recorded_calls
from hrformer.models.blocks import BasicBlock, Bottleneck, TransformerBlock
from hrformer.zoo import create_model
from kernel_accuracy import nan_filled_buffers
from training_blocks import (
    MAPS,
    WINDOWED,
    Results,
    attention_weights,
    feed_forward_training,
    feed_forward_weights,
    plain_feed_forward,
    run_attention,
    run_feed_forward,
    widened,
)


@pytest.fixture(autouse=True, params=LIBRARIES)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> NativeLibrary:
    found = half_library(request.param)
    use(monkeypatch, found)
    return found


@pytest.fixture(autouse=True)
def nan_in_new_tensors() -> Iterator[None]:
    """What a kernel does not write shows."""
    with nan_filled_buffers():
        yield


def autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


def assert_as_autocast(draws: list[tuple[Results, Results, Results]]) -> None:
    """Ours, autocast's and exact results: half of the draws keep the bound, since few numbers may be off by chance."""
    for name in draws[0][2]:
        shares = []
        for ours, plainly, exact in draws:
            true = exact[name]
            if name in native_training.ZERO:  # exactly zero; autograd finds noise
                assert not ours[name].any(), name
            else:
                allowed = 2 * (plainly[name] - true).norm() + 1e-6 * true.norm()
                shares.append(float((ours[name] - true).norm() / allowed))
        assert not shares or median(shares) <= 1, (name, shares)


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "recomputed"])
@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("size", MAPS)
def test_feed_forward_is_as_accurate_as_autocast(
    size: tuple[int, ...], layer_norm: bool, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, channels, hidden, height, width = size
    monkeypatch.setattr(native_training, "STORE_FROM", 1 if stored else 1000)
    draws = []
    for _ in range(5 if batch * height * width > 9 else 15):
        x = torch.randn(batch, channels, height, width)
        weights = feed_forward_weights(channels, hidden, layer_norm=layer_norm)
        with autocast():
            ours, plainly = (run_feed_forward(run, x, weights) for run in (feed_forward_training, plain_feed_forward))
        draws.append((ours, plainly, run_feed_forward(plain_feed_forward, x.double(), widened(weights))))
    assert_as_autocast(draws)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("size", WINDOWED)
def test_attention_is_as_accurate_as_autocast(size: tuple[int, ...], residual: bool) -> None:
    batch, channels, heads, height, width, window = size
    draws = []
    for _ in range(5):
        x, weights = torch.randn(batch, height, width, channels), attention_weights(channels, heads, window)
        with autocast():
            ours, plainly = (
                run_attention(x, weights, heads, window, plain=plain, residual=residual) for plain in (False, True)
            )
        exact = run_attention(x.double(), widened(weights), heads, window, plain=True, residual=residual)
        draws.append((ours, plainly, exact))
    assert_as_autocast(draws)


@pytest.mark.parametrize("threads", [1, 2, 3, 20])
def test_threads_change_rounding_only_and_repeat_themselves(threads: int) -> None:
    """The threads' sums are rounded to bfloat16 nowhere: what differs are statistics, and roundings close to a half."""
    x, weights = torch.randn(2, 18, 9, 8), feed_forward_weights(18, 72)
    tokens, attention = torch.randn(2, 15, 8, 18), attention_weights(18, 1, 7)

    def run(count: int) -> tuple[Results, Results]:
        with kernel_threads(count), autocast():
            return run_feed_forward(feed_forward_training, x, weights), run_attention(tokens, attention, 1, 7)

    for one, two, reference in zip(run(threads), run(threads), run(1), strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)
        largest = max(float(value.abs().max()) for value in one.values())
        for name, value in one.items():
            torch.testing.assert_close(value, reference[name], rtol=0, atol=1e-3 * largest)


def test_nan_spreads() -> None:
    x, tokens = torch.randn(1, 18, 6, 6), torch.randn(1, 14, 14, 18)
    x[0, 3, 2, 2] = tokens[0, 1, 1, 3] = float("nan")
    with autocast():
        results = run_feed_forward(feed_forward_training, x, feed_forward_weights(18, 24))
        attended = run_attention(tokens, attention_weights(18, 1, 7), 1, 7)
    written = [name for name in results if name not in native_training.ZERO]
    assert all(results[name].isnan().all() for name in written if name not in ("y", "x", "layer_bias"))
    assert results["y"].isnan().all()
    assert attended["y"][0, :7, :7].isnan().all()
    assert not attended["y"][0, 7:].isnan().any(), "another window"


def step(made: nn.Module, run: Callable[[nn.Module], Tensor]) -> Results:
    """Output, gradients and buffers after one forward and backward pass."""
    y = run(made)
    (y * torch.linspace(0, 1, y.numel(), dtype=torch.float64).view_as(y)).sum().backward()
    grads = {name: p.grad for name, p in made.named_parameters() if p.grad is not None}
    return {"y": y.detach(), **grads, **{name: b.detach() for name, b in made.named_buffers() if b.is_floating_point()}}


def three_steps(plain: nn.Module, x: Tensor) -> tuple[Results, Results, Results]:
    """By kernels and plainly in autocast, and in float64."""

    def in_autocast(made: nn.Module) -> Tensor:
        with autocast():
            return made(x)

    plain = take_off(plain.train())
    ours = step(put_on(copy.deepcopy(plain)), in_autocast)
    exact = step(copy.deepcopy(plain).double(), lambda made: made(x.double()))
    return ours, step(plain, in_autocast), exact


@pytest.mark.parametrize(
    ("make", "channels"),
    [(lambda: Bottleneck(16, 8), 16), (lambda: BasicBlock(18), 18), (lambda: TransformerBlock(18, 1), 18)],
    ids=["bottleneck", "basic", "transformer"],
)
def test_parts_are_as_accurate_as_autocast(make: Callable[[], nn.Module], channels: int) -> None:
    draws = [
        three_steps(make(), torch.randn(2, channels, 21, 15).contiguous(memory_format=torch.channels_last))
        for _ in range(3)
    ]
    # Gradients that are zero, as of a bias before a batch norm, are nothing but rounding.
    real = [name for name, true in draws[0][2].items() if (draws[0][1][name] - true).norm() < true.norm()]
    assert len(real) > 6
    assert_as_autocast([tuple({name: found[name] for name in real} for found in draw) for draw in draws])


def test_a_network_trains_in_kernels_and_is_as_accurate_as_autocast(library: NativeLibrary) -> None:
    """What the whole network's gradient, taken together, is off."""
    made = create_model("hrformer_nano", "classification", num_classes=7)
    x = torch.randn(4, 3, 64, 64)
    with recorded_calls() as calls:
        ours, plainly, exact = three_steps(made, x)
    ran = {call.name for call in calls if call.kernel._half}
    assert {"feed_forward_training_backward", "attention_training_backward", "batch_norm_training_backward"} <= ran
    weights = [name for name, _ in made.named_parameters()]

    def off(found: Results, names: list[str]) -> float:
        return sum(float((found[name].double() - exact[name]).square().sum()) for name in names) ** 0.5

    assert off(ours, weights) <= 2 * off(plainly, weights)
    assert off(ours, ["y"]) <= 2 * off(plainly, ["y"])


def test_recomputation_gives_the_same_bits() -> None:
    """Outside the autocast that the forward pass ran in."""
    made, x = put_on(TransformerBlock(18, 1).train()), torch.randn(2, 18, 9, 14)
    again, found = copy.deepcopy(made), []
    for block in (RecomputedBranch(made).train(), again):
        leaf = x.clone().requires_grad_()
        with autocast(), recorded_calls() as calls:
            y = block(leaf)
        assert {call.name for call in calls if call.kernel._half} == {"attention_training", "feed_forward_training"}
        y.square().sum().backward()
        found.append(leaf.grad)
    assert torch.equal(*found)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(made.parameters(), again.parameters(), strict=True))


def test_other_autocasts_and_evaluation_take_the_plain_modules() -> None:
    made, x = put_on(TransformerBlock(8, 2).train()), torch.randn(2, 8, 7, 7)
    with recorded_calls() as calls:
        with torch.autocast("cpu", torch.float16):
            made(x)
        with autocast(), torch.no_grad():
            made(x)
        with autocast():
            made.eval()(x)
    assert calls == []
