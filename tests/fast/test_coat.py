"""The coat: blocks that train on kernels give what the plain ones give, and leave to these what is not theirs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.debugging import aot_eager
from torch.utils.checkpoint import checkpoint

from hrformer.fast import coat
from hrformer.fast.coat import FastTransformerBlock, RecomputedBranch, put_on, take_off
from hrformer.fast.x86 import training
from hrformer.fast.x86.library import find_library
from hrformer.models.blocks import TransformerBlock
from hrformer.train.distributed import SharedBatchNorm2d

needs_kernels = pytest.mark.skipif(find_library()[0] is None, reason=find_library()[1] or "-")

Step = tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the operations that ran instead of plain modules."""
    seen: list[str] = []

    def watch(name: str) -> None:
        run: Callable[..., Tensor] = getattr(coat, name)
        monkeypatch.setattr(coat, name, lambda *args, **kwargs: (seen.append(name), run(*args, **kwargs))[1])

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
    return put_on(made.train())


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


@needs_kernels
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "recomputed"])
@pytest.mark.parametrize("size", [(14, 7), (9, 12), (1, 2)])
def test_block_equals_the_plain_one(
    size: tuple[int, int], stored: bool, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "STORE_FROM", 1 if stored else 128)
    ours = block(drop_path=0.3)
    theirs = take_off(copy.deepcopy(ours))
    assert type(theirs) is TransformerBlock
    x = torch.randn(4, 8, *size)
    got = step(ours, x)
    assert calls == BOTH
    assert_equal(got, step(theirs, x), 2e-5)
    assert calls == BOTH, "the second step was plain"


def test_one_switch_leaves_networks_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRFORMER_FAST", "0")
    assert type(block()) is TransformerBlock
    monkeypatch.delenv("HRFORMER_FAST")
    assert type(block()) is FastTransformerBlock


def test_steps_are_deterministic() -> None:
    ours, x = block(), torch.randn(2, 8, 14, 14)
    again = copy.deepcopy(ours)
    first, second = step(ours, x), step(again, x)
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(first[1][name], second[1][name]) for name in first[1])


def recomputed(module: nn.Module, x: Tensor) -> Tensor:
    return RecomputedBranch(module).train()(x)


@needs_kernels
@pytest.mark.parametrize("run", [recomputed, partial(checkpoint, use_reentrant=False)], ids=["trunk", "torch"])
def test_recomputation_gives_the_same_bits(run: Callable[[nn.Module, Tensor], Tensor], calls: list[str]) -> None:
    ours, x = block(), torch.randn(2, 8, 7, 14)
    again = copy.deepcopy(ours)
    leaf, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    run(ours, leaf).square().sum().backward()
    assert calls == BOTH * 2
    again(other).square().sum().backward()
    assert torch.equal(leaf.grad, other.grad)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(ours.parameters(), again.parameters(), strict=True))


def test_recomputation_counts_a_batch_once() -> None:
    ours = block()
    recomputed(ours, torch.randn(2, 8, 7, 7, requires_grad=True)).sum().backward()
    assert ours.ffn.norm2.num_batches_tracked == 1


@needs_kernels
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
    change: Callable[[TransformerBlock], None], calls: list[str]
) -> None:
    """One of the two operations does not run; results, statistics and errors are those of the plain modules."""

    def outcome(made: TransformerBlock) -> Step | str:
        try:
            return step(made, x)
        except (RuntimeError, TypeError) as error:
            return str(error)

    ours, x = block(), torch.randn(2, 8, 9, 7)
    theirs = take_off(copy.deepcopy(ours))
    change(ours)
    change(theirs)
    found = outcome(ours)
    assert len(calls) < len(BOTH)
    expected = outcome(theirs)
    if isinstance(expected, str):
        assert found == expected
    else:
        assert_equal(found, expected, 2e-5)


def test_running_average_of_all_batches_stays_plain(calls: list[str]) -> None:
    ours = block()
    ours.ffn.norm1.momentum = None
    ours(torch.randn(2, 8, 5, 5))
    assert "feed_forward_training" not in calls
    torch.testing.assert_close(ours.ffn.norm1.num_batches_tracked, torch.tensor(1))


def test_a_single_cell_is_refused_as_batch_norm_does() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        block()(torch.randn(1, 8, 1, 1))


def test_autocast_takes_the_plain_modules_without_kernels_in_bfloat16(
    calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "find_half_library", lambda: (None, "none here"))
    ours = block()
    with torch.autocast("cpu", torch.bfloat16):
        ours(torch.randn(2, 8, 7, 7)).float().sum().backward()
    assert calls == []
    assert all(p.grad is not None and p.grad.isfinite().all() for p in ours.parameters())


@needs_kernels
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


@pytest.mark.parametrize("size", [(7, 14), (9, 5)])
@pytest.mark.parametrize("drop_statistics", [False, True])
def test_the_operators_of_gpus_change_nothing(
    monkeypatch: pytest.MonkeyPatch, drop_statistics: bool, size: tuple[int, int]
) -> None:
    """The way that CUDA tensors go in training; on the CPU the plain references of the operators run."""
    made = block()
    if drop_statistics:
        made.ffn.norm2.num_batches_tracked = None
    x = torch.randn(2, 8, *size).contiguous(memory_format=torch.channels_last)
    theirs = step(take_off(copy.deepcopy(made)), x)
    monkeypatch.setattr(coat, "on_gpu", lambda _: True)
    monkeypatch.setattr(coat, "_trains_on_cpu", lambda *_: False)
    seen: list[str] = []
    for name in ("conv_ffn_training", "window_attention_core"):
        run = getattr(coat, name)
        monkeypatch.setattr(coat, name, lambda *args, n=name, run=run, **kw: (seen.append(n), run(*args, **kw))[1])
    assert_equal(step(made, x), theirs, 1e-4)
    assert sorted(seen) == ["conv_ffn_training", "window_attention_core"]
    made.ffn.norm1.register_forward_hook(lambda *_: None)
    made(x)
    made.eval()(x)
    assert seen.count("conv_ffn_training") == 1


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch", [1, 2])
def test_one_compiled_graph_serves_all_sizes(batch: int, training: bool) -> None:
    """With and without padding, with one window and with more, smaller than a window."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return aot_eager(graph, inputs)

    ours = block().train(training)
    made = 0
    compiled = torch.compile(ours.attend, backend=backend, fullgraph=True, dynamic=True)
    for size in [(14, 21), (3, 9), (8, 6), (15, 28), (2, 3), (7, 5)]:
        x = torch.randn(batch, *size, 8)
        expected = torch.autograd.grad(ours.attend(x).square().sum(), list(ours.attn.parameters()))
        got = torch.autograd.grad(compiled(x).square().sum(), list(ours.attn.parameters()))
        largest = max(grad.abs().max().item() for grad in expected)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * largest)
        made = made or len(graphs)
    assert len(graphs) == made, "only the first size compiles"


def test_a_changed_projection_is_compiled_as_it_is() -> None:
    torch._dynamo.reset()
    ours, x = block().eval(), torch.randn(1, 8, 5, 9)
    ours.attn.qkv = nn.Sequential(ours.attn.qkv, nn.Tanh())
    compiled = torch.compile(ours, backend="eager", fullgraph=True, dynamic=True)
    torch.testing.assert_close(compiled(x), ours(x))


def test_torchscript_gets_the_plain_block() -> None:
    ours, x = block().eval(), torch.randn(1, 8, 5, 9)
    torch.testing.assert_close(torch.jit.script(ours)(x), ours(x))
