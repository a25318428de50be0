"""The depthwise stage of training: reference, operator, registration, precision, checkpointing, compilation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from hrformer.fast.triton.feed_forward_op import (
    backward_with_kernels,
    depthwise_stage,
    depthwise_stage_backward_op,
    depthwise_stage_op,
    forward_with_kernels,
)

Stage = tuple[Tensor, ...]
FUNCTIONS = [depthwise_stage_op, depthwise_stage]


def inputs(size: tuple[int, int, int] = (2, 5, 4), dtype: torch.dtype = torch.float64) -> Stage:
    """u, mean, scale, shift, weight, bias of three channels, all needing a gradient."""
    channels = 3
    shapes = ((*size, channels), (channels,), (channels,), (channels,), (channels, 1, 3, 3), (channels,))
    return tuple(torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes)


def loss(results: Stage) -> Tensor:
    """Depends on all three results, differently on every element."""
    return sum((result.double() * torch.linspace(1, 2, result.numel()).view(result.shape)).sum() for result in results)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_equals_modules_in_training(function) -> None:
    """Batch norm, GELU, convolution and a second batch norm as modules: values and all gradients."""
    u = torch.randn(2, 5, 4, 3, dtype=torch.float64, requires_grad=True)
    norm1, norm2 = nn.BatchNorm2d(3).double(), nn.BatchNorm2d(3).double()
    conv = nn.Conv2d(3, 3, 3, padding=1, groups=3).double()
    for norm in (norm1, norm2):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    leaves = [u, *norm1.parameters(), *conv.parameters(), *norm2.parameters()]
    expected = norm2(conv(nn.GELU()(norm1(u.permute(0, 3, 1, 2))))).permute(0, 2, 3, 1)
    variance, mean = torch.var_mean(u, (0, 1, 2), correction=0)
    y, y_mean, y_variance = function(
        u, mean, norm1.weight * (variance + norm1.eps).rsqrt(), norm1.bias, conv.weight, conv.bias
    )
    found = (y - y_mean) * norm2.weight * (y_variance + norm2.eps).rsqrt() + norm2.bias
    torch.testing.assert_close(found, expected)
    gradient = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, leaves, gradient), torch.autograd.grad(expected, leaves, gradient)
    )


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("size", [(2, 3, 4), (1, 1, 1)])
def test_gradients_by_finite_differences(size: tuple[int, int, int], function) -> None:
    assert torch.autograd.gradcheck(function, inputs(size), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_registration(dtype: torch.dtype) -> None:
    u, *vectors = inputs(dtype=torch.float32)
    arguments = (u.detach().to(dtype).requires_grad_(), *vectors)
    torch.library.opcheck(depthwise_stage_op, arguments)
    y, y_mean, y_variance = (result.detach() for result in depthwise_stage_op(*arguments))
    saved = (y, y_mean, *(tensor.detach() for tensor in arguments[:5]))
    torch.library.opcheck(depthwise_stage_backward_op, (torch.randn_like(y), y_mean, y_variance, *saved))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_empty_batch(function) -> None:
    leaves = inputs((0, 5, 4))
    results = function(*leaves)
    assert results[0].shape == (0, 5, 4, 3)
    assert all(not result.any() for result in results[1:])
    sum(result.sum() for result in results).backward()
    assert all(leaf.grad is not None and not leaf.grad.any() for leaf in leaves)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_checkpointing_changes_nothing(function) -> None:
    leaves = inputs()
    plain = torch.autograd.grad(loss(function(*leaves)), leaves)
    stored_less = torch.autograd.grad(loss(checkpoint(function, *leaves, use_reentrant=False)), leaves)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(stored_less, plain, strict=True))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_half_precision_map_with_full_precision_parameters(function) -> None:
    leaves = inputs(dtype=torch.float32)
    exact = torch.autograd.grad(loss(depthwise_stage(*(leaf.double() for leaf in leaves))), leaves)
    with torch.autocast("cpu", torch.bfloat16):
        results = function(leaves[0].bfloat16(), *leaves[1:])
    assert [result.dtype for result in results] == [torch.bfloat16, torch.float32, torch.float32]
    for found, wanted in zip(torch.autograd.grad(loss(results), leaves), exact, strict=True):
        # bfloat16 keeps 8 bits: 2 ** -8 for each of a handful of roundings.
        assert (found - wanted).norm() < 0.03 * wanted.norm()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_compiles_whole_without_recompiling_for_sizes(function) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, backend=counter, fullgraph=True, dynamic=True)
    for size in ((2, 5, 4), (3, 7, 6)):
        leaves = inputs(size)
        expected = torch.autograd.grad(loss(depthwise_stage(*leaves)), leaves)
        torch.testing.assert_close(torch.autograd.grad(loss(compiled(*leaves)), leaves), expected)
    assert counter.frame_count == 1


def test_fake_device_takes_the_operator() -> None:
    """Fake tensors stand for a device that need not be there; float64 would take the reference."""
    pytest.importorskip("triton")
    with FakeTensorMode():
        u = torch.empty(2, 5, 4, 3, dtype=torch.float16, device="cuda", requires_grad=True)
        vectors = [torch.empty(size, device="cuda") for size in ((3,), (3,), (3,), (3, 1, 3, 3), (3,))]
        y, y_mean, y_variance = depthwise_stage(u, *vectors)
        assert y.grad_fn is not None
        assert "depthwise_stage" in type(y.grad_fn).__name__
        assert (y.shape, y.dtype, y_mean.shape, y_variance.dtype) == (u.shape, u.dtype, (3,), torch.float32)


def test_kernels_behind_the_operator_agree_with_its_plain_body() -> None:
    pytest.importorskip("triton")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    on_cpu = [leaf.detach() for leaf in inputs(dtype=torch.float32)]
    results = forward_with_kernels(*(tensor.to(device) for tensor in on_cpu))
    expected = depthwise_stage_op(*on_cpu)
    # float32 sums of at most 40 products of numbers around 1
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close([result.cpu() for result in results], list(expected), **close)
    arguments = (torch.randn_like(expected[0]), *expected[1:], *expected[:2], *on_cpu[:5])
    found = backward_with_kernels(*(tensor.to(device) for tensor in arguments))
    wanted = depthwise_stage_backward_op(*arguments)
    torch.testing.assert_close([grad.cpu() for grad in found], list(wanted), **close)
