"""The compiled kernels of inference against their plain references, in float64 and beside float32."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hrformer.fast import stages as fused
from hrformer.fast.folding import ConvolutionWeights, PointwiseWeights
from hrformer.fast.x86 import stages as native
from hrformer.fast.x86.build import INSTRUCTION_SETS, library_path
from hrformer.fast.x86.library import NativeLibrary, find_library, kernel_threads
from stage_weights import attention_weights, convolution_weights, depthwise_weights, product_weights

pytestmark = pytest.mark.skipif(find_library()[0] is None, reason=f"needs compiled kernels: {find_library()[1]}")

WIDTHS = (18, 32, 39, 78)
"""Channels with and without a rest beside whole vectors of 8 and 16."""


@pytest.fixture(autouse=True, params=INSTRUCTION_SETS)
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every compiled file that this processor can run."""
    if request.param == "avx512" and torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("needs a processor with AVX-512")
    library = NativeLibrary(str(library_path(request.param)))
    monkeypatch.setattr(native, "find_library", lambda: (library, ""))


def assert_as_exact(found: Tensor, reference: Callable[..., Tensor], x: Tensor, *rest: Any, **options: Any) -> None:
    """Error against float64 at most twice that of plain float32, or rounding of the last bits."""
    exact = reference(x.double(), *rest, **options)
    plain = reference(x, *rest, **options)
    assert found.shape == exact.shape
    assert found.is_contiguous()
    largest = exact.abs().max()
    allowed = max(2 * (plain - exact).abs().max(), 6e-7 * largest)
    assert (found - exact).abs().max() <= allowed


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("channels", "heads", "window", "size"),
    [
        *[(channels, 1, 7, (9, 11)) for channels in WIDTHS],
        (78, 2, 7, (16, 12)),
        (156, 4, 7, (14, 7)),
        (36, 2, 13, (20, 15)),
        (64, 2, 15, (4, 31)),
        (144, 2, 3, (5, 1)),
        (16, 4, 1, (3, 2)),
        (1, 1, 7, (1, 1)),
        (17, 1, 2, (1, 30)),
    ],
)
def test_attention(channels: int, heads: int, window: int, size: tuple[int, int], bias: bool, threads: int) -> None:
    weights, x = attention_weights(channels, heads, window, bias), 2 * torch.randn(2, *size, channels)
    with kernel_threads(threads):
        found = fused.attention_block(x, weights)
    assert_as_exact(found, fused.attention_block_reference, x, weights)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(
    ("channels", "hidden", "size"),
    [
        *[(channels, 4 * channels, (5, 9)) for channels in WIDTHS],
        (32, 50, (64, 3)),
        (20, 33, (1, 40)),
        (64, 256, (7, 1)),
        (8, 8, (1, 1)),
        (1, 1, (2, 2)),
        (32, 128, (40, 130)),
    ],
)
def test_feed_forward(channels: int, hidden: int, size: tuple[int, int], batch: int, threads: int) -> None:
    first, second = product_weights(channels, hidden, norm=True), depthwise_weights(hidden, channels)
    x = 2 * torch.randn(batch, *size, channels)
    with kernel_threads(threads):
        found = fused.feed_forward_block(x, first, second)
    assert_as_exact(found, fused.feed_forward_block_reference, x, first, second)


@pytest.mark.parametrize(
    ("activation", "after"), [("none", "none"), ("gelu", "none"), ("relu", "none"), ("none", "relu")]
)
@pytest.mark.parametrize(("into", "out"), [(18, 39), (64, 64), (3, 17), (256, 200), (1, 1)])
def test_pointwise(into: int, out: int, activation: str, after: str) -> None:
    weights, x = product_weights(into, out), torch.randn(2, 7, 9, into)
    for residual in (None, torch.randn(2, 7, 9, out)):
        options = {"activation": activation, "after": after, "residual": residual}
        assert_as_exact(fused.pointwise(x, weights, **options), fused.pointwise_reference, x, weights, **options)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 5), (6, 1), (2, 40)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("into", [1, *WIDTHS])
def test_depthwise_pointwise(into: int, stride: int, size: tuple[int, int]) -> None:
    weights, x = depthwise_weights(into, 30, stride), torch.randn(2, *size, into)
    for middle, activation in (("none", "none"), ("gelu", "relu")):
        options = {"middle": middle, "activation": activation}
        found = fused.depthwise_pointwise(x, weights, **options)
        assert_as_exact(found, fused.depthwise_pointwise_reference, x, weights, **options)
    if stride == 1:
        residual = torch.randn(2, *size, 30)
        found = fused.depthwise_pointwise(x, weights, residual=residual)
        assert_as_exact(found, fused.depthwise_pointwise_reference, x, weights, residual=residual)


@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize(
    ("into", "out", "kernel", "stride", "padding"),
    [
        (3, 64, (3, 3), (2, 2), (1, 1)),
        (18, 36, (3, 3), (1, 1), (1, 1)),
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
    for size in ((9, 14), (5, 5)):
        x = torch.randn(3, *size, into)
        found = fused.convolution(x, weights, activation=activation)
        assert_as_exact(found, fused.convolution_reference, x, weights, activation=activation)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("channels", [1, *WIDTHS])
def test_fusion(channels: int, mode: str) -> None:
    for size in ((16, 24), (9, 13), (1, 1)):
        factors = (1, 2, 8, 1)
        terms = [torch.randn(2, -(-size[0] // f), -(-size[1] // f), channels) for f in factors]
        for count in (1, 4):
            found = fused.fusion_sum(terms[:count], factors[:count], size, mode=mode)
            expected = fused.fusion_sum_reference(terms[:count], factors[:count], size, mode=mode)
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_gelu_is_the_exact_one_everywhere() -> None:
    weights = PointwiseWeights(weight=torch.eye(16), bias=torch.zeros(16))
    x = torch.linspace(-12, 12, 16 * 4001).view(-1, 16)
    found = native.pointwise(x, weights, activation="gelu")
    exact = F.gelu(x.double())
    assert ((found - exact).abs() <= 2e-7 * x.abs().clamp(min=1)).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nothing_hides_a_number_that_is_none(value: float) -> None:
    attention, first, second = (
        attention_weights(32, 1, 7),
        product_weights(32, 128, norm=True),
        depthwise_weights(128, 32),
    )
    x = torch.randn(1, 14, 14, 32)
    x[0, 8, 9, 3] = value
    assert native.attention_block(x, attention)[0, 7:, 7:].isnan().all()
    assert native.attention_block(x, attention)[0, :7].isfinite().all()
    assert native.feed_forward_block(x, first, second)[0, 7:10, 8:11].isnan().all()
    linear = PointwiseWeights(weight=torch.eye(32), bias=torch.zeros(32))
    for activation in native.ACTIVATIONS:
        assert not native.pointwise(x, linear, activation=activation)[0, 8, 9].isfinite().all()


def test_what_lay_in_memory_before_does_not_show() -> None:
    """Results are written whole, over NaN, and buffers that threads keep may be full of NaN from the call before."""
    attention, first, second = (
        attention_weights(39, 3, 5),
        product_weights(39, 150, norm=True),
        depthwise_weights(150, 39),
    )
    separable, product = depthwise_weights(39, 20, 2), product_weights(39, 20)
    convolution = ConvolutionWeights(weight=torch.randn(20, 39, 3, 3), bias=torch.randn(20), padding=(1, 1))
    x = torch.randn(2, 11, 17, 39)

    def run(x: Tensor) -> list[Tensor]:
        small = x[:, :3, :4].contiguous()
        return [
            *(native.attention_block(x, attention), native.feed_forward_block(x, first, second)),
            *(native.attention_block(small, attention), native.feed_forward_block(small, first, second)),
            *(native.depthwise_pointwise(x, separable), native.pointwise(x, product)),
            *(native.convolution(x, convolution), native.fusion_sum([x, x], (1, 1), (11, 17))),
        ]

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


def test_results_do_not_depend_on_threads_or_on_the_batch() -> None:
    attention, first, second = (
        attention_weights(36, 2, 7),
        product_weights(36, 144, norm=True),
        depthwise_weights(144, 36),
    )
    x = torch.randn(3, 17, 23, 36)

    def run(x: Tensor, threads: int) -> Tensor:
        with kernel_threads(threads):
            return native.feed_forward_block(native.attention_block(x, attention), first, second)

    one = run(x, 1)
    assert all(torch.equal(run(x, threads), one) for threads in (2, 3, 8))
    assert torch.equal(torch.cat([run(picture, 2) for picture in x.split(1)]), one)


def test_callers_in_several_threads_do_not_disturb_each_other() -> None:
    weights, xs = attention_weights(32, 1, 7), [torch.randn(1, 20 + i, 20, 32) for i in range(4)]
    expected = [native.attention_block(x, weights) for x in xs]
    wrong: list[int] = []

    def repeat(i: int) -> None:
        with kernel_threads(1 + i % 2):
            wrong.extend(i for _ in range(30) if not torch.equal(native.attention_block(xs[i], weights), expected[i]))

    callers = [threading.Thread(target=repeat, args=(i,)) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


def test_strided_maps_are_taken_as_they_are() -> None:
    weights, wide = attention_weights(32, 1, 7), torch.randn(2, 12, 9, 64)
    x = wide[..., ::2]
    assert torch.equal(native.attention_block(x, weights), native.attention_block(x.contiguous(), weights))


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (torch.zeros(1, 2, 2, 4, dtype=torch.float64), "torch.float64 on cpu"),
        (torch.zeros(1, 2, 2, 4, device="meta"), "on meta"),
        (torch.zeros(0, 2, 2, 4), "a map of 0 numbers"),
        (torch.zeros(1, 2, 2, 4, requires_grad=True), "a gradient is wanted"),
    ],
)
def test_refusals(x: Tensor, reason: str) -> None:
    assert reason in (native.native_refusal(x) or "")
    with torch.no_grad():
        assert native.native_refusal(torch.zeros(1, 2, 2, 4)) is None
