"""HRFormer as a citizen of timm: what timm's own models can do, ours can."""

from __future__ import annotations

import copy
import functools
import warnings

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

import hrformer
from hrformer.fast.coat import RecomputedBranch
from hrformer.timm_api import NAMES
from hrformer.zoo import create_model

CHANNELS, REDUCTIONS = [64, 18, 36, 72, 144], [2, 4, 8, 16, 32]


@functools.cache
def frozen_nano() -> nn.Module:
    """In eval mode; shared by tests that only read it."""
    return timm.create_model("hrformer_nano", num_classes=5).eval()


def nano(**options) -> nn.Module:
    return timm.create_model("hrformer_nano", **options)


def test_importing_the_package_registers_the_names() -> None:
    assert hrformer.__name__ == "hrformer"
    assert set(timm.list_models("hrformer_*")) == set(NAMES)
    assert set(NAMES) == {name for name in hrformer.list_models() if name.startswith("hrformer_")}
    assert all(timm.is_model(name) for name in NAMES)


def test_hrnet_stays_timm_s() -> None:
    assert timm.model_entrypoint("hrnet_w18").__module__ == "timm.models.hrnet"


@pytest.mark.parametrize("name", ["hrformer_nano", "hrformer_small", "hrformer_base_window15"])
def test_classifier_equals_create_model(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = create_model(name, "classification"), timm.create_model(name)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


@pytest.mark.parametrize("size", [(64, 64), (61, 83)])
def test_our_weights_give_equal_logits(size: tuple[int, int]) -> None:
    ours = create_model("hrformer_nano", "classification", num_classes=5).eval()
    theirs = nano(num_classes=5).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        assert torch.equal(theirs(x), ours(x))


class TestFeatures:
    @pytest.mark.parametrize("size", [(64, 96), (61, 83)])
    def test_features_only(self, size: tuple[int, int]) -> None:
        model = nano(features_only=True).eval()
        assert model.feature_info.channels() == CHANNELS
        assert model.feature_info.reduction() == REDUCTIONS
        with torch.no_grad():
            maps = model(torch.randn(1, 3, *size))
        assert [tuple(m.shape) for m in maps] == [
            (1, c, -(-size[0] // r), -(-size[1] // r)) for c, r in zip(CHANNELS, REDUCTIONS, strict=True)
        ]

    @pytest.mark.parametrize("indices", [(1, 3), (-1,), (0,), 2, (1, 2, 3, 4)])
    def test_out_indices(self, indices: int | tuple[int, ...]) -> None:
        model = nano(features_only=True, out_indices=indices).eval()
        taken = [3, 4] if indices == 2 else [i % 5 for i in indices]
        assert model.feature_info.channels() == [CHANNELS[i] for i in taken]
        full = nano(features_only=True).eval()
        full.load_state_dict(model.state_dict(), strict=False)
        x = torch.randn(1, 3, 61, 83)
        with torch.no_grad():
            maps, every = model(x), full(x)
        assert all(torch.equal(m, every[i]) for m, i in zip(maps, taken, strict=True))

    @pytest.mark.parametrize("indices", [(0,), (1,), (4,), (1, 2, 3, 4), (0, 2)])
    def test_pruned_features_leave_no_parameter_idle(self, indices: tuple[int, ...]) -> None:
        """Data-parallel training fails on parameters that get no gradient."""
        model = nano(features_only=True, out_indices=indices).train()
        sum(m.sum() for m in model(torch.randn(2, 3, 32, 32))).backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []

    def test_forward_intermediates(self) -> None:
        model, x = frozen_nano(), torch.randn(1, 3, 61, 83)
        with torch.no_grad():
            final, maps = model.forward_intermediates(x)
            assert torch.equal(final, model.forward_features(x))
            assert [m.shape[1] for m in maps] == CHANNELS
            (last,) = model.forward_intermediates(x, indices=1, intermediates_only=True)
            assert torch.equal(last, maps[4])
            chosen = model.forward_intermediates(x, indices=[0, 2], intermediates_only=True)
            assert all(torch.equal(a, b) for a, b in zip(chosen, (maps[0], maps[2]), strict=True))
            (stem,) = model.forward_intermediates(x, indices=[0], stop_early=True, intermediates_only=True)
            assert torch.equal(stem, maps[0])
        with pytest.raises(ValueError, match="output_fmt must be 'NCHW', got 'NHWC'"):
            model.forward_intermediates(x, output_fmt="NHWC")

    def test_prune_with_the_head_kept_changes_nothing(self) -> None:
        model, x = copy.deepcopy(frozen_nano()), torch.randn(1, 3, 64, 48)
        with torch.no_grad():
            logits = model(x)
            assert model.prune_intermediate_layers([1, 4], prune_head=False) == [1, 4]
            assert torch.equal(model(x), logits)

    @pytest.mark.parametrize("index", range(5))
    def test_pruned_features_end_at_the_last_map(self, index: int) -> None:
        model, x = copy.deepcopy(frozen_nano()), torch.randn(2, 3, 61, 83)
        with torch.no_grad():
            expected = model.forward_intermediates(x, intermediates_only=True)[index]
            assert model.prune_intermediate_layers([index]) == [index]
            assert torch.equal(model.forward_features(x), expected)
            assert model.num_features == model.head_hidden_size == CHANNELS[index]
            torch.testing.assert_close(model(x), expected.mean((2, 3)))
            model.reset_classifier(7)
            assert model(x).shape == (2, 7)


class TestHead:
    def test_forward_is_features_then_head(self) -> None:
        model, x = frozen_nano(), torch.randn(2, 3, 61, 83)
        with torch.no_grad():
            features = model.forward_features(x)
            assert features.shape == (2, 2048, 2, 3)
            pooled = model.forward_head(features, pre_logits=True)
            torch.testing.assert_close(pooled, features.mean((2, 3)))
            assert torch.equal(model.forward_head(features), model(x))
            torch.testing.assert_close(model(x), model.get_classifier()(pooled))

    @pytest.mark.parametrize(
        ("pool", "shape"),
        [("avg", (2, 5)), ("max", (2, 5)), ("avgmax", (2, 5)), ("catavgmax", (2, 5)), ("", (2, 2048, 2, 2))],
    )
    def test_global_pool(self, pool: str, shape: tuple[int, ...]) -> None:
        model = nano(num_classes=0 if pool == "" else 5, global_pool=pool).eval()
        assert model.head_hidden_size == (4096 if pool == "catavgmax" else 2048)
        with torch.no_grad():
            assert tuple(model(torch.randn(2, 3, 64, 48)).shape) == shape

    def test_max_pooling_takes_the_maximum(self) -> None:
        model, features = nano(num_classes=0, global_pool="max"), torch.randn(2, 2048, 2, 3)
        assert torch.equal(model.forward_head(features), features.amax((2, 3)))

    def test_reset_classifier(self) -> None:
        model, x = nano(num_classes=5).eval(), torch.randn(2, 3, 32, 32)
        body = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("head.classifier")}
        assert model.get_classifier().out_features == model.num_classes == 5
        model.reset_classifier(9)
        assert model(x).shape == (2, 9)
        assert model.num_classes == model.get_classifier().out_features == 9
        model.reset_classifier(0)
        assert isinstance(model.get_classifier(), nn.Identity)
        assert model(x).shape == (2, 2048)
        model.reset_classifier(0, "")
        assert model(x).shape == (2, 2048, 1, 1)
        model.reset_classifier(4, "max")
        assert (model(x).shape, model.global_pool.pool_type) == ((2, 4), "max")
        model.reset_classifier(3)
        assert model.global_pool.pool_type == "max", "the pooling stays unless another is named"
        state = model.state_dict()
        assert all(torch.equal(state[k], v) for k, v in body.items())

    @pytest.mark.parametrize("training", [True, False])
    def test_reset_classifier_keeps_device_type_and_mode(self, training: bool) -> None:
        model = nano().to("meta", torch.float64).train(training)
        model.reset_classifier(3)
        assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.float64)}
        assert {m.training for m in model.modules()} == {training}

    def test_num_classes_zero(self) -> None:
        model = nano(num_classes=0).eval()
        assert isinstance(model.get_classifier(), nn.Identity)
        assert model(torch.randn(1, 3, 32, 32)).shape == (1, 2048)

    def test_drop_rate(self) -> None:
        model = nano(num_classes=0, drop_rate=0.5).train()
        features = torch.ones(1, 2048, 1, 1)
        assert set(model.forward_head(features).unique().tolist()) == {0.0, 2.0}
        assert set(model.eval().forward_head(features).unique().tolist()) == {1.0}


class TestConstruction:
    def test_in_chans(self) -> None:
        model = nano(in_chans=5, num_classes=2).eval()
        assert model.in_chans == 5
        assert model(torch.randn(1, 5, 32, 32)).shape == (1, 2)

    def test_architecture_options(self) -> None:
        model = nano(window_size=5, position_bias=False, upsample="bilinear", mlp_ratio=2.0)
        block = model.backbone.stage4[0].branches[0][0]
        assert (block.attn.window, block.attn.position_bias, block.ffn.fc1.out_channels) == (5, False, 36)
        assert model.backbone.stage4[0].fuse.upsample == "bilinear"

    def test_unknown_options_are_refused(self) -> None:
        with pytest.raises(TypeError, match="not_an_option"):
            nano(not_an_option=1)

    def test_device_and_dtype(self) -> None:
        model = nano(device="meta", dtype=torch.bfloat16)
        assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}
        assert {b.device.type for b in model.buffers()} == {"meta"}

    def test_a_model_on_meta_does_not_spoil_later_ones(self) -> None:
        with torch.device("meta"):
            nano()
        assert {b.device.type for b in nano().buffers()} == {"cpu"}

    def test_drop_path(self) -> None:
        assert {m.rate for m in nano().modules() if type(m).__name__ == "DropPath"} == set()
        model = nano(drop_path_rate=0.5)
        rates = [
            [getattr(branch[i].drop_path, "rate", 0.0) for branch in module.branches]
            for module in model.backbone.high_resolution_modules()
            for i in range(2)
        ]
        assert [len(set(row)) for row in rates] == [1] * 6
        assert [row[0] for row in rates] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])

    def test_pretrained_cfg(self) -> None:
        model = frozen_nano()
        cfg = model.pretrained_cfg
        assert cfg is model.default_cfg
        assert (cfg["input_size"], cfg["pool_size"], cfg["num_classes"]) == ((3, 224, 224), (7, 7), 1000)
        assert (cfg["interpolation"], cfg["crop_pct"]) == ("bicubic", 0.875)
        for key in ("first_conv", "classifier"):
            assert f"{cfg[key]}.weight" in model.state_dict()
        data = timm.data.resolve_model_data_config(model)
        assert (data["input_size"], data["mean"]) == ((3, 224, 224), (0.485, 0.456, 0.406))

    def test_there_are_no_weights_to_download_yet(self) -> None:
        assert timm.list_pretrained("hrformer_*") == []
        with pytest.raises(RuntimeError, match="No pretrained weights exist"):
            nano(pretrained=True)

    def test_checkpoint_path(self, tmp_path) -> None:
        state = frozen_nano().state_dict()
        torch.save(state, tmp_path / "weights.pth")
        model = nano(num_classes=5, checkpoint_path=str(tmp_path / "weights.pth"))
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


class TestTraining:
    @pytest.mark.parametrize("coarse", [False, True])
    def test_group_matcher_runs_from_input_to_output(self, coarse: bool) -> None:
        model = timm.create_model("hrformer_tiny", device="meta")
        layer_of = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
        assert set(layer_of) == {name for name, _ in model.named_parameters()}

        def layers(*prefixes: str) -> set[int]:
            return {layer for name, layer in layer_of.items() if name.startswith(prefixes)}

        assert layers("backbone.conv", "backbone.bn") == {0}
        order = ["backbone.layer1", "backbone.stage2.0"]
        order += ["backbone.stage3.0", "backbone.stage3.1", "backbone.stage3.2", "backbone.stage4.0"]
        found = [layers(f"{name}.") for name in [*order, "backbone.stage4.1", "head"]]
        assert all(len(layer) == 1 for layer in found), "a module's parameters share their layer"
        numbers = [layer.pop() for layer in found]
        if coarse:
            assert numbers == [1, 2, 3, 3, 3, 4, 4, 5]
        else:
            assert numbers == [1, 3, 5, 6, 7, 9, 10, 11]
            assert [layers(f"backbone.transition{i}.") for i in (1, 2, 3)] == [{2}, {4}, {8}]

    def test_layer_decay(self) -> None:
        model = timm.create_model("hrformer_tiny", device="meta")
        groups = param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.5, verbose=False)
        scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
        assert len(scale) == len(list(model.parameters())), "every parameter is in one group"
        assert scale[id(model.backbone.conv1.weight)] == 0.5**11
        assert scale[id(model.backbone.stage4[1].branches[0][0].attn.qkv.weight)] == 0.5
        assert scale[id(model.head.classifier.weight)] == scale[id(model.head.incre_modules[0][0].conv1.weight)] == 1

    def test_weight_decay_spares_what_the_published_runs_spare(self) -> None:
        """ImageNet: 1-D parameters only; bias tables are decayed (recipe section 2)."""
        model = nano(device="meta")
        assert model.no_weight_decay() == set()
        spared, decayed = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
        assert (spared["weight_decay"], decayed["weight_decay"]) == (0.0, 0.05)
        assert {p.ndim for p in spared["params"]} == {1}
        assert id(model.backbone.stage2[0].branches[0][0].attn.relative_position_bias_table) in {
            id(p) for p in decayed["params"]
        }

    def test_grad_checkpointing(self) -> None:
        plain = nano(num_classes=3).train()
        thrifty = copy.deepcopy(plain)
        thrifty.set_grad_checkpointing()
        x, gradients = torch.randn(2, 3, 32, 32), []
        for model in (plain, thrifty):
            model(x).square().sum().backward()
            gradients.append([p.grad for p in model.parameters()])
        torch.testing.assert_close(gradients[1], gradients[0])
        thrifty.set_grad_checkpointing(False)
        assert not any(isinstance(m, RecomputedBranch) for m in thrifty.modules())

    def test_freeze(self) -> None:
        model = nano()
        timm.utils.freeze(model, "backbone.stage2")
        assert not any(p.requires_grad for p in model.backbone.stage2.parameters())
        assert all(p.requires_grad for p in model.backbone.stage3.parameters())


class TestCompilers:
    def test_torchscript(self) -> None:
        model, x = frozen_nano(), torch.randn(1, 3, 61, 83)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", (FutureWarning, DeprecationWarning))
            scripted = torch.jit.script(model)
        with torch.no_grad():
            torch.testing.assert_close(scripted(x), model(x))

    def test_symbolic_trace(self) -> None:
        from torchvision.models.feature_extraction import create_feature_extractor

        model, x = frozen_nano(), torch.randn(1, 3, 64, 48)
        leaves = {"leaf_modules": timm.models.get_notrace_modules()}
        traced = create_feature_extractor(model, ["head.final_layer.2"], tracer_kwargs=leaves)
        with torch.no_grad():
            torch.testing.assert_close(traced(x)["head.final_layer.2"], model.forward_features(x))


class TestSegmentationModels:
    """segmentation_models_pytorch reaches every timm name with the prefix ``tu-``."""

    def test_unet_on_hrformer_small(self) -> None:
        model = smp.Unet("tu-hrformer_small", encoder_weights=None, classes=4, in_channels=1)
        assert list(model.encoder.out_channels) == [1, 64, 32, 64, 128, 256]
        output = model(torch.randn(2, 1, 32, 64))
        output.sum().backward()
        assert output.shape == (2, 4, 32, 64)
        assert all(p.grad is not None for p in model.parameters())

    @pytest.mark.parametrize("decoder", ["UnetPlusPlus", "Linknet", "FPN", "PSPNet", "UPerNet", "Segformer"])
    def test_decoders(self, decoder: str) -> None:
        model = getattr(smp, decoder)("tu-hrformer_nano", encoder_weights=None, classes=4).eval()
        with torch.no_grad():
            assert model(torch.randn(1, 3, 64, 96)).shape == (1, 4, 64, 96)
