"""``VisionModel``, what it knows about its weights, and timm networks inside it."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from hrformer.checkpoints.checkpoint import load_model, save_checkpoint
from hrformer.geometry.skeletons import COCO17
from hrformer.models.model import TASKS, ModelInfo, VisionModel
from hrformer.timm_backbones import TimmBackbone, TimmClassifier
from hrformer.zoo import build_head, create_model

TIMM = (
    "deit_tiny_patch16_224",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "pvt_v2_b0",
    "mvitv2_tiny",
    "hrnet_w18_small",
)
OUTPUTS = {"classification": (2, 5), "pose": (2, 5, 16, 24), "segmentation": (2, 5, 64, 96)}


@functools.cache
def backbone_of(name: str) -> TimmBackbone:
    """In eval mode; shared by tests that only read it."""
    return create_model(name).backbone.eval()


def small_head(task: str) -> dict[str, int]:
    """Five outputs, and a narrow OCR head."""
    if task == "segmentation":
        return {"num_classes": 5, "ocr_channels": 32, "ocr_key_channels": 16}
    return {"num_keypoints" if task == "pose" else "num_classes": 5}


def total(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """A number to differentiate in which no part of the output cancels."""
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return sum((y * torch.randn_like(y)).sum() for y in outputs)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", TIMM)
class TestTimmUnderEveryHead:
    """The sizes below are no model's own; 64 x 96 suits all of them."""

    def test_forward_and_backward(self, name: str, task: str) -> None:
        model = create_model(name, task, **small_head(task))
        x = torch.randn(2, 3, 64, 96)
        total(model.train()(x)).backward()
        unreached = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert unreached == []
        with torch.no_grad():
            output = model.eval()(x)
        assert tuple(output.shape) == OUTPUTS[task]
        assert torch.isfinite(output).all()


@pytest.mark.parametrize("name", TIMM)
class TestTimmMaps:
    def test_maps_are_what_feature_info_says(self, name: str) -> None:
        backbone = backbone_of(name)
        with torch.no_grad():
            maps = backbone(torch.randn(1, 3, 64, 96))
        assert [f.name for f in backbone.feature_info] == list(maps)
        for info in backbone.feature_info:
            expected = (1, info.channels, math.ceil(64 / info.stride), math.ceil(96 / info.stride))
            assert tuple(maps[info.name].shape) == expected
        strides = [f.stride for f in backbone.feature_info]
        assert strides == ([16] * 3 if "patch16" in name else [4, 8, 16, 32])

    def test_our_classification_head_fits_too(self, name: str) -> None:
        backbone = backbone_of(name)
        head = build_head(backbone, "classification", 5, head_planes=4, head_width=32)
        with torch.no_grad():
            maps = backbone(torch.randn(2, 3, 64, 96))
        logits = head(maps, (64, 96))
        logits.sum().backward()
        assert logits.shape == (2, 5)
        assert all(p.grad is not None for p in head.parameters())


@pytest.mark.parametrize("size", [(61, 83), (224, 224)])
def test_position_embeddings_follow_the_picture(size: tuple[int, int]) -> None:
    """DeiT's size is fixed in timm; sizes that its patches do not divide are padded."""
    model = create_model("deit_tiny_patch16_224", "segmentation", num_classes=3).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, *size)).shape == (1, 3, *size)


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_other_sizes_change_nothing_at_the_own_one(name: str) -> None:
    plain = timm.create_model(name, num_classes=5).eval()
    model = create_model(name, "classification", num_classes=5).eval()
    model.backbone.net.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain(x))


def test_img_size_sets_the_embedding_and_the_input_contract() -> None:
    model = create_model("vit_tiny_patch16_224", "pose", img_size=(256, 192))
    assert model.backbone.net.model.pos_embed.shape[1] == 1 + 16 * 12
    assert model.info.input_spec.size == (256, 192)
    assert create_model("vit_tiny_patch16_224", "classification", img_size=96).info.input_spec.size == (96, 96)


def test_out_indices_choose_the_maps() -> None:
    model = create_model("pvt_v2_b0", "pose", out_indices=(0, 2))
    assert [(f.name, f.channels, f.stride) for f in model.feature_info] == [("map0", 32, 4), ("map1", 160, 16)]
    stem = create_model("hrnet_w18_small", out_indices=(0, 1))
    assert [f.stride for f in stem.feature_info] == [2, 4], "asked for, the map at stride 2 comes too"
    assert list(stem(torch.randn(2, 3, 64, 64))) == ["map0", "map1"]


def test_channels_last_maps_are_turned() -> None:
    backbone = backbone_of("swin_tiny_patch4_window7_224")
    assert backbone.channels_last
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        theirs = backbone.net(x)
        assert theirs[0].shape == (1, 16, 24, 96)
        assert torch.equal(backbone(x)["map0"], theirs[0].permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("name", "task", "size", "mean", "interpolation", "crop"),
    [
        ("vit_tiny_patch16_224", "classification", (224, 224), 0.5, "bicubic", 0.9),
        ("vit_tiny_patch16_384", "classification", (384, 384), 0.5, "bicubic", 1.0),
        ("vit_tiny_patch16_224", "pose", (256, 192), 0.5, "bilinear", 0.875),
        ("resnet18", "segmentation", (520, 520), 0.485, "bicubic", 0.875),
        ("maxvit_tiny_tf_224", "pose", (224, 224), 0.485, "bilinear", 0.875),
    ],
)
def test_timm_s_input_contract(name, task, size, mean, interpolation, crop) -> None:
    """Classifiers follow timm; other tasks have their own size, if the model takes it."""
    with torch.device("meta"):
        spec = create_model(name, task).info.input_spec
    assert (spec.size, spec.mean[0], spec.interpolation, spec.crop_ratio) == (size, mean, interpolation, crop)


def test_drop_rate_reaches_timm_s_classifier() -> None:
    assert create_model("deit_tiny_patch16_224", "classification", drop_rate=0.3).backbone.net.head_drop.p == 0.3


def test_own_names_may_be_timm_s() -> None:
    """The prefix asks for timm's network of the same name; both hold the same number of weights."""
    ours, theirs = create_model("hrnet_w18", "classification"), create_model("timm/hrnet_w18", "classification")
    assert isinstance(theirs.backbone, TimmClassifier)
    assert not isinstance(ours.backbone, TimmClassifier)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize(
    ("name", "task", "options"),
    [("deit_tiny_patch16_224", "pose", {"img_size": (64, 48)}), ("hrnet_w18_small", None, {"out_indices": [1, 2]})],
)
def test_timm_models_are_saved_and_rebuilt(name: str, task: str | None, options: dict, tmp_path: Path) -> None:
    model = create_model(name, task, **options).eval()
    path = save_checkpoint(model, tmp_path / "weights.safetensors")
    again, _ = load_model(path)
    assert again.feature_info == model.feature_info
    assert again.info.input_spec == model.info.input_spec
    state = again.state_dict()
    assert [key for key, value in model.state_dict().items() if not torch.equal(value, state[key])] == []


@pytest.mark.parametrize("cls", [TimmBackbone, lambda name: TimmClassifier(name, 5)])
def test_timm_must_know_the_name(cls) -> None:
    with pytest.raises(ValueError, match="timm has no model named 'resnet19'"):
        cls("resnet19")


class TestVisionModel:
    def test_head_gets_maps_and_size(self) -> None:
        class Head(nn.Module):
            def forward(self, features, image_size):
                return features, image_size

        model = VisionModel(nn.Identity(), Head(), ModelInfo(name="x", task="pose", num_classes=3))
        x = torch.randn(1, 3, 4, 6)
        assert model(x) == (x, (4, 6))
        assert model.task == "pose"

    def test_without_a_head_the_maps_come_out(self) -> None:
        model = create_model("hrformer_nano").eval()
        assert model.head is None
        assert model.task is None
        assert list(model(torch.randn(1, 3, 32, 32))) == [f.name for f in model.feature_info]

    def test_fresh_models_train(self) -> None:
        assert create_model("hrformer_nano").training


class TestModelInfo:
    def test_replace_checks_again(self) -> None:
        info = ModelInfo(name="x", task="pose", num_classes=17, skeleton=COCO17)
        assert replace(info, decoder="mmpose").decoder == "mmpose"
        with pytest.raises(ValueError, match="skeleton has 17 keypoints, the head 14"):
            replace(info, num_classes=14)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"task": "poses"}, "task must be one of classification, pose, segmentation or None, got 'poses'"),
            ({"num_classes": 3, "class_names": ("a", "b")}, "class_names has 2 names for 3 classes"),
            ({"task": "pose", "decoder": "megvii"}, "decoder must be one of official, mmpose, dark, udp, got 'megvii'"),
        ],
    )
    def test_bad_values_are_refused(self, values: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ModelInfo(name="x", **values)
