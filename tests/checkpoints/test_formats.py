"""Names of other layouts against the true key lists of the goldens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch

import layouts
from hrformer.checkpoints.formats import mmpose_names, our_name, window_of
from hrformer.checkpoints.pickles import CheckpointError
from hrformer.checkpoints.recognise import Recognised, arrange
from hrformer.checkpoints.weight_files import WeightFile
from hrformer.zoo import create_model

GOLDENS = {
    "cls_t_224": ("hrformer_tiny", "classification", {}),
    "pose_s_256x192": ("hrformer_small", "pose", {}),
    "mmpose_s_256x192": ("hrformer_small", "pose", {}),
    "seg_s_ocr_w7_128x256_c19": ("hrformer_small", "segmentation", {}),
}


def keys_of(parity_dir: Path, name: str) -> dict[str, tuple[int, ...]]:
    rows = json.loads((parity_dir / f"{name}.json").read_text())["state_dict"]
    return {row[0]: tuple(row[1]) for row in rows}


def entries(*keys: str) -> Recognised:
    """Where entries of these names go."""
    return arrange(WeightFile(tensors=dict.fromkeys(keys, torch.zeros(1))))


@pytest.mark.parametrize("name", GOLDENS)
def test_reference_keys_cover_the_model_exactly(parity_dir: Path, name: str) -> None:
    variant, task, options = GOLDENS[name]
    shapes = keys_of(parity_dir, name)
    tensors = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    found = arrange(WeightFile(tensors=tensors))
    state = create_model(variant, task, **options).state_dict()  # type: ignore[arg-type]
    assert set(found.sources) == set(state)
    assert {key: tuple(value.shape) for key, value in state.items()} == {key: found.shape(key) for key in state}
    assert not found.unexpected
    assert set(found.ignored.values()) <= {"index buffer, computed from the window size"}


@pytest.mark.parametrize("name", GOLDENS)
def test_layouts_of_the_tests_are_the_true_ones(parity_dir: Path, name: str) -> None:
    variant, task, options = GOLDENS[name]
    state = create_model(variant, task, **options).state_dict()  # type: ignore[arg-type]
    if name.startswith("mmpose"):
        made = layouts.mmpose(state)
    else:
        made = layouts.official(state, prefix="" if task == "classification" else "backbone.")
    true = keys_of(parity_dir, name)
    true = {key: shape for key, shape in true.items() if name.startswith("mmpose") is False or "_index" not in key}
    assert {key: tuple(value.shape) for key, value in made.items()} == true


def test_layout_of_hrnet_is_timms() -> None:
    model = create_model("hrnet_w18", "classification")
    with torch.device("meta"):
        reference = timm.create_model("hrnet_w18").state_dict()
    made = {key: value.shape for key, value in layouts.hrnet(model.state_dict()).items()}
    assert made == {key: value.shape for key, value in reference.items()}


def test_mmpose_names_are_mmposes(parity_dir: Path) -> None:
    state = create_model("hrformer_small", "pose").state_dict()
    names = mmpose_names(state, position_bias=True, whole=True)
    assert {key: tuple(value.shape) for key, value in names.items()} == keys_of(parity_dir, "mmpose_s_256x192")
    index = names["backbone.stage2.0.branches.0.0.attn.attn.relative_position_index"]
    # token (r1, c1) against (r2, c2): (r1 - r2 + 6) * 13 + (c1 - c2 + 6)
    assert index[0, 0] == 6 * 13 + 6
    assert index[0, 48] == 0
    assert index[8, 0] == 7 * 13 + 7
    without = mmpose_names(state, position_bias=False, whole=False)
    assert not [key for key in without if "relative" in key or key.startswith("backbone.")]


def test_query_key_value_join_in_this_order() -> None:
    keys = [f"stage2.0.branches.0.0.attn.attn.{letter}_proj.bias" for letter in "vqk"]
    tensors = {key: torch.full((2,), float("qkv".index(key[-11]))) for key in keys}
    joined = arrange(WeightFile(tensors=tensors)).value("backbone.stage2.0.branches.0.0.attn.qkv.bias")
    assert joined.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_missing_projection_is_an_error() -> None:
    with pytest.raises(CheckpointError, match=r"query, key and value.*k_proj"):
        entries("stage2.0.branches.0.0.attn.attn.k_proj.bias", "stage2.0.branches.0.0.attn.attn.q_proj.bias")


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("module.conv1.weight", "backbone.conv1.weight"),
        ("module.backbone.layer1.0.bn1.bias", "backbone.layer1.0.bn1.bias"),
        ("model.stage3.2.fuse_layers.2.0.1.0.weight", "backbone.stage3.2.fuse.paths.2.0.1.0.weight"),
        ("_orig_mod.backbone.bn1.weight", "backbone.bn1.weight"),
        ("keypoint_head.final_layer.bias", "head.final_layer.bias"),
        ("final_layer.weight", "head.final_layer.weight"),
        ("final_layer.1.running_var", "head.final_layer.1.running_var"),
        ("incre_modules.3.0.downsample.1.weight", "head.incre_modules.3.0.downsample.1.weight"),
        ("model.conv3x3_ocr.1.weight", "head.pixel.1.weight"),
        ("conv3x3.1.0.weight", "head.pixel.1.weight"),
        ("aux_head.3.bias", "head.aux.3.bias"),
        ("aux_head.2.bias", "head.aux.3.bias"),
        ("ocr_distri_head.object_context_block.f_object.3.0.running_mean", "head.attention.object.4.running_mean"),
        ("ocr_distri_head.object_context_block.f_up.1.0.weight", "head.attention.up.1.weight"),
        ("ocr_distri_head.conv_bn_dropout.1.0.bias", "head.merge.1.bias"),
    ],
)
def test_translation(key: str, name: str) -> None:
    assert our_name(key) == name


@pytest.mark.parametrize(
    "key", ["fc.weight", "head.fc.weight", "blocks.0.attn.qkv.weight", "stage5.0.x.weight", "conv3.weight"]
)
def test_foreign_names_are_unexpected(key: str) -> None:
    assert our_name(key) is None
    assert entries(key).unexpected == [key]


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("backbone.stage2.0.branches.0.0.attn.attn.relative_position_index", "index buffer"),
        ("loss.criterion.weight", "training loss"),
        ("data_preprocessor.mean", "pixel statistics"),
        ("cls_head.3.weight", "without OCR"),
        ("stage2.0.total_ops", "profiler"),
    ],
)
def test_ignored_names_have_a_reason(key: str, reason: str) -> None:
    assert reason in entries(key).ignored[key]


def test_a_second_entry_for_one_name_is_reported() -> None:
    found = entries("backbone.conv1.weight", "module.conv1.weight")
    assert found.sources == {"backbone.conv1.weight": ["backbone.conv1.weight"]}
    assert found.ignored == {
        "module.conv1.weight": "second entry for backbone.conv1.weight, after backbone.conv1.weight"
    }


@pytest.mark.parametrize("rows", [168, 144, 0])
def test_window_needs_an_odd_square(rows: int) -> None:
    with pytest.raises(CheckpointError, match=r"\(2K-1\)\^2"):
        window_of(torch.zeros(rows, 2))
    assert window_of(torch.zeros(625, 2)) == 13
