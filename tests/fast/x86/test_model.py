"""Whole models on the compiled kernels: same results as the plain network, any size, at once."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_structure

import hrformer.fast.choice as choice
import hrformer.fast.x86.model as module
from fast_models import assert_same, small
from half_libraries import LIBRARIES, any_half_library, half_library, use
from hrformer.fast.fused import fuse_trunk
from hrformer.fast.optimize import FastModel, optimize
from hrformer.fast.x86 import stages as native
from hrformer.fast.x86.library import find_library
from hrformer.fast.x86.model import native_model_refusal
from hrformer.models.blocks import ConvFFN
from hrformer.models.model import TASKS, VisionModel
from hrformer.zoo import create_model

needs_kernels = pytest.mark.skipif(find_library()[0] is None, reason=f"needs compiled kernels: {find_library()[1]}")


@needs_kernels
@pytest.mark.parametrize("task", TASKS)
def test_every_task_gives_the_same_result_at_once(task: str) -> None:
    model = small("hrformer_nano", task)
    fast = optimize(model)
    assert fast.backend == "native"
    for size in ((2, 3, 61, 83), (1, 3, 33, 32), (3, 3, 128, 96)):
        x = torch.randn(size)
        assert_same(fast(x), model(x))


@needs_kernels
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task"),
    [("hrformer_base", "pose"), ("hrformer_small", "segmentation"), ("hrformer_tiny", "classification")],
)
def test_published_sizes_give_the_same_result(name: str, task: str) -> None:
    model = small(name, task)
    x = torch.randn(2, 3, 128, 96)
    assert_same(optimize(model)(x), model(x))


@needs_kernels
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bilinear_aligned", "bilinear_to_size"])
def test_every_way_of_upsampling(mode: str) -> None:
    model = small("hrformer_nano", "pose")
    model.set_upsample(mode)
    x = torch.randn(1, 3, 77, 50)
    assert_same(optimize(model)(x), model(x))


@needs_kernels
def test_backbone_keeps_its_names_and_channels() -> None:
    model, x = small("hrformer_nano", None), torch.randn(1, 3, 40, 32)
    expected, found = model(x), optimize(model)(x)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert_same(found[name], value)


@needs_kernels
def test_kernels_run_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """No part of a pose model falls back: what is left to torch is moving memory."""
    model, x = small("hrformer_nano", "pose"), torch.randn(1, 3, 64, 48)
    fast = optimize(model)
    fast(x)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        fast(x)
    names = {event.key for event in profile.key_averages()}
    assert not {name for name in names if any(word in name for word in ("conv", "mm", "norm", "gelu", "softmax"))}


@needs_kernels
def test_a_size_that_comes_again_runs_from_a_recording() -> None:
    model = small("hrformer_nano", "pose")
    fused = module.NativeModel(model)
    trunk = fused.fused.backbone
    for _ in range(3):
        x = torch.randn(2, 3, 64, 96)
        assert torch.equal(fused(x), module.NativeModel(model)(x))
    assert [program is not None for program in trunk._programs.values()] == [True]
    other = torch.randn(1, 3, 32, 32)
    assert_same(fused(other), model(other))
    assert len(trunk._programs) == 1  # seen once


@needs_kernels
@pytest.mark.parametrize(("batch", "threads", "chained"), [(4, 2, True), (2, 1, True), (3, 2, False), (1, 1, False)])
def test_pictures_go_through_branches_one_by_one_where_there_are_enough(
    batch: int, threads: int, chained: bool
) -> None:
    model, x = small("hrformer_nano", "pose"), torch.randn(batch, 3, 128, 64)
    fused = module.NativeModel(model, threads)
    expected = fused(x)
    assert all(torch.equal(fused(x), expected) for _ in range(3))
    assert_same(expected, model(x))
    (program,) = fused.fused.backbone._programs.values()
    lengths = [step.chain for step in program._steps if step.chain]
    # Two blocks of the two finer branches in each of three modules; the coarser maps have too few tokens.
    assert lengths == ([4] * 6 if chained else [])


@needs_kernels
def test_sizes_that_need_other_operations_are_not_recorded() -> None:
    """Odd maps are resized twice, the second time by torch."""
    model = small("hrformer_nano", "pose")
    fused, x = module.NativeModel(model), torch.randn(1, 3, 61, 83)
    for _ in range(3):
        assert_same(fused(x), model(x))
    assert list(fused.fused.backbone._programs.values()) == [None]


@needs_kernels
def test_recordings_are_forgotten_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PROGRAMS", 2)
    fused = module.NativeModel(small("hrformer_nano", "pose"))
    for side in (32, 64, 96):
        for _ in range(2):
            fused(torch.randn(1, 3, side, 32))
    assert [key[0][2] for key in fused.fused.backbone._programs] == [64, 96]


@needs_kernels
def test_threads_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small("hrformer_nano", "pose"), torch.randn(2, 3, 64, 48)
    expected = optimize(model)(x)
    for threads in (1, 3):
        fast = optimize(model, threads=threads)
        assert all(torch.equal(fast(x), expected) for _ in range(3))


@needs_kernels
def test_what_the_kernels_do_not_take_is_answered_by_the_plain_network() -> None:
    model = small("hrformer_nano", "pose")
    fast = optimize(model)
    assert fast(torch.empty(0, 3, 32, 32)).shape == (0, 3, 8, 8)
    x = torch.randn(1, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        half = fast(x)
    assert (half - model(x)).abs().max() <= 0.1 * model(x).abs().max()
    assert not fast(x.requires_grad_()).requires_grad


@needs_kernels
def test_copies_and_pickles_work() -> None:
    model, x = small("hrformer_nano", "pose"), torch.randn(1, 3, 32, 32)
    fast = optimize(model)
    expected = fast(x)
    fused = module.NativeModel(model)
    fused(x)
    for copied in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert torch.equal(copied(x), expected)


def test_other_networks_and_missing_kernels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    hrnet = create_model("hrnet_w18", "pose", num_keypoints=3)
    with pytest.raises(ValueError, match="backend 'native' does not run here: "):
        optimize(hrnet, backend="native")
    monkeypatch.setattr(module, "find_library", lambda: (None, "this installation holds no compiled kernels"))
    model = create_model("hrformer_nano", "pose", num_keypoints=3)
    assert native_model_refusal(model) == "this installation holds no compiled kernels"
    with pytest.raises(ValueError, match="this installation holds no compiled kernels"):
        optimize(model, backend="native")
    with monkeypatch.context() as patch:
        patch.setattr(choice, "native_model_refusal", lambda model, precision: f"no instructions for {precision}")
        with pytest.raises(ValueError, match="does not run here in bf16: no instructions for bf16"):
            optimize(model, backend="native", precision="bf16")
    with pytest.raises(ValueError, match="float32 models on the CPU"):
        optimize(model.double(), backend="native")


@needs_kernels
def test_without_kernels_folded_models_still_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small("hrformer_nano", "pose"), torch.randn(1, 3, 40, 32)
    fused = module.NativeModel(model)
    monkeypatch.setattr(native, "native_refusal", lambda x, others=(): "switched off")
    assert_same(fused(x), model(x))


class Wrapped(nn.Module):
    """A backbone that holds a trunk, as adapters do."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk, self.feature_info = trunk, trunk.feature_info

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.trunk(x)


def test_only_a_trunk_that_was_compared_is_fused() -> None:
    model, x = small("hrformer_nano", "pose"), torch.randn(1, 3, 32, 32)
    for block in model.backbone.modules():
        if isinstance(block, ConvFFN):
            block.act = nn.ReLU()
    model.backbone = Wrapped(model.backbone)
    assert_same(fuse_trunk(model)(x), model(x))
    fast = optimize(model)
    assert_same(fast(x), model(x))
    assert fast.backend != "native"
    with pytest.raises(ValueError, match="backend 'native' does not run here: "):
        optimize(model, backend="native")


def leaves(result: Any) -> list[Tensor]:
    return tree_flatten(result)[0]


def half_model(model: VisionModel, **options: Any) -> FastModel:
    fast = optimize(model, backend="native", precision="bf16", **options)
    assert (fast.backend, fast.precision, fast.reason) == ("native", "bf16", "")
    return fast


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, any_half_library())


def assert_half(name: str, task: str | None, size: tuple[int, ...]) -> None:
    """Error against float64 at most twice autocast's; float32, and as the plain network's result otherwise."""
    model, x = small(name, task), torch.randn(size)
    expected = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        plain = model(x)
    found = half_model(model)(x)
    exact = copy.deepcopy(model).double()(x.double())
    assert tree_structure(found) == tree_structure(expected)
    for ours, theirs, wanted in zip(leaves(found), leaves(plain), leaves(exact), strict=True):
        assert (ours.dtype, ours.shape) == (torch.float32, wanted.shape)
        error, allowed = ours.double() - wanted, theirs.double() - wanted
        assert error.abs().max() <= 2 * allowed.abs().max()
        assert error.norm() <= 2 * allowed.norm()


@needs_kernels
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("name", "task", "size"),
    [
        ("hrformer_tiny", "pose", (2, 3, 64, 48)),
        ("hrformer_tiny", "segmentation", (1, 3, 61, 83)),
        ("hrformer_nano", "classification", (2, 3, 64, 64)),
        ("hrformer_nano", None, (1, 3, 40, 32)),
    ],
)
def test_half_error_of_whole_networks(
    library: str, name: str, task: str | None, size: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, half_library(library))
    assert_half(name, task, size)


@needs_kernels
@pytest.mark.slow
@pytest.mark.parametrize("library", [name for name in LIBRARIES if "emulated" not in name])
@pytest.mark.parametrize(
    ("name", "task", "size"),
    [
        ("hrformer_small", "pose", (1, 3, 128, 96)),
        ("hrformer_base", "pose", (1, 3, 64, 48)),
        ("hrformer_small", "segmentation", (1, 3, 96, 128)),
        ("hrformer_tiny", "classification", (3, 3, 96, 96)),
    ],
)
def test_half_error_of_published_sizes(
    library: str, name: str, task: str, size: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, half_library(library))
    assert_half(name, task, size)


@needs_kernels
@pytest.mark.usefixtures("half")
@pytest.mark.parametrize("task", ["pose", "classification"])
def test_half_recordings_give_the_same_bits(task: str) -> None:
    model = small("hrformer_nano", task)
    fused = module.NativeModel(model, precision="bf16")
    for batch, height, width in ((2, 64, 96), (1, 128, 64), (4, 128, 64), (1, 33, 50)):
        x = torch.randn(batch, 3, height, width)
        first = fused(x)
        assert all(torch.equal(fused(x), first) for _ in range(2))
        assert torch.equal(module.NativeModel(model, 2, precision="bf16")(x), first)
    recorded = [program is not None for program in fused.fused.backbone._programs.values()]
    assert recorded == [True, True, True, False]  # odd maps are resized twice, the second time by torch


@needs_kernels
@pytest.mark.usefixtures("half")
def test_half_kernels_run_all_of_it() -> None:
    model, x = small("hrformer_nano", "pose"), torch.randn(1, 3, 64, 48)
    fast = half_model(model)
    fast(x)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        fast(x)
    names = {event.key for event in profile.key_averages()}
    assert not {name for name in names if any(word in name for word in ("conv", "mm", "norm", "gelu", "softmax"))}


class Seen(nn.Module):
    """A head of somebody's own."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[torch.dtype] = []
        self.layer = nn.Conv2d(sum(HEAD_CHANNELS), 2, 1)

    def forward(self, maps: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        self.dtypes = [y.dtype for y in maps.values()]
        return self.layer(torch.cat([nn.functional.interpolate(y, size) for y in maps.values()], 1))


HEAD_CHANNELS = [info.channels for info in create_model("hrformer_nano", None).backbone.feature_info]


@needs_kernels
@pytest.mark.usefixtures("half")
def test_half_maps_reach_other_heads_in_float32() -> None:
    model, x = small("hrformer_nano", None), torch.randn(1, 3, 40, 32)
    model.head = Seen()
    fast = module.NativeModel(model, precision="bf16")
    found, expected = fast(x), model(x)
    assert fast.fused.head.dtypes == [torch.float32] * len(HEAD_CHANNELS)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() <= 0.05 * expected.abs().max()


@needs_kernels
@pytest.mark.usefixtures("half")
def test_half_copies_and_pickles_work() -> None:
    model, x = small("hrformer_nano", "pose"), torch.randn(1, 3, 32, 32)
    fast = half_model(model)
    expected = fast(x)
    fast(x)
    for copied in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert copied.precision == "bf16"
        assert torch.equal(copied(x), expected)
    assert torch.equal(optimize(fast, precision="bf16")(x), expected)
    assert_same(optimize(fast)(x), model(x))


@needs_kernels
@pytest.mark.usefixtures("half")
def test_half_callers_in_several_threads() -> None:
    fast = half_model(small("hrformer_nano", "pose"))
    xs = [torch.randn(1 + i % 2, 3, 64, 32 + 32 * i) for i in range(4)]
    expected = [fast(x) for x in xs]
    wrong: list[int] = []

    def repeat(i: int) -> None:
        wrong.extend(i for _ in range(8) if not torch.equal(fast(xs[i]), expected[i]))

    callers = [threading.Thread(target=repeat, args=(i,)) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


@needs_kernels
@pytest.mark.usefixtures("half")
def test_half_is_left_to_the_plain_network_under_autocast_and_for_other_inputs() -> None:
    model = small("hrformer_nano", "pose")
    fast, x = half_model(model), torch.randn(1, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(x), model(x))
    assert fast(torch.empty(0, 3, 32, 32)).shape == (0, 3, 8, 8)
    assert not fast(x.requires_grad_()).requires_grad
    assert fast(torch.full_like(x, float("nan"))).isnan().all()
