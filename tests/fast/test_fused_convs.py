"""Folded convolutions and bottlenecks against the modules they are made from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fast_models import assert_same as assert_equal_to_rounding
from fast_models import small
from hrformer.fast.fused import FusedBottleneck, FusedConv, fold_convolutions
from hrformer.fast.optimize import optimize
from hrformer.models.blocks import Bottleneck, conv_bn_relu
from kernel_accuracy import DEVICE, trained


def assert_same(made: nn.Module, module: nn.Module, channels: int) -> None:
    x = torch.randn(2, channels, 9, 6, device=DEVICE)
    before = x.clone()
    found, wanted = made(x), module(x)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x, before)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 1},
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": (3, 1), "padding": (1, 0)},
        {"kernel_size": 3, "padding": 1, "groups": 6},
    ],
)
@torch.no_grad()
def test_convolution_with_its_norm(options: dict[str, int], relu: bool) -> None:
    parts = [nn.Conv2d(6, 12, bias=relu, **options), nn.BatchNorm2d(12), *([nn.ReLU()] if relu else [])]
    module = trained(nn.Sequential(*parts))
    assert_same(FusedConv(module[0], module[1], relu=relu), module, 6)


@pytest.mark.parametrize(("channels", "depthwise"), [(8, False), (16, False), (16, True)])
@torch.no_grad()
def test_bottleneck(channels: int, depthwise: bool) -> None:
    block = trained(Bottleneck(channels, 4, depthwise=depthwise))
    assert isinstance(block, Bottleneck)
    assert_same(FusedBottleneck(block), block, channels)


@torch.no_grad()
def test_sequences_are_folded_in_place() -> None:
    """Only a convolution right before its norm; what stands between stays."""
    inner = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4))
    module = trained(nn.Sequential(*conv_bn_relu(6, 8, 3, stride=2), nn.Dropout(), nn.Conv2d(8, 4, 1), inner))
    x = torch.randn(2, 6, 9, 6, device=DEVICE)
    wanted = module(x)
    fold_convolutions(module)
    assert [type(part) for part in module] == [FusedConv, nn.Dropout, nn.Conv2d, nn.Sequential]
    assert [type(part) for part in inner] == [nn.Conv2d, nn.ReLU, nn.BatchNorm2d]
    torch.testing.assert_close(module(x), wanted, rtol=1e-4, atol=1e-4)


class HalvedBottleneck(Bottleneck):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * super().forward(x)


class ReadsItsLayers(nn.Module):
    """Uses the weight of a layer that it does not call."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(18, 18, 1), nn.BatchNorm2d(18))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) * self.layers[0].weight.mean()


def replace_final(*layers: nn.Module) -> Callable[[Any], None]:
    def change(head: Any) -> None:
        head.final_layer = nn.Sequential(*layers, nn.Conv2d(18, 3, 1)) if len(layers) > 1 else layers[0]

    return change


def final(**values: Any) -> Callable[[Any], None]:
    """Attributes of the pose head's only convolution."""
    return lambda head: [setattr(head.final_layer, name, value) for name, value in values.items()]


def norm(change: Callable[[Any], Any]) -> Callable[[Any], None]:
    """A change of the batch norm in the classification head's last layers."""
    return lambda head: change(head.final_layer[1])


def half_of_method(layer: Any, name: str) -> None:
    old = getattr(layer, name)
    setattr(layer, name, lambda *args: 0.5 * old(*args))


def shift_input(layer: Any) -> None:
    layer._check_input_dim = lambda x: x.add_(1.0)


def without_affine(layer: Any) -> None:
    nn.init.constant_(layer.weight, 1.5)
    layer.affine = False  # which torch does not read


def other_bottleneck(head: Any) -> None:
    head.incre_modules[1][0].__class__ = HalvedBottleneck


HEADS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "padded": ("pose", replace_final(nn.Conv2d(18, 3, 1, padding=1))),
    "padding for both sides": ("pose", replace_final(nn.Conv2d(18, 3, 3, padding=(1,)))),
    "padding as a number": ("pose", final(padding=1)),
    "stride as a number": ("pose", final(stride=2)),
    "no channels": ("pose", lambda head: replace_final(nn.Conv2d(18, 0, 1))(head)),
    "negative padding": ("pose", final(padding=(-1, 0))),
    "method of the convolution": ("pose", lambda head: half_of_method(head.final_layer, "_conv_forward")),
    "bias of another size": ("pose", lambda head: setattr(head.final_layer, "bias", nn.Parameter(torch.ones(1)))),
    "norm of other channels": ("pose", replace_final(nn.Conv2d(18, 18, 1), nn.BatchNorm2d(1))),
    "layers that are read": ("pose", replace_final(ReadsItsLayers(), nn.ReLU())),
    "subclassed bottleneck": ("classification", other_bottleneck),
    "method of the norm": ("classification", norm(shift_input)),
    "weights without affine": ("classification", norm(without_affine)),
    "no gain": ("classification", norm(lambda n: n.register_parameter("weight", None))),
    "no shift": ("classification", norm(lambda n: n.register_parameter("bias", None))),
    "no variance": ("classification", norm(lambda n: setattr(n, "running_var", None))),
}


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors is a no-op:UserWarning")
@pytest.mark.parametrize(("task", "change"), HEADS.values(), ids=HEADS)
@torch.no_grad()
def test_what_folding_would_get_wrong_in_a_head_runs_as_it_is(task: str, change: Any) -> None:
    model, x = small("hrformer_nano", task), torch.randn(1, 3, 64, 48)
    change(model.head)
    fast = optimize(model.eval())
    for _ in range(3):
        found, expected = outcome(fast, x), outcome(model, x)
        if isinstance(expected, str) or not expected.numel():
            assert str(found) == str(expected)
        else:
            assert_equal_to_rounding(found, expected)


def outcome(call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor | str:
    """What a call returns, or its error."""
    try:
        return call(x)
    except (RuntimeError, ValueError) as error:
        return repr(error)
