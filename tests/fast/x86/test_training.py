"""Blocks in training by the compiled kernels, beside the plain modules.

Outputs, gradients and statistics against float64.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from hrformer.fast.x86 import training as native_training
from hrformer.fast.x86.build import FOLDER_SWITCH, INSTRUCTION_SETS
from hrformer.fast.x86.library import kernel_threads
from hrformer.fast.x86.training import (
    AttentionWeights,
    FeedForwardWeights,
    training_refusal,
    window_attention_training,
)
from kernel_accuracy import compiled_library, nan_filled_buffers
from training_blocks import (
    MAPS,
    WINDOWED,
    Results,
    Weights,
    attention_weights,
    feed_forward_training,
    feed_forward_weights,
    plain_feed_forward,
    run_attention,
    run_feed_forward,
    running_statistics,
    widened,
)


@pytest.fixture(autouse=True, params=INSTRUCTION_SETS)
def runs_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every compiled file that this processor can run."""
    found = compiled_library(request.param), ""
    monkeypatch.setattr(native_training, "find_library", lambda: found)
    return str(request.param)


@pytest.fixture(autouse=True)
def nan_in_new_tensors() -> Iterator[None]:
    """What a kernel does not write shows."""
    with nan_filled_buffers():
        yield


class Watched(Tensor):
    """A subclass may do anything with an operation."""


def assert_accurate(ours: Results, plainly: Results, exact: Results) -> None:
    """Norms of errors: at most twice the plain modules' own, and eight roundings of every number."""
    assert ours.keys() == exact.keys()
    # Compiled in another way, sums round in another way, of which the batch norm of a few cells makes much: there only
    # what is wrong altogether shows.
    slack = 100 if FOLDER_SWITCH in os.environ else 1
    for name, true in exact.items():
        assert ours[name].shape == true.shape
        if name in native_training.ZERO:  # exactly zero; autograd finds noise
            assert not ours[name].any(), name
        else:
            # A shift of the layer norm before a batch norm changes nothing either: its gradient is all rounding.
            size = max(true.norm(), exact["layer_weight"].norm()) if name == "layer_bias" else true.norm()
            allowed = 2 * (plainly[name] - true).norm() + 1e-6 * size
            assert (ours[name] - true).norm() <= slack * allowed, name


def assert_same_bits(first: Results, second: Results) -> None:
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "recomputed"])
@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("size", MAPS)
def test_feed_forward_is_accurate(
    size: tuple[int, ...], layer_norm: bool, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, channels, hidden, height, width = size
    monkeypatch.setattr(native_training, "STORE_FROM", 1 if stored else 1000)
    x = torch.randn(batch, channels, height, width)
    weights = feed_forward_weights(channels, hidden, layer_norm=layer_norm)
    assert training_refusal(x, weights) is None
    ours = run_feed_forward(feed_forward_training, x, weights)
    plainly = run_feed_forward(plain_feed_forward, x, weights)
    assert_accurate(ours, plainly, run_feed_forward(plain_feed_forward, x.double(), widened(weights)))


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("size", [MAPS[0], MAPS[1]])
def test_feed_forward_with_its_input_added_is_accurate(size: tuple[int, ...], layer_norm: bool) -> None:
    batch, channels, hidden, height, width = size
    x = torch.randn(batch, channels, height, width)
    weights = feed_forward_weights(channels, hidden, layer_norm=layer_norm)
    added = partial(feed_forward_training, residual=True), partial(plain_feed_forward, residual=True)
    ours, plainly = (run_feed_forward(run, x, weights) for run in added)
    assert_accurate(ours, plainly, run_feed_forward(added[1], x.double(), widened(weights)))


@pytest.mark.parametrize("size", WINDOWED[:3])
def test_attention_with_its_input_added_is_accurate(size: tuple[int, ...]) -> None:
    batch, channels, heads, height, width, window = size
    x, weights = torch.randn(batch, height, width, channels), attention_weights(channels, heads, window)
    ours, plainly = (run_attention(x, weights, heads, window, plain=p, residual=True) for p in (False, True))
    exact = run_attention(x.double(), widened(weights), heads, window, plain=True, residual=True)
    assert_accurate(ours, plainly, exact)


def test_statistics_far_from_zero_are_accurate() -> None:
    """Channels whose mean is a thousand deviations: sums of squares would lose all digits."""
    weights = feed_forward_weights(16, 32, layer_norm=False)
    x = torch.randn(2, 16, 12, 12) + 1000
    ours = run_feed_forward(feed_forward_training, x, weights)
    plainly = run_feed_forward(plain_feed_forward, x, weights)
    assert_accurate(ours, plainly, run_feed_forward(plain_feed_forward, x.double(), widened(weights)))


@pytest.mark.parametrize("offset", [1e3, 1e4])
def test_tokens_far_from_zero_are_normalised_accurately(offset: float) -> None:
    """Lanes of a vector beyond the 18 channels take no part."""
    x = torch.randn(2, 14, 14, 18) + offset
    weights = attention_weights(18, 1, 7)
    ours = run_attention(x, weights, 1, 7)
    exact = run_attention(x.double(), widened(weights), 1, 7, plain=True)
    assert_accurate(ours, run_attention(x, weights, 1, 7, plain=True), exact)
    x, weights = x.permute(0, 3, 1, 2), feed_forward_weights(18, 72)
    ours, plainly = (run_feed_forward(run, x, weights) for run in (feed_forward_training, plain_feed_forward))
    assert_accurate(ours, plainly, run_feed_forward(plain_feed_forward, x.double(), widened(weights)))


def test_one_channel_is_its_own_mean() -> None:
    x = torch.randn(2, 14, 14, 1)
    assert all(r.isfinite().all() for r in run_attention(x, attention_weights(1, 1, 7), 1, 7).values())
    x, weights = x.permute(0, 3, 1, 2), feed_forward_weights(1, 1)
    assert all(r.isfinite().all() for r in run_feed_forward(feed_forward_training, x, weights).values())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", WINDOWED)
def test_attention_is_accurate(size: tuple[int, ...], bias: bool) -> None:
    """Over four draws together: the few numbers of one small map's gradient may be off by chance."""
    batch, channels, heads, height, width, window = size
    draws = []
    for _ in range(4):
        x, weights = torch.randn(batch, height, width, channels), attention_weights(channels, heads, window, bias=bias)
        assert training_refusal(x, weights) is None
        ours = run_attention(x, weights, heads, window)
        plainly = run_attention(x, weights, heads, window, plain=True)
        draws.append((ours, plainly, run_attention(x.double(), widened(weights), heads, window, plain=True)))
    together = [
        {name: torch.stack([results[name] for results in runs]) for name in runs[0]}
        for runs in zip(*draws, strict=True)
    ]
    assert_accurate(*together)


def test_peaked_attention_is_accurate() -> None:
    """Probabilities below float32's normal range."""
    weights = attention_weights(16, 2, 7)
    peaked = weights._replace(bias=(weights.bias.detach() * 60).requires_grad_())
    x = torch.randn(1, 14, 14, 16)
    ours, plainly = (run_attention(x, peaked, 2, 7, plain=plain) for plain in (False, True))
    assert_accurate(ours, plainly, run_attention(x.double(), widened(peaked), 2, 7, plain=True))


@pytest.mark.parametrize("threads", [1, 2, 3, 20])
def test_threads_change_rounding_only_and_repeat_themselves(threads: int) -> None:
    x, weights = torch.randn(2, 18, 9, 8), feed_forward_weights(18, 72)
    tokens, attention = torch.randn(2, 15, 8, 18), attention_weights(18, 1, 7)
    with kernel_threads(1):
        alone = run_feed_forward(feed_forward_training, x, weights), run_attention(tokens, attention, 1, 7)
    with kernel_threads(threads):
        first = run_feed_forward(feed_forward_training, x, weights), run_attention(tokens, attention, 1, 7)
        second = run_feed_forward(feed_forward_training, x, weights), run_attention(tokens, attention, 1, 7)
    for one, two, reference in zip(first, second, alone, strict=True):
        assert_same_bits(one, two)
        largest = max(float(value.abs().max()) for value in one.values())  # some gradients are zero but for rounding
        for name, value in one.items():
            torch.testing.assert_close(value, reference[name], rtol=0, atol=2e-6 * largest)


def test_nan_spreads() -> None:
    x, tokens = torch.randn(1, 18, 6, 6), torch.randn(1, 14, 14, 18)
    x[0, 3, 2, 2] = tokens[0, 1, 1, 3] = float("nan")
    results = run_feed_forward(feed_forward_training, x, feed_forward_weights(18, 24))
    written = [name for name in results if name not in native_training.ZERO]
    assert all(results[name].isnan().all() for name in written if name not in ("y", "x", "layer_bias"))
    assert results["y"].isnan().all()
    attended = run_attention(tokens, attention_weights(18, 1, 7), 1, 7)
    assert attended["y"][0, :7, :7].isnan().all()
    assert not attended["y"][0, 7:].isnan().any(), "another window"
    assert attended["qkv"].isnan().any()


@pytest.mark.parametrize("frozen", ["fc1", "fc2", "depthwise", "layer_weight", "norm2_bias"])
def test_frozen_weights_get_no_gradient(frozen: str) -> None:
    weights = feed_forward_weights(5, 7)
    getattr(weights, frozen).requires_grad_(False)
    feed_forward_training(
        torch.randn(1, 5, 3, 4), weights, running_statistics(weights, torch.float32), 1e-6
    ).sum().backward()
    assert {name for name, p in weights._asdict().items() if p.grad is None} == {frozen}


@pytest.mark.parametrize("frozen", AttentionWeights._fields)
def test_frozen_attention_gets_no_gradient(frozen: str) -> None:
    weights = attention_weights(6, 2, 2)
    getattr(weights, frozen).requires_grad_(False)
    window_attention_training(torch.randn(1, 3, 4, 6), weights, window=2, num_heads=2, layer_eps=1e-6).sum().backward()
    assert {name for name, p in weights._asdict().items() if p.grad is None} == {frozen}


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_layouts_of_input_gradient_and_weights(layout: torch.memory_format) -> None:
    x, weights = torch.randn(2, 18, 6, 5), feed_forward_weights(18, 24)
    expected = run_feed_forward(feed_forward_training, x, weights)
    placed = (p if p is None or p.ndim < 4 else p.detach().to(memory_format=layout).requires_grad_() for p in weights)
    given = x.to(memory_format=layout)
    assert_same_bits(expected, run_feed_forward(feed_forward_training, given, FeedForwardWeights(*placed)))


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "negated": lambda t: torch._neg_view(-t),
    "turned": lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("of", ["gradient", "saved tensors"])
@pytest.mark.parametrize("kind", ["feed-forward", "attention"])
def test_gradients_and_saved_tensors_may_be_views(kind: str, of: str, view: str) -> None:
    def gradients(of_gradient: Callable[[Tensor], Tensor], of_saved: Callable[[Tensor], Tensor]) -> Results:
        torch.manual_seed(0)
        weights: Weights = feed_forward_weights(18, 24) if kind == "feed-forward" else attention_weights(18, 1, 7)
        unpack = lambda t: of_saved(t) if t.ndim == 4 and t.is_contiguous() else t  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach(), unpack):
            if isinstance(weights, FeedForwardWeights):
                leaf = torch.randn(2, 18, 6, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
                y = feed_forward_training(leaf, weights, running_statistics(weights, torch.float32), 1e-6)
            else:
                leaf = torch.randn(2, 6, 5, 18).requires_grad_()
                y = window_attention_training(leaf, weights, window=7, num_heads=1, layer_eps=1e-6)
            y.backward(of_gradient(torch.randn(y.shape).contiguous(memory_format=torch.channels_last)))
        return {"x": leaf.grad, **{name: p.grad for name, p in weights._asdict().items() if p is not None}}  # type: ignore[dict-item]

    same = lambda t: t  # noqa: E731
    found = gradients(VIEWS[view], same) if of == "gradient" else gradients(same, VIEWS[view])
    for name, expected in gradients(same, same).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-5)


def test_stores_the_input_and_little_else() -> None:
    kept: list[int] = []

    def pack(t: Tensor) -> Tensor:
        kept.append(t.numel())
        return t

    x, tokens = torch.randn(2, 16, 16, 16, requires_grad=True), torch.randn(2, 16, 16, 16, requires_grad=True)
    weights, attention = feed_forward_weights(16, 64), attention_weights(16, 2, 7)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        feed_forward_training(x, weights, running_statistics(weights, torch.float32), 1e-6)
    small = sum(p.numel() for p in weights if p is not None)
    assert sum(kept) <= 2 * x.numel() + small + 6 * 64
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        window_attention_training(tokens, attention, window=7, num_heads=2, layer_eps=1e-6)
    assert sum(kept) == tokens.numel() + sum(p.numel() for p in attention if p is not None)


def test_refusals_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 3, 4, 4)
    assert training_refusal(x, [None, nn.Parameter(x)]) is None
    assert "subclass" in str(training_refusal(x.as_subclass(Watched), []))
    assert "float64" in str(training_refusal(x, [x.double()]))
    assert "on meta" in str(training_refusal(x.to("meta"), []))
    assert "0 numbers" in str(training_refusal(x[:0], []))
    seen: list[str | None] = []
    torch.vmap(lambda x: (seen.append(training_refusal(x, [])), x)[1])(x)
    assert "watches" in str(seen[0])
    monkeypatch.setattr(native_training, "find_library", lambda: (None, "none here"))
    assert training_refusal(x, []) == "none here"
