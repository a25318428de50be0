"""Batch norms with what follows them, and sums of branches, in training by the compiled kernels.

Outputs, gradients and statistics against float64, beside PyTorch's own operations.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrformer.fast import coat_maps
from hrformer.fast.coat import put_on, take_off
from hrformer.fast.x86 import training as native_training
from hrformer.fast.x86.build import INSTRUCTION_SETS
from hrformer.fast.x86.library import kernel_threads
from hrformer.fast.x86.training import RunningStatistics
from hrformer.fast.x86.training_maps import batch_norm_training, fusion_training
from hrformer.models.blocks import BasicBlock, Bottleneck, conv_bn_relu
from hrformer.models.fusion import FusionUnit
from kernel_accuracy import compiled_library, nan_filled_buffers

Results = dict[str, Tensor]

MAPS = [(2, 32, 21, 20), (1, 18, 7, 5), (3, 5, 1, 9), (2, 1, 4, 4), (9, 6, 1, 1), (2, 256, 9, 3), (1, 78, 30, 31)]
"""(batch, channels, height, width)"""


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


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that ran instead of plain modules."""
    seen: list[str] = []
    for name in ("batch_norm_training", "fusion_training"):
        run = getattr(coat_maps, name)

        def watched(*args, _name: str = name, _run=run, **kwargs) -> Tensor:
            seen.append(_name)
            result: Tensor = _run(*args, **kwargs)
            return result

        monkeypatch.setattr(coat_maps, name, watched)
    return seen


def channels_last(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=dtype).contiguous(memory_format=torch.channels_last)


def run_norm(leaves: Results, *, relu: bool, plain: bool) -> Results:
    """Output, gradients of a fixed weighted sum of it, and statistics, by name."""
    own = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}
    x, weight, bias, added = own["x"], own["weight"], own["bias"], own.get("added")
    mean, var = torch.full_like(bias, 0.5), torch.full_like(bias, 2.0)
    if plain:
        y = F.batch_norm(x, mean, var, weight, bias, True, 0.2, 1e-5)
        y = y if added is None else y + added
        y = y.relu() if relu else y
    else:
        y = batch_norm_training(x, weight, bias, RunningStatistics(mean, var, 0.2, 1e-5), added=added, relu=relu)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    grads = dict(zip(own, torch.autograd.grad(y, list(own.values()), grad), strict=True))
    return {"y": y.detach(), "mean": mean.detach(), "var": var.detach(), **grads}


def assert_accurate(ours: Results, plainly: Results, exact: Results) -> None:
    """Norms of errors: at most twice those of PyTorch's own operations, and eight roundings of every number."""
    for name, true in exact.items():
        allowed = 2 * (plainly[name] - true).norm() + 1e-6 * true.norm()
        assert (ours[name] - true).norm() <= allowed, name


def leaves_of(shape: tuple[int, ...], *, added: bool, offset: float = 0.0) -> Results:
    made = {"x": channels_last(*shape) + offset, "weight": torch.rand(shape[1]) + 0.5, "bias": torch.randn(shape[1])}
    return made | ({"added": channels_last(*shape)} if added else {})


def doubled(leaves: Results) -> Results:
    return {name: leaf.double() for name, leaf in leaves.items()}


@pytest.mark.parametrize("relu", [True, False], ids=["relu", "linear"])
@pytest.mark.parametrize("added", [True, False], ids=["added", "alone"])
@pytest.mark.parametrize("shape", MAPS)
def test_batch_norm_is_accurate(shape: tuple[int, ...], added: bool, relu: bool) -> None:
    leaves = leaves_of(shape, added=added)
    ours, plainly = (run_norm(leaves, relu=relu, plain=plain) for plain in (False, True))
    exact = run_norm(doubled(leaves), relu=relu, plain=True)
    # Where rounding decides on which side of zero a number lies, nothing is wrong with either.
    same = (ours["y"] > 0) == (exact["y"] > 0)
    assert same.float().mean() > 0.99
    if bool(same.all()) or not relu:
        assert_accurate(ours, plainly, exact)


def test_statistics_far_from_zero_are_accurate() -> None:
    leaves = leaves_of((2, 18, 12, 12), added=False, offset=1000)
    ours, plainly = (run_norm(leaves, relu=False, plain=plain) for plain in (False, True))
    assert_accurate(ours, plainly, run_norm(doubled(leaves), relu=False, plain=True))


@pytest.mark.parametrize("threads", [1, 2, 3, 20])
def test_threads_repeat_themselves(threads: int) -> None:
    leaves = leaves_of((2, 18, 21, 20), added=True)
    terms = [channels_last(2, 18, 8, 8), channels_last(2, 18, 4, 4)]
    with kernel_threads(threads):
        first, second = (run_norm(leaves, relu=True, plain=False) for _ in range(2))
        sums = [fusion_training(terms, [1, 2]) for _ in range(2)]
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(*sums)


def test_nan_spreads() -> None:
    leaves = leaves_of((2, 5, 4, 4), added=False)
    leaves["x"][0, 3, 1, 1] = float("nan")
    found = run_norm(leaves, relu=True, plain=False)
    assert found["y"][:, 3].isnan().all()
    assert found["x"][:, 3].isnan().all()
    assert not found["y"][:, :3].isnan().any()


@pytest.mark.parametrize("frozen", ["x", "weight", "bias", "added"])
def test_what_is_frozen_gets_no_gradient(frozen: str) -> None:
    leaves = leaves_of((2, 5, 4, 4), added=True)
    for name, leaf in leaves.items():
        leaf.requires_grad_(name != frozen)
    kept = RunningStatistics(torch.zeros(5), torch.ones(5), 0.1, 1e-5)
    batch_norm_training(
        leaves["x"], leaves["weight"], leaves["bias"], kept, added=leaves["added"], relu=True
    ).sum().backward()
    assert {name for name, leaf in leaves.items() if leaf.grad is None} == {frozen}


def test_gradients_may_be_views_and_have_no_second_derivative() -> None:
    leaves = leaves_of((2, 6, 4, 3), added=False)
    x = leaves["x"].requires_grad_()
    kept = RunningStatistics(torch.zeros(6), torch.ones(6), 0.1, 1e-5)
    y = batch_norm_training(x, leaves["weight"], leaves["bias"], kept, relu=True)
    grad = torch.randn(2, 6, 4, 3)
    (expected,) = torch.autograd.grad(y, x, grad.contiguous(memory_format=torch.channels_last), retain_graph=True)
    for view in (grad, torch._neg_view(-grad), grad.transpose(-1, -2).contiguous().transpose(-1, -2)):
        (found,) = torch.autograd.grad(y, x, view, retain_graph=True)
        assert torch.equal(found, expected)
    (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("channels", [32, 18, 5])
@pytest.mark.parametrize("factors", [[1, 2, 4, 8], [1, 1, 2], [1, 1, 1], [1]])
def test_sums_are_accurate(factors: list[int], channels: int) -> None:
    terms = [channels_last(2, channels, 16 // f, 24 // f) for f in factors]
    grad = torch.randn(2, channels, 16, 24)

    def run(dtype: torch.dtype, *, plain: bool) -> Results:
        own = [term.to(dtype).requires_grad_() for term in terms]
        if plain:
            y = sum((F.interpolate(term, scale_factor=f) for term, f in zip(own, factors, strict=True))).relu()  # type: ignore[union-attr,arg-type,call-overload]
        else:
            y = fusion_training(own, factors)
        grads = torch.autograd.grad(y, own, grad.to(dtype))
        return {"y": y.detach(), **{f"term{i}": g for i, g in enumerate(grads)}}

    assert_accurate(run(torch.float32, plain=False), run(torch.float32, plain=True), run(torch.float64, plain=True))


def test_frozen_terms_get_no_gradient() -> None:
    terms = [channels_last(1, 5, 4, 4), channels_last(1, 5, 4, 4).requires_grad_(), channels_last(1, 5, 2, 2)]
    fusion_training(terms, [1, 1, 2]).sum().backward()
    assert [term.grad is None for term in terms] == [True, False, True]


def parts() -> dict[str, tuple[nn.Module, int]]:
    """Modules, and the kernels of one call."""
    return {
        "sequence": (nn.Sequential(*conv_bn_relu(6, 9, 3)), 1),
        "product": (nn.Sequential(*conv_bn_relu(6, 9, 1, bias=True)), 1),
        "without relu": (nn.Sequential(nn.Conv2d(6, 9, 1, bias=False), nn.BatchNorm2d(9)), 1),
        "bottleneck": (Bottleneck(6, 2), 4),
        "depthwise bottleneck": (Bottleneck(6, 3, depthwise=True), 4),
        "basic block": (BasicBlock(6), 2),
    }


@pytest.mark.parametrize("name", parts())
def test_parts_equal_the_plain_ones(name: str, calls: list[str]) -> None:
    """Twice: output, gradients, statistics and their count."""
    torch.manual_seed(0)
    plain, kernels = parts()[name]
    ours = put_on(copy.deepcopy(plain).train())
    x = channels_last(2, 6, 9, 7)
    for _ in range(2):
        found, expected = ours(x), plain.train()(x)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        found.square().sum().backward()
        expected.square().sum().backward()
    assert len(calls) == 2 * kernels
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-3)
    for one, other in zip(ours.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(one, other)
    assert ours.state_dict().keys() == plain.state_dict().keys()
    calls.clear()
    torch.testing.assert_close(ours.eval()(x), plain.eval()(x), rtol=1e-4, atol=1e-4)
    assert calls == []


def fusion(upsample: str = "nearest") -> FusionUnit:
    return FusionUnit([6, 8, 10], num_outputs=3, separable=True, upsample=upsample)  # type: ignore[arg-type]


@pytest.mark.parametrize(("size", "summed"), [((16, 12), 3), ((15, 12), 1), ((1, 1), 0)])
def test_fusion_equals_the_plain_one(size: tuple[int, int], summed: int, calls: list[str]) -> None:
    """Odd maps are resized a second time, by the plain operations."""
    torch.manual_seed(0)
    plain = fusion().train()
    ours = put_on(copy.deepcopy(plain))
    shapes = [(c, -(-size[0] // 2**i), -(-size[1] // 2**i)) for i, c in enumerate((6, 8, 10))]
    leaves = [channels_last(2, *shape).requires_grad_() for shape in shapes]
    others = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    found, expected = ours(leaves), plain(others)
    sum(y.square().sum() for y in found).backward()
    sum(y.square().sum() for y in expected).backward()
    for one, other in zip([*found, *(x.grad for x in leaves)], [*expected, *(x.grad for x in others)], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert calls.count("fusion_training") >= summed
    for one, other in zip(ours.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def _hooked(part: nn.Sequential) -> None:
    part[1].register_forward_hook(lambda *_: None)


def _watched_relu(part: nn.Sequential) -> None:
    part[2].register_forward_hook(lambda _, args, y: 2 * y)


def _average(part: nn.Sequential) -> None:
    part[1].momentum = None  # type: ignore[assignment]


def _frozen_statistics(part: nn.Sequential) -> None:
    part[1].eval()


def _own_forward(part: nn.Sequential) -> None:
    plainly = part[1].forward
    part[1].forward = lambda x: 3 * plainly(x)  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize("change", [_hooked, _watched_relu, _average, _frozen_statistics, _own_forward])
def test_changed_layers_run_as_they_are(change, calls: list[str]) -> None:
    made = put_on(nn.Sequential(*conv_bn_relu(6, 9, 3)).train())
    change(made)
    plain = take_off(copy.deepcopy(made))
    assert type(plain) is nn.Sequential
    x = channels_last(2, 6, 9, 7)
    torch.testing.assert_close(made(x), plain(x), rtol=1e-4, atol=1e-5)
    assert calls == []


def test_no_grad_eval_and_autocast_take_the_plain_modules(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_training, "find_half_library", lambda: (None, "none here"))
    made, x = put_on(Bottleneck(6, 2).train()), channels_last(2, 6, 9, 7)
    with torch.no_grad():
        made(x)
    with torch.autocast("cpu", torch.bfloat16):
        made(x)
    made.double()(x.double())
    made.float().eval()(x)
    assert calls == []


def test_one_cell_is_refused_as_plainly() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        put_on(nn.Sequential(*conv_bn_relu(6, 9, 1)).train())(torch.randn(1, 6, 1, 1))
