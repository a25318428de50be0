"""With a kernel switched off the plain reference answers in its place, and the others still run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hrformer.fast import stages as fused
from hrformer.fast.folding import AttentionWeights, DepthwiseWeights, PointwiseWeights
from hrformer.fast.triton import attention_op as attention
from hrformer.fast.triton import feed_forward_op as depthwise
from hrformer.fast.triton.launch import KERNELS, SWITCH
from hrformer.fast.x86 import stages as native

pytest.importorskip("triton")

LAUNCHERS = {
    "window_block": (fused, "window_block"),
    "pointwise": (fused, "pointwise_kernel"),
    "window_attention": (fused, "attention_forward"),
    "depthwise_pointwise": (fused, "depthwise_pointwise_kernel"),
    "fusion_sum": (fused, "fusion_sum_kernel"),
    "depthwise": (depthwise, "depthwise_forward"),
    "depthwise_backward": (depthwise, "depthwise_backward"),
    "window_attention_backward": (attention, "attention_backward"),
}
TRAINING_LAUNCHER = (attention, "attention_forward")


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Kernels run for CPU maps, in Triton's interpreter; the names of those that were launched."""
    names: set[str] = set()
    monkeypatch.setattr(fused, "kernel_refusal", lambda x, dtypes=None: None)
    monkeypatch.setattr(native, "native_refusal", lambda x, others=(): "Triton's turn")
    monkeypatch.setattr(attention, "uses_kernel", lambda qkv, num_heads: True)
    for name, (module, function) in [*LAUNCHERS.items(), ("window_attention", TRAINING_LAUNCHER)]:
        monkeypatch.setattr(module, function, noting(names, name, getattr(module, function)))
    return names


def noting(names: set[str], name: str, launch: Callable[..., Any]) -> Callable[..., Any]:
    def noted(*arguments: Any, **options: Any) -> Any:
        names.add(name)
        return launch(*arguments, **options)

    return noted


def attention_weights() -> AttentionWeights:
    norm, bias = torch.randn(2, 16), torch.randn(2, 9, 9)
    return AttentionWeights(
        norm_weight=norm[0], norm_bias=norm[1], qkv_weight=torch.randn(48, 16) / 4, qkv_bias=torch.randn(48),
        proj_weight=torch.randn(16, 16) / 4, proj_bias=torch.randn(16), bias=bias, window=3, num_heads=2, eps=1e-6,
    )  # fmt: skip


def everything() -> list[Tensor]:
    """Every stage that has a kernel, on small maps; the same numbers in every call."""
    torch.manual_seed(0)
    x = torch.randn(1, 4, 3, 16)
    point = PointwiseWeights(weight=torch.randn(16, 16) / 4, bias=torch.randn(16))
    depth = DepthwiseWeights(
        depthwise=torch.randn(16, 3, 3) / 3, depthwise_bias=torch.randn(16), weight=torch.randn(16, 16) / 4,
        bias=torch.randn(16), stride=1,
    )  # fmt: skip
    made = [
        fused.attention_block(x, attention_weights()),
        fused.pointwise(x, point),
        fused.depthwise_pointwise(x, depth),
        fused.fusion_sum([x, x[:, :2, :2].contiguous()], [1, 2], (4, 3), mode="nearest"),
    ]
    qkv, pad, bias = torch.randn(1, 4, 3, 48), torch.randn(48), torch.randn(2, 9, 9)
    out, softmax = attention.forward_with_kernels(qkv, pad, bias, 3, 2)
    made += [out, *attention.backward_with_kernels(torch.ones_like(out), qkv, pad, bias, out, softmax, 3, 2, True)]
    mean, scale, shift, grad = torch.randn(4, 16)
    weight = torch.randn(16, 1, 3, 3)
    y, y_mean, y_variance = depthwise.forward_with_kernels(x, mean, scale, shift, weight, grad)
    given = (torch.ones_like(y), grad, grad, y, y_mean, x, mean, scale, shift, weight)
    return [*made, y, y_mean, y_variance, *depthwise.backward_with_kernels(*given)]


@pytest.mark.parametrize("off", [(), *((name,) for name in KERNELS), KERNELS])
def test_the_rest_still_runs_and_results_stay(
    off: tuple[str, ...], launched: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, ",".join(KERNELS))
    plain = everything()
    assert launched == set()
    monkeypatch.setenv(SWITCH, ",".join(off))
    found = everything()
    assert launched == set(KERNELS) - set(off)
    for ours, wanted in zip(found, plain, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=1e-3)


def test_without_the_one_kernel_attention_takes_three(launched: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "window_block")
    fused.attention_block(torch.randn(1, 4, 3, 16), attention_weights())
    assert launched == {"pointwise", "window_attention"}
