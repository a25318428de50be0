"""Layers are used by calling them: adapters, hooks, parametrised and quantised layers take part, in training too."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hrformer.fast.coat import put_on
from hrformer.fast.eligibility import is_original
from hrformer.models.attention import WindowAttention
from hrformer.models.blocks import Bottleneck, ConvFFN, DropPath, TransformerBlock
from hrformer.models.fusion import FusionUnit
from hrformer.models.heads import ClassificationHead

PROJECTIONS = ["qkv", "proj"]


class LowRank(nn.Module):
    """A layer with a trained addition of low rank, as adapters are."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def block(training: bool) -> TransformerBlock:
    made = TransformerBlock(8, 2, window=5)
    nn.init.normal_(made.attn.qkv.bias)  # what padded tokens hold
    return put_on(made.train(training))


def picture() -> Tensor:
    return torch.randn(2, 8, 6, 9)  # both sides padded


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", PROJECTIONS)
def test_hooks_of_projections_fire_once_and_may_change_the_output(name: str, training: bool) -> None:
    made, x = block(training), picture()
    before, seen = made(x), []
    layer = getattr(made.attn, name)
    handles = [layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[-1]))]
    handles += [layer.register_forward_hook(lambda _, args, output: 2 * output)]
    assert (made(x) - before).abs().max() > 1e-2
    assert seen == [8]
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(made.eval()(x), made(x))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", PROJECTIONS)
def test_adapters_take_part_and_learn(name: str, training: bool) -> None:
    made, x = block(training), picture()
    before = made(x).detach()
    setattr(made.attn, name, LowRank(getattr(made.attn, name)))
    after = made(x)
    assert (after - before).abs().max() > 1e-4
    after.square().sum().backward()
    adapter = getattr(made.attn, name)
    assert all(p.grad.abs().max() > 0 for p in (adapter.down.weight, adapter.up.weight))
    assert adapter.base.weight.grad is None


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["attn.qkv", "attn.proj", "ffn.fc1", "ffn.dw3x3", "ffn.fc2", "norm1", "ffn.norm2"])
def test_parametrised_weights_take_effect(name: str, training: bool) -> None:
    made, x = block(training), picture()
    expected = copy.deepcopy(made)
    with torch.no_grad():
        expected.get_submodule(name).weight.mul_(2)
    parametrize.register_parametrization(made.get_submodule(name), "weight", Doubled())
    # float32 sums in another order
    torch.testing.assert_close(made(x), expected(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_quantised_projections_are_close(training: bool) -> None:
    made, x = block(training), picture()
    with torch.no_grad():
        expected = made.attn(x.permute(0, 2, 3, 1))
        quantised = torch.ao.quantization.quantize_dynamic(made, {nn.Linear}, dtype=torch.qint8).train(training)
        assert type(quantised.attn.qkv) is not nn.Linear
        found = quantised.attn(x.permute(0, 2, 3, 1))
    # 8 bits: steps of 1 / 127 of the largest entry, in weights and tokens of two products
    assert 0 < (found - expected).abs().max() < 0.05 * expected.abs().max()
    assert quantised(x).isfinite().all()


def test_padding_is_what_a_changed_layer_makes_of_zeros() -> None:
    """One cell in a window of 25: nearly all keys and values are those of padded tokens."""
    attention = WindowAttention(4, 1, 5)
    attention.qkv = nn.Sequential(attention.qkv, nn.Tanh(), nn.Linear(12, 12))
    nn.init.normal_(attention.qkv[2].bias)
    x = torch.randn(1, 1, 1, 4)
    padded = torch.zeros(1, 5, 5, 4)
    padded[:, 2, 2] = x[0, 0, 0]
    torch.testing.assert_close(attention(x)[0, 0, 0], attention(padded)[0, 2, 2])


METHODS = [
    (WindowAttention, "forward", "attn"),
    (WindowAttention, "gathered_bias", "attn"),
    (ConvFFN, "forward", "ffn"),
    (nn.GELU, "forward", "ffn.act"),
    (nn.Linear, "forward", "attn.proj"),
    (nn.LayerNorm, "forward", "norm2"),
    (nn.Conv2d, "forward", "ffn.fc1"),
    (nn.Conv2d, "_conv_forward", "ffn.dw3x3"),
    (nn.BatchNorm2d, "forward", "ffn.norm1"),
    (nn.BatchNorm2d, "_check_input_dim", "ffn.norm3"),
]


@pytest.mark.parametrize("place", ["object", "class"])
@pytest.mark.parametrize(("kind", "method", "name"), METHODS)
def test_replaced_methods_run(
    kind: type[nn.Module], method: str, name: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, x, seen = block(training=True), picture(), []
    layer, original = made.get_submodule(name), getattr(kind, method)
    if place == "object":
        monkeypatch.setattr(layer, method, lambda *args: (seen.append(1), original(layer, *args))[1])
    else:
        monkeypatch.setattr(kind, method, lambda *args: (seen.append(1), original(*args))[1])
    assert is_original(kind) == (place == "object")
    made(x).sum().backward()
    assert seen
    monkeypatch.undo()
    assert is_original(kind)


def _dilated(ffn: ConvFFN) -> None:
    ffn.dw3x3.dilation = ffn.dw3x3.padding = (2, 2)


def _reflecting(ffn: ConvFFN) -> None:
    ffn.dw3x3 = nn.Conv2d(32, 32, 3, padding=1, groups=32, padding_mode="reflect")


def _larger(ffn: ConvFFN) -> None:
    ffn.dw3x3 = nn.Conv2d(32, 32, 5, padding=2, groups=32)


def _grouped(ffn: ConvFFN) -> None:
    ffn.fc1 = nn.Conv2d(8, 32, 1, groups=2)


def _approximate(ffn: ConvFFN) -> None:
    ffn.act = nn.GELU("tanh")


def _linear_unit(ffn: ConvFFN) -> None:
    ffn.act = nn.ReLU()


def _own_activation(ffn: ConvFFN) -> None:
    ffn.act.forward = torch.relu


def _grouped_norm(ffn: ConvFFN) -> None:
    ffn.norm2 = nn.GroupNorm(4, 32)


def _without_statistics(ffn: ConvFFN) -> None:
    ffn.norm1 = nn.BatchNorm2d(32, track_running_stats=False)


def _without_parameters(ffn: ConvFFN) -> None:
    ffn.norm3 = nn.BatchNorm2d(8, affine=False)


CHANGES = [
    _dilated,
    _reflecting,
    _larger,
    _grouped,
    _approximate,
    _linear_unit,
    _own_activation,
    _grouped_norm,
    _without_statistics,
    _without_parameters,
]


@pytest.mark.parametrize("change", CHANGES)
def test_other_layers_in_the_feed_forward_network_train_as_they_are(change: Callable[[ConvFFN], None]) -> None:
    made, x = block(training=True), picture()
    change(made.ffn)
    expected = copy.deepcopy(made)
    found = made(x)
    ffn, act = expected.ffn, expected.ffn.act
    x = x + expected.attn(expected.norm1(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    y = expected.norm2(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    for conv, norm in ((ffn.fc1, ffn.norm1), (ffn.dw3x3, ffn.norm2), (ffn.fc2, ffn.norm3)):
        y = act(norm(conv(y)))
    # float32 sums in another order
    torch.testing.assert_close(found, x + y, rtol=1e-4, atol=1e-4)


def test_a_subclass_of_the_feed_forward_network_trains_as_it_is() -> None:
    class Scaled(ConvFFN):
        def forward(self, x: Tensor) -> Tensor:
            return 3 * super().forward(x)

    made, x = block(training=True), picture()
    made.ffn.__class__ = Scaled
    plain = copy.deepcopy(made)
    plain.ffn.__class__ = ConvFFN
    attended = x + made.attn(made.norm1(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    torch.testing.assert_close(made(x) - attended, 3 * (plain(x) - attended), rtol=1e-4, atol=1e-4)


def test_pruned_heads_train_as_they_are() -> None:
    """Queries, keys and values of 2 heads x 2 numbers for 8 channels."""
    made, x = block(training=True), picture()
    made.attn.qkv, made.attn.proj = nn.Linear(8, 12), nn.Linear(4, 8)
    attended = made.attn(made.norm1(x.permute(0, 2, 3, 1)))
    torch.testing.assert_close(made.attend(x.permute(0, 2, 3, 1)), attended)
    made(x).sum().backward()


KINDS = [nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.LayerNorm, nn.GELU, nn.ReLU, nn.Sequential, nn.ModuleList, DropPath]
KINDS += [WindowAttention, ConvFFN, TransformerBlock, Bottleneck, FusionUnit, ClassificationHead]


@pytest.mark.parametrize("kind", KINDS)
def test_a_forward_put_into_a_class_shows(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    old = kind.forward
    assert is_original(kind)
    for new in (lambda self, x: x, functools.wraps(old)(lambda *args: old(*args)), nn.SiLU.forward):
        monkeypatch.setattr(kind, "forward", new)
        assert not is_original(kind)
    monkeypatch.undo()
    assert is_original(kind)
    if kind is nn.BatchNorm2d:  # whose forward is of the class below
        monkeypatch.setattr(kind.__bases__[0], "forward", lambda self, x: x)
        assert not is_original(kind)
