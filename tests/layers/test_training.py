"""Blocks in training on the CPU: one operation or the plain modules, with the same results."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hrformer.layers import blocks, training
from hrformer.layers.blocks import ConvFFN, TransformerBlock
from hrformer.models.trunk import _recomputed
from hrformer.ops import feed_forward
from hrformer.train.distributed import SharedBatchNorm2d

Step = tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the operations that ran instead of plain modules."""
    seen: list[str] = []

    def watch(name: str) -> None:
        run: Callable[..., Tensor] = getattr(training, name)
        monkeypatch.setattr(training, name, lambda *args, **kwargs: (seen.append(name), run(*args, **kwargs))[1])

    watch("window_attention_training")
    watch("feed_forward_training")
    return seen


BOTH = ["window_attention_training", "feed_forward_training"]


def block(dtype: torch.dtype = torch.float32, **options) -> TransformerBlock:
    """A block whose norms and bias table change what they touch."""
    made = TransformerBlock(8, 2, **options).to(dtype)
    for name, p in made.named_parameters():
        if "norm" in name or "table" in name:
            nn.init.normal_(p, 1.0 if name.endswith("weight") else 0.0, 0.3)
    return made.train()


def step(module: nn.Module, x: Tensor, seed: int = 0) -> Step:
    """Output, gradients (of the input too) and buffers after one forward and backward pass."""
    torch.manual_seed(seed)
    leaf = x.clone().requires_grad_()
    y = module(leaf)
    (y * torch.linspace(0, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    grads = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return y.detach(), grads | {"input": leaf.grad}, dict(module.named_buffers())


def assert_equal(ours: Step, theirs: Step, tolerance: float) -> None:
    """Equal relative to the largest entry of each tensor, or of all gradients where the exact value is zero."""
    largest = max(g.abs().max() for g in theirs[1].values())
    torch.testing.assert_close(ours[0], theirs[0], rtol=tolerance, atol=tolerance * theirs[0].abs().max().item())
    assert ours[1].keys() == theirs[1].keys()
    for name, expected in theirs[1].items():
        assert (ours[1][name] - expected).abs().max() <= tolerance * largest, name
    for name, expected in theirs[2].items():
        torch.testing.assert_close(ours[2][name], expected)


def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "attention_applies", lambda *_: False)
    monkeypatch.setattr(blocks, "feed_forward_applies", lambda *_: False)


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "recomputed"])
@pytest.mark.parametrize("size", [(14, 7), (9, 12), (1, 2)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_block_equals_the_plain_modules(
    size: tuple[int, int],
    dtype: torch.dtype,
    tolerance: float,
    stored: bool,
    calls: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed_forward, "STORE_FROM", 1 if stored else 128)
    ours = block(dtype, drop_path=0.3)
    theirs = copy.deepcopy(ours)
    x = torch.randn(4, 8, *size, dtype=dtype)
    got = step(ours, x)
    assert calls == BOTH
    plain(monkeypatch)
    assert_equal(got, step(theirs, x), tolerance)
    assert calls == BOTH, "the second step was plain"


def test_feed_forward_alone(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ConvFFN(6, 24)
    theirs, x = copy.deepcopy(ours), torch.randn(2, 6, 5, 7)
    got = step(ours, x)
    assert calls == BOTH[1:]
    plain(monkeypatch)
    assert_equal(got, step(theirs, x), 2e-5)


def test_steps_are_deterministic() -> None:
    ours, x = block(), torch.randn(2, 8, 14, 14)
    again = copy.deepcopy(ours)
    first, second = step(ours, x), step(again, x)
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(first[1][name], second[1][name]) for name in first[1])


@pytest.mark.parametrize("run", [_recomputed, partial(checkpoint, use_reentrant=False)], ids=["trunk", "torch"])
def test_recomputation_gives_the_same_bits(run: Callable[[nn.Module, Tensor], Tensor], calls: list[str]) -> None:
    ours, x = block(), torch.randn(2, 8, 7, 14)
    again = copy.deepcopy(ours)
    leaf, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    run(ours, leaf).square().sum().backward()
    assert calls == BOTH * 2
    again(other).square().sum().backward()
    assert torch.equal(leaf.grad, other.grad)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(ours.parameters(), again.parameters(), strict=True))


def test_trunk_recomputation_counts_a_batch_once() -> None:
    ours = block()
    _recomputed(ours, torch.randn(2, 8, 7, 7, requires_grad=True)).sum().backward()
    assert ours.ffn.norm2.num_batches_tracked == 1


def test_frozen_parts_get_no_gradient(calls: list[str]) -> None:
    ours = block()
    ours.attn.requires_grad_(False)
    ours.ffn.fc2.requires_grad_(False)
    ours(torch.randn(2, 8, 7, 7)).sum().backward()
    assert calls == BOTH
    without = {name for name, p in ours.named_parameters() if p.grad is None}
    assert without == {name for name, p in ours.named_parameters() if not p.requires_grad}


def _hooked(b: TransformerBlock) -> None:
    b.ffn.norm2.register_forward_hook(lambda *_: None)
    b.attn.qkv.register_full_backward_hook(lambda *_: None)


def _shared_norm(b: TransformerBlock) -> None:
    b.ffn.norm1.__class__ = SharedBatchNorm2d
    b.norm1.__class__ = type("Watched", (nn.LayerNorm,), {})


def _frozen_statistics(b: TransformerBlock) -> None:
    b.ffn.norm3.eval()
    b.attn.eval()


@pytest.mark.parametrize("change", [_hooked, _shared_norm, _frozen_statistics, lambda b: b.eval()])
def test_changed_modules_run_as_they_are(change: Callable[[TransformerBlock], object], calls: list[str]) -> None:
    ours = block()
    change(ours)
    ours(torch.randn(2, 8, 7, 7)).sum().backward()
    assert calls == []


def _set(name: str, make: Callable[[], object]) -> Callable[[TransformerBlock], None]:
    """Put a new setting, parameter or buffer in its place, of whatever kind it is."""
    path, _, leaf = name.rpartition(".")

    def change(b: TransformerBlock) -> None:
        module = b.get_submodule(path)
        holders = [d for d in (module._parameters, module._buffers) if leaf in d]
        (holders or [module.__dict__])[0][leaf] = make()

    return change


def _retyped_table(b: TransformerBlock) -> None:
    b.attn.relative_position_bias_table.data = b.attn.relative_position_bias_table.data.double()


def _freed(name: str) -> Callable[[TransformerBlock], None]:
    def change(b: TransformerBlock) -> None:
        module, _, leaf = name.rpartition(".")
        tensor = getattr(b.get_submodule(module), leaf)
        setattr(b.get_submodule(module), leaf, type(tensor)(tensor.detach().clone()))
        getattr(b.get_submodule(module), leaf).untyped_storage().resize_(0)

    return change


UNFIT = {
    "short mean": _set("ffn.norm1.running_mean", lambda: torch.zeros(8)),
    "short float64 variance": _set("ffn.norm1.running_var", lambda: torch.ones(8, dtype=torch.float64)),
    "float64 mean": _set("ffn.norm1.running_mean", lambda: torch.zeros(32, dtype=torch.float64)),
    "negated variance": _set("ffn.norm1.running_var", lambda: torch._neg_view(torch.full((32,), -2.0))),
    "one gain": _set("ffn.norm2.weight", lambda: nn.Parameter(torch.ones(1))),
    "one shift": _set("ffn.norm3.bias", lambda: nn.Parameter(torch.ones(1))),
    "one projection bias": _set("attn.proj.bias", lambda: nn.Parameter(torch.ones(1))),
    "zero tensor": _set("attn.qkv.bias", lambda: nn.Parameter(torch._efficientzerotensor((24,)))),
    "freed weight": _freed("attn.qkv.weight"),
    "freed mean": _freed("ffn.norm1.running_mean"),
    "no tracking": _set("ffn.norm1.track_running_stats", lambda: False),
    "tensor momentum": _set("ffn.norm1.momentum", lambda: torch.tensor(0.3)),
    "tensor eps": _set("ffn.norm2.eps", lambda: torch.tensor(0.1)),
    "tensor eps of a layer norm": _set("norm1.eps", lambda: torch.tensor(0.1)),
    "float64 table": _retyped_table,
    "other index": _set("attn.relative_position_index", lambda: torch.zeros(4, dtype=torch.int64)),
    **{f"{heads} heads": _set("attn.num_heads", lambda heads=heads: heads) for heads in (1, 3, 4, 5, 2.0)},
}


@pytest.mark.parametrize("change", UNFIT.values(), ids=UNFIT.keys())
def test_unfit_settings_and_tensors_are_the_plain_modules_business(
    change: Callable[[TransformerBlock], None], calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the two operations does not run; results, statistics and errors are those of the plain modules."""

    def outcome(made: TransformerBlock) -> Step | str:
        try:
            return step(made, x)
        except (RuntimeError, TypeError) as error:
            return str(error)

    ours, x = block(), torch.randn(2, 8, 9, 7)
    theirs = copy.deepcopy(ours)
    change(ours)
    change(theirs)
    found = outcome(ours)
    assert len(calls) < len(BOTH)
    plain(monkeypatch)
    expected = outcome(theirs)
    if isinstance(expected, str):
        assert found == expected
    else:
        assert_equal(found, expected, 2e-5)


def test_running_average_of_all_batches_stays_plain(calls: list[str]) -> None:
    ours = ConvFFN(6, 24)
    ours.norm1.momentum = None
    ours(torch.randn(2, 6, 5, 5))
    assert calls == []
    torch.testing.assert_close(ours.norm1.num_batches_tracked, torch.tensor(1))


def test_a_single_cell_is_refused_as_batch_norm_does() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        block()(torch.randn(1, 8, 1, 1))


def test_autocast_takes_the_plain_modules(calls: list[str]) -> None:
    ours = block()
    with torch.autocast("cpu", torch.bfloat16):
        ours(torch.randn(2, 8, 7, 7)).float().sum().backward()
    assert calls == []
    assert all(p.grad is not None and p.grad.isfinite().all() for p in ours.parameters())


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::FutureWarning")
def test_no_grad_and_tracing_take_the_plain_modules(calls: list[str]) -> None:
    ours, x = block(), torch.randn(2, 8, 7, 7)
    with torch.no_grad():
        ours(x)
    torch.jit.trace(ours, x, check_trace=False)
    torch.func.functional_call(ours, dict(ours.named_parameters()), (x,))
    assert calls == BOTH, "only the last one trains"


def test_compiled_blocks_have_no_graph_break(calls: list[str]) -> None:
    ours, x = block(), torch.randn(2, 8, 7, 7)
    theirs = copy.deepcopy(ours)
    compiled = torch.compile(ours, backend="eager", fullgraph=True)
    y = compiled(x)
    assert calls == []
    torch.testing.assert_close(y, theirs(x))


@pytest.mark.parametrize("drop_statistics", [False, True])
def test_feed_forward_through_the_depthwise_stage_equals_the_plain_one(
    monkeypatch: pytest.MonkeyPatch, drop_statistics: bool
) -> None:
    """What CUDA takes, with the stage's plain reference in the kernels' place."""
    torch.manual_seed(1)
    made = block().ffn
    if drop_statistics:
        made.norm2.num_batches_tracked = None
    x = torch.randn(2, 8, 9, 7).contiguous(memory_format=torch.channels_last)
    monkeypatch.setattr(blocks, "feed_forward_applies", lambda *_: False)
    theirs = step(copy.deepcopy(made), x)
    monkeypatch.setattr(training, "kernels_train", lambda _: True)
    seen: list[Tensor] = []
    run = training.conv_ffn_training
    monkeypatch.setattr(training, "conv_ffn_training", lambda x, *rest: (seen.append(x), run(x, *rest))[1])
    assert_equal(step(made, x), theirs, 1e-4)
    assert len(seen) == 1
    made.norm1.register_forward_hook(lambda *_: None)
    made(x)
    made.eval()(x)
    assert len(seen) == 1
