"""Fused modules against the modules they are made from, on references and, interpreted, on kernels."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from hrformer.fast import stages as fused
from hrformer.fast.folding import round_up
from hrformer.fast.fused import FusedFusionUnit, FusedModule, FusedTransformerBlock, fuse_trunk
from hrformer.fast.x86 import stages as native
from hrformer.models.blocks import TransformerBlock
from hrformer.models.fusion import UPSAMPLE_MODES, FusionUnit, UpsampleMode
from hrformer.models.trunk import HighResolutionModule
from hrformer.zoo import create_model
from kernel_accuracy import DEVICE, assert_accurate, trained


def channels_last(*size: int) -> Tensor:
    return torch.randn(size, device=DEVICE).contiguous(memory_format=torch.channels_last)


@pytest.fixture
def kernels_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels run for CPU maps too, in Triton's interpreter."""
    pytest.importorskip("triton")
    monkeypatch.setattr(fused, "kernel_refusal", lambda x, dtypes=None: None)
    monkeypatch.setattr(native, "native_refusal", lambda x, others=(): "Triton's turn")


def assert_as_exact(module: nn.Module, made: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """In float16: error of the fused module at most twice that of the plain one, both against float64."""
    exact = copy.deepcopy(module).double()(x.double())
    plain, ours = copy.deepcopy(module).half()(x.half()), made(x.half())
    assert ours.dtype == torch.float16
    assert_accurate({"out": ours}, {"out": plain}, {"out": exact}, torch.float16)


@pytest.mark.parametrize("position_bias", [True, False])
@pytest.mark.parametrize(("channels", "heads", "window", "size"), [(18, 1, 7, (9, 6)), (36, 2, 5, (5, 11))])
@torch.no_grad()
def test_block_equals_plain(channels: int, heads: int, window: int, size: tuple[int, int], position_bias: bool) -> None:
    block = trained(TransformerBlock(channels, heads, window=window, position_bias=position_bias, drop_path=0.5))
    x = channels_last(2, channels, *size)
    made = FusedTransformerBlock(block)(x)
    torch.testing.assert_close(made, block(x), rtol=1e-4, atol=1e-4)
    assert made.is_contiguous(memory_format=torch.channels_last)


def filled(x: Tensor, channels: int) -> Tensor:
    """Zeros behind the channels of a map."""
    return F.pad(x, (0, 0, 0, 0, 0, channels - x.shape[1])).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("align", [1, 8])
@pytest.mark.parametrize(
    ("channels", "heads", "window", "size"),
    [
        (18, 1, 7, (9, 6)),
        (78, 2, 7, (8, 3)),
        pytest.param(276, 12, 7, (2, 3), marks=pytest.mark.slow),  # attention in parts
        pytest.param(36, 2, 13, (6, 9), marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_block_on_kernels(
    channels: int, heads: int, window: int, size: tuple[int, int], align: int, kernels_everywhere: None
) -> None:
    block = trained(TransformerBlock(channels, heads, window=window, mlp_ratio=2))
    made, width = FusedTransformerBlock(block, align).half(), round_up(channels, align)
    if width == channels:
        assert_as_exact(block, made, channels_last(1, channels, *size))
        return

    def inside(x: Tensor) -> Tensor:
        y = made(filled(x, width))
        assert not y[:, channels:].any()
        return y[:, :channels]

    assert_as_exact(block, inside, channels_last(1, channels, *size))


@torch.no_grad()
def test_filled_block_equals_plain() -> None:
    block = trained(TransformerBlock(18, 2, window=5))
    x = channels_last(2, 18, 9, 6)
    made = FusedTransformerBlock(block, 8)(filled(x, 24))
    torch.testing.assert_close(made[:, :18], block(x), rtol=1e-4, atol=1e-4)
    assert not made[:, 18:].any()


@torch.no_grad()
def test_half_precision_of_folded_weights_is_rounded_once() -> None:
    """A model that is already in half precision is folded in float64, not in half steps."""
    block = trained(TransformerBlock(18, 1)).half()
    wide = FusedTransformerBlock(copy.deepcopy(block).float())
    made = FusedTransformerBlock(block)
    assert isinstance(made, FusedTransformerBlock)
    for name, held in made.named_buffers():
        assert torch.equal(held, wide.get_buffer(name).half()), name


def fusion_inputs(channels: tuple[int, ...], sizes: list[tuple[int, int]]) -> list[Tensor]:
    return [channels_last(2, count, *size) for count, size in zip(channels, sizes, strict=True)]


EVEN, ODD = [(16, 8), (8, 4), (4, 2), (2, 1)], [(15, 9), (8, 5), (4, 3), (2, 2)]
CHANNELS = (4, 8, 12, 16)


@pytest.mark.parametrize("upsample", UPSAMPLE_MODES)
@pytest.mark.parametrize("sizes", [EVEN, ODD], ids=["even", "odd"])
@pytest.mark.parametrize(("separable", "num_outputs"), [(True, 4), (False, 4), (True, 1)])
@torch.no_grad()
def test_fusion_equals_plain(
    upsample: UpsampleMode, sizes: list[tuple[int, int]], separable: bool, num_outputs: int
) -> None:
    unit = trained(FusionUnit(CHANNELS, num_outputs=num_outputs, separable=separable, upsample=upsample))
    xs = fusion_inputs(CHANNELS, sizes)
    before = [x.clone() for x in xs]
    made = FusedFusionUnit(unit)(xs)
    for ours, plain in zip(made, unit(xs), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
        assert ours.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(x, y) for x, y in zip(xs, before, strict=True))


@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
@torch.no_grad()
def test_fusion_on_kernels(upsample: UpsampleMode, kernels_everywhere: None) -> None:
    unit = trained(FusionUnit(CHANNELS, num_outputs=4, separable=True, upsample=upsample))
    xs = fusion_inputs(CHANNELS, ODD)
    for ours, plain in zip(FusedFusionUnit(unit)(xs), unit(xs), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_dropped_outputs_pass_through() -> None:
    unit = trained(FusionUnit(CHANNELS, num_outputs=4, separable=True, upsample="nearest"))
    assert isinstance(unit, FusionUnit)
    unit.drop_outputs([1, 3])
    xs = fusion_inputs(CHANNELS, EVEN)
    made, plain = FusedFusionUnit(unit)(xs), unit(xs)
    assert made[0] is xs[0]
    assert made[2] is xs[2]
    torch.testing.assert_close(made[1], plain[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made[3], plain[3], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "task", "size"),
    [
        ("hrformer_nano", "pose", (64, 48)),
        ("hrformer_nano", "segmentation", (75, 50)),
        pytest.param("hrnet_w18", "classification", (65, 64), marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_whole_model_equals_plain(name: str, task: str, size: tuple[int, int]) -> None:
    model = trained(create_model(name, task=task))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    made = fuse_trunk(model)
    assert type(made) is type(model)
    assert not any(isinstance(part, HighResolutionModule | TransformerBlock | FusionUnit) for part in made.modules())
    x = torch.randn(2, 3, *size, device=DEVICE)
    plain, ours = model(x), made(x)
    assert (ours - plain).norm() < 1e-5 * plain.norm()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.slow
@torch.no_grad()
def test_whole_model_on_kernels(kernels_everywhere: None) -> None:
    model = trained(create_model("hrformer_nano", task="pose", mlp_ratio=0.5))  # narrow: interpreting takes long
    assert_as_exact(model, fuse_trunk(model).half(), torch.randn(1, 3, 32, 24, device=DEVICE))


@pytest.mark.parametrize(("name", "task"), [("hrformer_nano", "pose"), ("hrformer_nano", "segmentation")])
def test_nothing_waits_for_a_value(name: str, task: str) -> None:
    """Fake tensors hold none, so that whatever would have to wait for the device to read one raises."""
    model = create_model(name, task)
    fused_one = fuse_trunk(model)
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.randn(2, 3, 75, 50)
        with torch.no_grad():
            assert fused_one(x).shape == model.eval()(x).shape
        result = model.train()(x)
        outputs = result if isinstance(result, tuple) else (result,)
        torch.autograd.grad(sum(output.square().mean() for output in outputs), list(model.parameters())[-1])
    with pytest.raises(DataDependentOutputException), FakeTensorMode():
        torch.randn(1).item()


@torch.no_grad()
def test_autocast_sets_the_precision() -> None:
    block = trained(TransformerBlock(18, 1))
    x = channels_last(1, 18, 7, 7)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        ours = FusedTransformerBlock(block)(x)
    assert ours.dtype == torch.bfloat16
    assert (ours.float() - block(x)).norm() < 0.02 * ours.float().norm()


@torch.no_grad()
def test_moving_and_copying_drops_the_layouts() -> None:
    made = FusedTransformerBlock(trained(TransformerBlock(18, 1)))
    x = channels_last(1, 18, 7, 7)
    wanted = made(x)
    assert isinstance(made, FusedTransformerBlock)
    assert made._weights
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made)), made.double().float()):
        assert not other._weights
        torch.testing.assert_close(other(x), wanted)
    assert made.state_dict() == {}


def test_training_statistics_cannot_be_folded() -> None:
    model = create_model("hrformer_nano", task="pose")
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean = part.running_var = None
    with pytest.raises(ValueError, match="running statistics"):
        fuse_trunk(model)


def test_fused_modules_stand_where_the_plain_ones_stood() -> None:
    made = fuse_trunk(create_model("hrformer_nano", task="pose").train())
    assert not made.training
    assert all(
        isinstance(module, FusedModule) for stage in (2, 3, 4) for module in getattr(made.backbone, f"stage{stage}")
    )
