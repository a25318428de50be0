"""The kernels in bfloat16 against their plain references in float64, beside PyTorch's autocast; every instruction set.

The bound: the largest error and the root of the mean square are at most twice those of autocast.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from half_libraries import LIBRARIES, half_library, use
from hrformer.fast import stages as fused
from hrformer.fast.folding import PointwiseWeights
from hrformer.fast.x86 import stages as native
from hrformer.fast.x86.library import NativeLibrary, kernel_threads
from stage_weights import attention_weights, convolution_weights, depthwise_weights, product_weights

SMALLEST = 2.0**-126
"""Of the normal numbers; those below count as zero."""


@pytest.fixture(autouse=True, params=LIBRARIES)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> NativeLibrary:
    found = half_library(request.param)
    use(monkeypatch, found)
    return found


def half_map(*size: int) -> Tensor:
    return (2 * torch.randn(*size)).bfloat16()


def assert_as_autocast(
    found: Tensor, reference: Callable[..., Tensor], x: Any, *rest: Any, residual: Tensor | None = None, **options: Any
) -> None:
    """At most twice autocast's error against float64, for the same maps in bfloat16 and weights in float32."""

    def run(dtype: torch.dtype) -> Tensor:
        maps = x.to(dtype) if isinstance(x, Tensor) else [term.to(dtype) for term in x]
        added = {} if residual is None else {"residual": residual.to(dtype)}
        return reference(maps, *rest, **added, **options)

    exact = run(torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        plain = run(torch.bfloat16)
    assert (found.shape, found.dtype) == (exact.shape, torch.bfloat16)
    assert found.is_contiguous()
    error, allowed = found.double() - exact, plain.double() - exact
    assert error.abs().max() <= 2 * allowed.abs().max()
    assert error.norm() <= 2 * allowed.norm()


def same_for_threads(run: Callable[[], Tensor]) -> Tensor:
    """The result, which does not depend on how many threads share the work."""
    results = []
    for threads in (1, 2, 3):
        with kernel_threads(threads):
            results.append(run())
    assert all(torch.equal(result, results[0]) for result in results)
    return results[0]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("channels", "heads", "window", "size"),
    [
        (32, 1, 7, (9, 11)),
        (78, 2, 7, (16, 12)),
        (20, 1, 7, (24, 40)),
        (156, 4, 7, (14, 7)),
        (78, 2, 13, (20, 15)),
        (32, 1, 13, (4, 5)),
        (20, 2, 3, (5, 1)),
        (156, 2, 3, (1, 1)),
        (64, 2, 15, (3, 31)),
        (17, 1, 2, (1, 30)),
    ],
)
def test_attention(channels: int, heads: int, window: int, size: tuple[int, int], batch: int) -> None:
    weights, x = attention_weights(channels, heads, window, bias=batch == 1), half_map(batch, *size, channels)
    found = same_for_threads(lambda: fused.attention_block(x, weights))
    assert_as_autocast(found, fused.attention_block_reference, x, weights)


@pytest.mark.parametrize("shift", [-300.0, -50.0, 50.0, 300.0])
def test_softmax_does_not_depend_on_what_all_scores_of_a_query_share(shift: float) -> None:
    """Powers of two are taken of scores as they are, unless they are too large or too small for that."""
    weights, x = attention_weights(36, 2, 7), half_map(2, 16, 13, 36)
    bias = weights.bias
    assert bias is not None
    expected = native.attention_block(x, weights)
    for rows in (slice(None), slice(17, 30)):
        moved = bias.clone()
        moved[:, rows] += shift
        found = native.attention_block(x, replace(weights, bias=moved))
        torch.testing.assert_close(found, expected, rtol=2.0**-6, atol=2.0**-5)


@pytest.mark.parametrize("batch", [1, 3, 9])
@pytest.mark.parametrize(
    ("channels", "hidden", "size"),
    [
        (32, 128, (5, 9)),
        (78, 312, (7, 6)),
        (20, 80, (24, 14)),
        (156, 624, (4, 3)),
        (32, 50, (40, 3)),
        (20, 33, (1, 40)),
        (64, 256, (7, 1)),
        (32, 128, (1, 1)),
    ],
)
def test_feed_forward(channels: int, hidden: int, size: tuple[int, int], batch: int) -> None:
    first, second = product_weights(channels, hidden, norm=True), depthwise_weights(hidden, channels)
    x = half_map(batch, *size, channels)
    found = same_for_threads(lambda: fused.feed_forward_block(x, first, second))
    assert_as_autocast(found, fused.feed_forward_block_reference, x, first, second)


@pytest.mark.parametrize(
    ("activation", "after"), [("none", "none"), ("gelu", "none"), ("relu", "none"), ("none", "relu"), ("gelu", "relu")]
)
@pytest.mark.parametrize(("into", "out"), [(20, 78), (64, 64), (3, 17), (156, 200), (32, 1)])
def test_pointwise(into: int, out: int, activation: str, after: str) -> None:
    weights = product_weights(into, out)
    for size in ((2, 7, 9), (1, 1, 1), (1, 23, 25)):
        x = half_map(*size, into)
        for residual in (None, half_map(*size, out)):
            options = {"activation": activation, "after": after, "residual": residual}
            found = same_for_threads(lambda x=x, options=options: fused.pointwise(x, weights, **options))
            assert_as_autocast(found, fused.pointwise_reference, x, weights, **options)


@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
@pytest.mark.parametrize(
    ("into", "out", "kernel", "stride", "padding"),
    [
        (3, 64, (3, 3), (2, 2), (1, 1)),
        (3, 20, (5, 5), (1, 1), (2, 2)),
        (20, 78, (3, 3), (1, 1), (1, 1)),
        (78, 32, (3, 3), (2, 2), (1, 1)),
        (16, 7, (1, 1), (2, 2), (0, 0)),
        (5, 20, (1, 5), (1, 2), (0, 2)),
        (9, 33, (2, 2), (1, 1), (1, 0)),
        (1, 1, (5, 5), (3, 3), (0, 0)),
    ],
)
def test_convolution(
    into: int, out: int, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], activation: str
) -> None:
    weights = convolution_weights(into, out, kernel, stride, padding)
    for batch, *size in ((3, 9, 14), (1, 5, 5)):
        x = half_map(batch, *size, into)
        found = same_for_threads(lambda x=x: fused.convolution(x, weights, activation=activation))
        assert_as_autocast(found, fused.convolution_reference, x, weights, activation=activation)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 5), (6, 1), (2, 40), (1, 1)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("into", [20, 32, 78, 156])
def test_depthwise_pointwise(into: int, stride: int, size: tuple[int, int]) -> None:
    weights, x = depthwise_weights(into, 30, stride), half_map(3, *size, into)
    residual = half_map(3, -(-size[0] // stride), -(-size[1] // stride), 30)
    for middle, activation, added in (("none", "none", None), ("gelu", "relu", None), ("relu", "gelu", residual)):
        options = {"middle": middle, "activation": activation, "residual": added}
        found = same_for_threads(lambda options=options: fused.depthwise_pointwise(x, weights, **options))
        assert_as_autocast(found, fused.depthwise_pointwise_reference, x, weights, **options)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("channels", [20, 32, 78, 156])
def test_fusion(channels: int, mode: str) -> None:
    for size in ((16, 24), (9, 13), (1, 1)):
        factors = (1, 2, 8, 1)
        terms = [half_map(2, -(-size[0] // f), -(-size[1] // f), channels) for f in factors]
        for count in (1, 4):
            given = (terms[:count], factors[:count], size)
            found = same_for_threads(lambda given=given: fused.fusion_sum(*given, mode=mode))
            assert_as_autocast(found, fused.fusion_sum_reference, given[0], *given[1:], mode=mode)


def test_gelu_is_within_its_bound_everywhere() -> None:
    """Rounding of the result apart, which is half a unit in the last place."""
    weights = PointwiseWeights(weight=torch.eye(32), bias=torch.zeros(32))
    x = torch.linspace(-12, 12, 32 * 2001).view(-1, 32).bfloat16()
    found, exact = native.pointwise(x, weights, activation="gelu"), F.gelu(x.double())
    assert ((found - exact).abs() <= 1e-4 + exact.abs() * 2**-8).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nothing_hides_a_number_that_is_none(value: float) -> None:
    attention = attention_weights(32, 1, 7)
    first, second = product_weights(32, 128, norm=True), depthwise_weights(128, 32)
    x = half_map(1, 21, 14, 32)
    x[0, 8, 9, 3] = value
    for threads in (1, 2):
        with kernel_threads(threads):
            assert native.attention_block(x, attention)[0, 7:14, 7:].isnan().all()
            assert native.attention_block(x, attention)[0, :7].isfinite().all()
            assert native.feed_forward_block(x, first, second)[0, 7:10, 8:11].isnan().all()
            assert native.feed_forward_block(x, first, second)[0, 11:].isfinite().all()
    linear = PointwiseWeights(weight=torch.eye(32), bias=torch.zeros(32))
    separable, full = depthwise_weights(32, 32), convolution_weights(32, 32, (3, 3), padding=(1, 1))
    for activation in native.ACTIVATIONS:
        assert not native.pointwise(x, linear, activation=activation)[0, 8, 9].isfinite().all()
        for y in (
            native.depthwise_pointwise(x, separable, middle=activation),
            native.convolution(x, full, activation=activation),
        ):
            assert not y[0, 7:10, 8:11].isfinite().all(-1).any() or value == float("inf")
            assert y[0, :7].isfinite().all()
    if value != value:
        assert native.fusion_sum([x, x], (1, 1), (21, 14))[0, 8, 9, 3].isnan()


def small_maps(size: int) -> list[Tensor]:
    """All below the smallest normal number, and zeros."""
    tiny = (torch.rand(1, size, size, 64) * SMALLEST / 2).bfloat16()
    return [tiny, torch.zeros_like(tiny)]


def runs(size: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Every kernel, on maps of 64 channels; where there are biases they are zero, so that small numbers stay small."""
    attention = attention_weights(64, 2, 7)
    first, second = product_weights(64, 256, norm=True), depthwise_weights(256, 64)
    product, separable = product_weights(64, 64), depthwise_weights(64, 64)
    full = convolution_weights(64, 64, (3, 3), padding=(1, 1))
    for weights in (product, separable, full):
        weights.bias.zero_()
    separable.depthwise_bias.zero_()
    return {
        "attention": lambda x: native.attention_block(x, attention),
        "feed forward": lambda x: native.feed_forward_block(x, first, second),
        "pointwise": lambda x: native.pointwise(x, product, activation="gelu", residual=x),
        "separable": lambda x: native.depthwise_pointwise(x, separable, middle="gelu"),
        "convolution": lambda x: native.convolution(x, full),
        "fusion": lambda x: native.fusion_sum([x, x[:, ::2, ::2]], (1, 2), (size, size), bilinear=True),
    }


def test_small_numbers_count_as_zero() -> None:
    tiny, zeros = small_maps(8)
    for name, run in runs(8).items():
        found, expected = same_for_threads(partial(run, tiny)), run(zeros)
        assert (found - expected).abs().max() <= 8 * SMALLEST, name


@pytest.mark.parametrize("library", [name for name in LIBRARIES if "emulated" not in name], indirect=True)
def test_small_numbers_take_no_longer(library: NativeLibrary) -> None:
    """Processors without flushing take a hundred cycles for each."""
    tiny, _ = small_maps(32)
    ordinary = half_map(1, 32, 32, 64)

    def seconds(run: Callable[[Tensor], Tensor], x: Tensor) -> float:
        best = float("inf")
        for _ in range(7):
            start = time.thread_time()
            run(x)
            best = min(best, time.thread_time() - start)
        return best

    with kernel_threads(1):
        for name, run in runs(32).items():
            assert seconds(run, tiny) < 3 * seconds(run, ordinary), name


def test_what_lay_in_memory_before_does_not_show() -> None:
    """Results are written whole, over NaN, and buffers that threads keep may be full of NaN from the call before."""
    attention, separable, product = attention_weights(39, 3, 5), depthwise_weights(39, 20, 2), product_weights(39, 20)
    first, second = product_weights(39, 150, norm=True), depthwise_weights(150, 39)
    full = convolution_weights(39, 20, (3, 3), padding=(1, 1))

    def run(x: Tensor) -> list[Tensor]:
        small = x[:, :3, :4].contiguous()
        return [
            *(native.attention_block(x, attention), native.feed_forward_block(x, first, second)),
            *(native.attention_block(small, attention), native.feed_forward_block(small, first, second)),
            *(native.depthwise_pointwise(x, separable), native.pointwise(x, product)),
            *(native.convolution(x, full), native.fusion_sum([x, x], (1, 1), (11, 17))),
        ]

    x = half_map(2, 11, 17, 39)
    for threads in (1, 2):
        with kernel_threads(threads):
            expected = run(x)
            assert all(y.isfinite().all() for y in expected)
            assert all(y.isnan().all() for y in run(torch.full_like(x, float("nan"))))
            torch.use_deterministic_algorithms(True)  # makes torch.empty hold NaN
            try:
                found = run(x)
            finally:
                torch.use_deterministic_algorithms(False)
            assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_results_do_not_depend_on_the_batch() -> None:
    attention = attention_weights(36, 2, 7)
    first, second = product_weights(36, 144, norm=True), depthwise_weights(144, 36)

    def run(x: Tensor) -> Tensor:
        return native.feed_forward_block(native.attention_block(x, attention), first, second)

    for size in ((17, 23), (8, 8)):
        x = half_map(9, *size, 36)
        whole = same_for_threads(lambda x=x: run(x))
        assert torch.equal(torch.cat([run(picture) for picture in x.split(1)]), whole)


def test_callers_in_several_threads_do_not_disturb_each_other() -> None:
    weights, xs = attention_weights(32, 1, 7), [half_map(1, 12 + i, 11, 32) for i in range(4)]
    expected = [native.attention_block(x, weights) for x in xs]
    wrong: list[int] = []

    def repeat(i: int) -> None:
        with kernel_threads(1 + i % 2):
            wrong.extend(i for _ in range(10) if not torch.equal(native.attention_block(xs[i], weights), expected[i]))

    callers = [threading.Thread(target=repeat, args=(i,)) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


def is_by_intel() -> bool:
    """Whether the processor is Intel's."""
    return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")


def test_strided_maps_are_taken_as_they_are() -> None:
    weights, wide = attention_weights(32, 1, 7), half_map(2, 12, 9, 64)
    x = wide[..., ::2]
    assert torch.equal(native.attention_block(x, weights), native.attention_block(x.contiguous(), weights))


@pytest.mark.parametrize("library", [name for name in LIBRARIES if "emulated" not in name], indirect=True)
@pytest.mark.parametrize("exponents", [(-3, 4), (-133, -90), (-80, -45), (-133, 60)])
def test_emulation_gives_the_bits_of_the_instructions(
    exponents: tuple[int, int], library: NativeLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of products: numbers of all these powers of two, the smallest of them denormal, or sums that are.

    To the bit on Intel's processors; on others, where nobody has looked yet, to a step of bfloat16.
    """

    def numbers(*size: int) -> Tensor:
        values = torch.randn(*size, dtype=torch.float64) * 2.0 ** torch.randint(*exponents, size)
        return torch.where(torch.rand(size) < 0.1, 0 * values, values).float()

    given = [
        (numbers(41, into).bfloat16(), numbers(out, into), numbers(out))
        for into, out in ((32, 32), (78, 20), (5, 3), (156, 78))
    ]

    def run() -> list[Tensor]:
        return [native.pointwise(x, PointwiseWeights(weight=weight, bias=bias)) for x, weight, bias in given]

    found = run()
    use(monkeypatch, half_library(f"{library.instruction_set} emulated"))
    for one, other in zip(found, run(), strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one.float(), other.float(), rtol=2.0**-7, atol=2.0**-120)
        assert torch.equal(one.view(torch.int16), other.view(torch.int16)) or not is_by_intel()
