"""Fused stages: the references against plain modules, and the choice between reference and kernel."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrformer.fast import stages as fused
from hrformer.fast.folding import AttentionWeights, DepthwiseWeights, PointwiseWeights
from hrformer.fast.stages import (
    attention_block,
    attention_block_reference,
    attention_in_parts,
    depthwise_pointwise,
    depthwise_pointwise_reference,
    fusion_sum,
    fusion_sum_reference,
    kernel_refusal,
    pointwise,
    pointwise_reference,
)
from hrformer.fast.x86 import stages as native
from hrformer.models.attention import WindowAttention
from hrformer.models.fusion import UPSAMPLE_MODES, upsample_to
from kernel_accuracy import DEVICE


def attention_weights(channels: int, heads: int, window: int, dtype: torch.dtype = torch.float32) -> AttentionWeights:
    attn, norm = WindowAttention(channels, heads, window), nn.LayerNorm(channels, eps=1e-6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    nn.init.normal_(attn.qkv.bias)
    bias = attn.gathered_bias()
    tensors = {
        "norm_weight": norm.weight,
        "norm_bias": norm.bias,
        "qkv_weight": attn.qkv.weight,
        "qkv_bias": attn.qkv.bias,
        "proj_weight": attn.proj.weight,
        "proj_bias": attn.proj.bias,
        "bias": bias,
    }
    held = {name: value.detach().to(DEVICE, dtype) for name, value in tensors.items()}
    return AttentionWeights(**held, window=window, num_heads=heads, eps=1e-6)


def depthwise_weights(in_channels: int, out_channels: int, stride: int = 1) -> DepthwiseWeights:
    sizes = {
        "depthwise": (in_channels, 3, 3),
        "depthwise_bias": (in_channels,),
        "weight": (out_channels, in_channels),
        "bias": (out_channels,),
    }
    held = {name: torch.randn(size, device=DEVICE) / 4 for name, size in sizes.items()}
    return DepthwiseWeights(**held, stride=stride)


@pytest.fixture
def kernels_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels run for CPU maps too, in Triton's interpreter."""
    pytest.importorskip("triton")
    monkeypatch.setattr(fused, "kernel_refusal", lambda x, dtypes=None: None)
    monkeypatch.setattr(native, "native_refusal", lambda x, others=(): "Triton's turn")


@pytest.fixture
def untold(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    monkeypatch.setattr(fused, "_told", set())
    with caplog.at_level(logging.INFO, logger="hrformer"):
        yield caplog


def test_pointwise_reference_is_norm_linear_activation() -> None:
    norm, linear = nn.LayerNorm(6, eps=1e-3), nn.Linear(6, 4)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x, rest = torch.randn(2, 3, 5, 6), torch.randn(2, 3, 5, 4)
    weights = PointwiseWeights(
        weight=linear.weight, bias=linear.bias, norm_weight=norm.weight, norm_bias=norm.bias, eps=1e-3
    )
    ours = pointwise_reference(x, weights, activation="gelu", residual=rest)
    torch.testing.assert_close(ours, F.gelu(linear(norm(x))) + rest)


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_reference_is_two_convolutions(stride: int) -> None:
    depthwise, point = nn.Conv2d(6, 6, 3, stride, 1, groups=6), nn.Conv2d(6, 4, 1)
    weights = DepthwiseWeights(
        depthwise=depthwise.weight[:, 0],
        depthwise_bias=depthwise.bias,
        weight=point.weight.flatten(1),
        bias=point.bias,
        stride=stride,
    )
    x = torch.randn(2, 6, 7, 5)
    ours = depthwise_pointwise_reference(x.permute(0, 2, 3, 1), weights, middle="gelu", activation="relu")
    torch.testing.assert_close(ours.permute(0, 3, 1, 2), F.relu(point(F.gelu(depthwise(x)))))


@pytest.mark.parametrize("mode", UPSAMPLE_MODES)
@pytest.mark.parametrize("sizes", [((8, 8), (4, 4), (2, 2)), ((7, 5), (4, 3), (2, 2))])
def test_fusion_takes_kernel_with_odd_sizes_too(
    mode: str, sizes: tuple[tuple[int, int], ...], kernels_everywhere: None
) -> None:
    """Where twice the coarse size is not the fine one, torch resizes that term and the kernel adds it."""
    terms = [torch.randn(2, *size, 12, device=DEVICE) for size in sizes]
    ours = fusion_sum(terms, (1, 2, 4), sizes[0], mode=mode)
    wanted = fusion_sum_reference(terms, (1, 2, 4), sizes[0], mode=mode)
    torch.testing.assert_close(ours, wanted)
    by_hand = [upsample_to(t.permute(0, 3, 1, 2), f, sizes[0], mode) for t, f in zip(terms[1:], (2, 4), strict=True)]
    torch.testing.assert_close(wanted, F.relu(terms[0] + sum(by_hand).permute(0, 2, 3, 1)))


@pytest.mark.parametrize(
    ("channels", "heads", "window", "size"),
    [(36, 2, 7, (9, 8)), (320, 8, 7, (4, 5)), (36, 2, 9, (8, 10))],  # whole; too wide; too large a window
)
def test_attention_takes_kernels(
    channels: int, heads: int, window: int, size: tuple[int, int], kernels_everywhere: None
) -> None:
    x, weights = torch.randn(1, *size, channels, device=DEVICE).half(), attention_weights(channels, heads, window)
    ours, wanted = attention_block(x, weights), attention_block_reference(x.double(), weights)
    plain = attention_block_reference(x, weights)
    assert (ours.double() - wanted).norm() <= 2 * (plain.double() - wanted).norm()


def test_parts_equal_the_whole() -> None:
    pytest.importorskip("triton")
    x, weights = torch.randn(2, 6, 9, 32, device=DEVICE).half(), attention_weights(32, 2, 7)
    whole = fused.window_block(x, weights.whole(x.dtype), eps=weights.eps)
    torch.testing.assert_close(attention_in_parts(x, weights), whole, rtol=2e-3, atol=2e-3)


def test_layouts_are_made_once(kernels_everywhere: None) -> None:
    weights = depthwise_weights(16, 8)
    x = torch.randn(1, 2, 3, 16, device=DEVICE)
    depthwise_pointwise(x, weights)
    first = weights.packed(x.dtype)
    depthwise_pointwise(x, weights)
    assert weights.packed(x.dtype) is first
    assert weights.packed(torch.float16) is not first


@pytest.mark.skipif(DEVICE.type == "cuda", reason="with a GPU the map would be moved there")
def test_without_compiled_kernels_references_run_and_say_so_once(
    untold: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "native_refusal", lambda x, others=(): "they are missing")
    x, weights = torch.randn(1, 4, 4, 16), depthwise_weights(16, 8)
    for _ in range(3):
        torch.testing.assert_close(depthwise_pointwise(x, weights), depthwise_pointwise_reference(x, weights))
    product = PointwiseWeights(weight=torch.randn(4, 16), bias=torch.zeros(4))
    torch.testing.assert_close(pointwise(x, product), pointwise_reference(x, product))
    assert [record.getMessage() for record in untold.records] == [
        "depthwise convolution runs on plain PyTorch: they are missing",
        "pointwise convolution runs on plain PyTorch: they are missing",
    ]


class OnCuda(Tensor):
    """A CPU tensor that says it is on a device, to ask for refusals without one."""

    is_cuda = True  # type: ignore[assignment]

    def get_device(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("dtype", "capability", "triton", "gradient", "reason"),
    [
        (torch.float16, (9, 0), True, False, None),
        (torch.bfloat16, (8, 0), True, False, None),
        (torch.float32, (9, 0), True, False, "torch.float32, kernels take torch.float16, torch.bfloat16"),
        (torch.float16, (7, 5), True, False, "compute capability 8.0"),
        (torch.float16, (9, 0), False, False, "Triton is not installed"),
        (torch.float16, (9, 0), True, True, "a gradient is wanted"),
    ],
)
def test_refusals(
    dtype: torch.dtype,
    capability: tuple[int, int],
    triton: bool,
    gradient: bool,
    reason: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fused, "_capability", lambda index: capability)
    monkeypatch.setattr(fused, "HAVE_TRITON", triton)
    monkeypatch.setattr(torch.version, "hip", None)
    x = torch.zeros(1, 2, 2, 16, dtype=dtype).as_subclass(OnCuda).requires_grad_(gradient)
    refusal = kernel_refusal(x)
    assert refusal is None if reason is None else reason in (refusal or "")


def test_one_attention_kernel_needs_a_sound_assembler(
    monkeypatch: pytest.MonkeyPatch, untold: pytest.LogCaptureFixture
) -> None:
    x = torch.zeros(1, 2, 2, 16).as_subclass(OnCuda)
    monkeypatch.setattr(fused, "assembler_version", lambda: (12, 9))
    assert fused._assembler_refusal(x) is None
    monkeypatch.setattr(fused, "assembler_version", lambda: (12, 8))
    weights = SimpleNamespace(channels=16, window=7)
    assert [fused._takes_one_kernel(x, weights) for _ in range(2)] == [False, False]
    assert fused._assembler_refusal(torch.zeros(1)) is None
    assert [record.getMessage() for record in untold.records] == [
        "window attention runs as three kernels: ptxas 12.8 miscompiles the one, 12.9 does not"
    ]


@pytest.mark.parametrize("norm", [True, False])
def test_filled_channels_change_nothing(norm: bool) -> None:
    """Zeros behind the channels that LayerNorm counts, and an activation after the residual."""
    x, rest = torch.randn(2, 3, 6), torch.randn(2, 3, 4)
    weight, bias, gain, shift = torch.randn(4, 6), torch.randn(4), torch.randn(6), torch.randn(6)

    def weights(fill: int, normed: int | None) -> PointwiseWeights:
        pads = [F.pad(part, (0, fill)) for part in (weight, gain, shift)]
        norms = {"norm_weight": pads[1], "norm_bias": pads[2], "eps": 1e-6, "normed": normed} if norm else {}
        return PointwiseWeights(weight=pads[0], bias=bias, **norms)

    wanted = pointwise_reference(x, weights(0, None), residual=rest, after="relu")
    found = pointwise_reference(F.pad(x, (0, 2)), weights(2, 6), residual=rest, after="relu")
    torch.testing.assert_close(found, wanted)
    assert wanted.min() == 0


def test_sums_take_float32() -> None:
    assert torch.float32 in fused.SUM_DTYPES
    assert torch.float32 not in fused.PRODUCT_DTYPES


def test_wide_heads_are_refused(untold: pytest.LogCaptureFixture, kernels_everywhere: None) -> None:
    weights = attention_weights(136, 1, 2)
    x = torch.randn(1, 2, 2, 136, device=DEVICE)
    torch.testing.assert_close(attention_block(x, weights), attention_block_reference(x, weights))
    assert "heads of 136 channels, at most 128" in untold.text
