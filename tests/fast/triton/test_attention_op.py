"""The window attention operator: gradients, registration, precision, checkpointing, compilation, dispatch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from hrformer.fast.triton import attention_op as attention
from hrformer.fast.triton.attention_op import (
    backward_with_kernels,
    forward_with_kernels,
    window_attention_backward_op,
    window_attention_core,
    window_attention_op,
    window_attention_reference,
)
from plain_attention import window_attention

NAMES = ("qkv", "pad_token", "bias")


def inputs(size: tuple[int, int, int] = (2, 5, 8), *, window: int = 3, dtype: torch.dtype = torch.float64):
    """Packed map, padded token and bias of two heads of three dimensions, all needing a gradient."""
    tokens = window * window
    shapes = ((*size, 18), (18,), (2, tokens, tokens))
    return tuple(torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes)


def op(qkv: Tensor, pad_token: Tensor, bias: Tensor | None) -> Tensor:
    return window_attention_op(qkv, pad_token, bias, 3, 2)[0]


def core(qkv: Tensor, pad_token: Tensor, bias: Tensor | None) -> Tensor:
    return window_attention_core(qkv, pad_token, bias, window=3, num_heads=2)


@pytest.mark.parametrize("size", [(2, 6, 9), (2, 5, 8), (1, 2, 1), (3, 3, 3)])
@pytest.mark.parametrize("function", [op, core])
def test_equals_the_whole_window_attention(size: tuple[int, int, int], function) -> None:
    """Between the two products of the plain layer, which other tests compare with published code."""
    x = torch.randn(*size, 6, dtype=torch.float64)
    weight, vector = torch.randn(18, 6, dtype=torch.float64), torch.randn(18, dtype=torch.float64)
    bias = torch.randn(2, 9, 9, dtype=torch.float64)
    identity, zero = torch.eye(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    whole = window_attention(x, weight, vector, identity, zero, bias, window=3, num_heads=2)
    torch.testing.assert_close(function(torch.nn.functional.linear(x, weight, vector), vector, bias), whole)


@pytest.mark.parametrize("function", [op, core])
@pytest.mark.parametrize("size", [(1, 4, 2), (1, 3, 3)])
def test_gradients_by_finite_differences(size: tuple[int, int, int], function) -> None:
    assert torch.autograd.gradcheck(function, inputs(size), fast_mode=True)


@pytest.mark.parametrize("with_bias", [True, False])
def test_operator_has_the_gradients_of_the_reference(with_bias: bool) -> None:
    leaves = inputs()[: 2 + with_bias]
    bias = leaves[2] if with_bias else None
    out, expected = op(*leaves[:2], bias), core(*leaves[:2], bias)
    gradient = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(out, leaves, gradient), torch.autograd.grad(expected, leaves, gradient)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [True, False])
def test_registration(dtype: torch.dtype, with_bias: bool) -> None:
    qkv, pad_token, bias = inputs(dtype=dtype)
    arguments = (qkv, pad_token, bias if with_bias else None, 3, 2)
    torch.library.opcheck(window_attention_op, arguments)
    tensors = [None if tensor is None else tensor.detach() for tensor in arguments[:3]]
    out, softmax = (result.detach() for result in window_attention_op(*arguments))
    torch.library.opcheck(
        window_attention_backward_op, (torch.randn_like(out), *tensors, out, softmax, 3, 2, with_bias)
    )


def test_frozen_bias_gets_no_gradient() -> None:
    qkv, pad_token, bias = inputs()
    op(qkv, pad_token, bias.requires_grad_(False)).sum().backward()
    assert bias.grad is None
    assert qkv.grad is not None
    assert pad_token.grad is not None


@pytest.mark.parametrize("function", [op, core])
def test_empty_batch(function) -> None:
    leaves = inputs((0, 5, 8))
    out = function(*leaves)
    assert out.shape == (0, 5, 8, 6)
    out.sum().backward()
    # torch's attention gives an untouched mask no gradient at all
    assert all(leaf.grad is None or not leaf.grad.any() for leaf in leaves)


@pytest.mark.parametrize("function", [op, core])
def test_checkpointing_changes_nothing(function) -> None:
    leaves = inputs()
    plain = torch.autograd.grad(function(*leaves).square().sum(), leaves)
    stored_less = torch.autograd.grad(checkpoint(function, *leaves, use_reentrant=False).square().sum(), leaves)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(stored_less, plain, strict=True))


@pytest.mark.parametrize("function", [op, core])
def test_autocast_takes_half_precision_maps_and_full_precision_parameters(function) -> None:
    """As in a layer: the product gives bfloat16, the padded token and the bias are float32 parameters."""
    leaves = inputs(dtype=torch.float32)
    exact = torch.autograd.grad(core(*(leaf.double() for leaf in leaves)).square().sum(), leaves)
    with torch.autocast("cpu", torch.bfloat16):
        pad_token = leaves[1].bfloat16() if function is op else leaves[1]
        out = function(leaves[0].bfloat16(), pad_token, leaves[2])
        loss = out.float().square().sum()
    assert out.dtype == torch.bfloat16
    for name, leaf, found, wanted in zip(NAMES, leaves, torch.autograd.grad(loss, leaves), exact, strict=True):
        assert found.dtype == leaf.dtype
        # bfloat16 keeps 8 bits: 2 ** -8 for each of a handful of roundings.
        assert (found - wanted).norm() < 0.03 * wanted.norm(), name


@pytest.mark.parametrize("function", [op, core])
def test_compiles_whole_without_recompiling_for_sizes(function) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, backend=counter, fullgraph=True, dynamic=True)
    for size in ((4, 5, 8), (3, 7, 10)):
        leaves = inputs(size)
        expected = torch.autograd.grad(core(*leaves).square().sum(), leaves)
        torch.testing.assert_close(torch.autograd.grad(compiled(*leaves).square().sum(), leaves), expected)
    # Splitting an open size into windows asks how many there are, which may cost the reference one more graph.
    assert counter.frame_count <= (1 if function is op else 2)


def test_which_maps_take_the_kernels() -> None:
    """Fake tensors stand for a device that need not be there; the operator then gives its fake result."""
    with FakeTensorMode():
        for dtype, expected in ((torch.float16, True), (torch.bfloat16, True), (torch.float32, False)):
            qkv = torch.empty(2, 5, 8, 18, dtype=dtype, device="cuda")
            assert attention.uses_kernel(qkv, 2) is (expected and attention.HAVE_TRITON)
            assert not attention.uses_kernel(qkv.cpu(), 2)
        wide = torch.empty(1, 1, 1, 3 * 129, dtype=torch.float16, device="cuda")
        assert not attention.uses_kernel(wide, 1)


def test_fake_device_takes_the_operator() -> None:
    pytest.importorskip("triton")
    with FakeTensorMode():
        qkv = torch.empty(2, 5, 8, 18, dtype=torch.float16, device="cuda", requires_grad=True)
        pad_token = torch.empty(18, device="cuda", requires_grad=True)
        out = window_attention_core(qkv, pad_token, None, window=3, num_heads=2)
        assert (out.shape, out.dtype, out.device.type) == ((2, 5, 8, 6), torch.float16, "cuda")
        assert out.grad_fn is not None
        assert "window_attention" in type(out.grad_fn).__name__


@pytest.mark.parametrize("with_bias", [True, False])
def test_kernels_behind_the_operator_agree_with_its_plain_body(
    with_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(attention, "uses_kernel", lambda qkv, num_heads: True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    qkv, pad_token, bias = (leaf.detach().to(device) for leaf in inputs(dtype=torch.float32))
    bias = bias if with_bias else None
    results = forward_with_kernels(qkv, pad_token, bias, 3, 2)
    on_cpu = [None if tensor is None else tensor.cpu() for tensor in (qkv, pad_token, bias)]
    expected = window_attention_op(*on_cpu, 3, 2)
    # float32 sums of at most nine products of numbers around 1
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close([result.cpu() for result in results], list(expected), **close)
    gradient = torch.randn_like(results[0])
    found = backward_with_kernels(gradient, qkv, pad_token, bias, *results, 3, 2, with_bias)
    wanted = window_attention_backward_op(gradient.cpu(), *on_cpu, *expected, 3, 2, with_bias)
    torch.testing.assert_close([grad.cpu() for grad in found], list(wanted), **close)


def test_reference_is_what_a_cpu_takes() -> None:
    leaves = inputs()
    assert torch.equal(core(*leaves), window_attention_reference(*leaves, window=3, num_heads=2))
