"""Loading into models: transfer, other windows and classes, options, errors that change nothing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

import layouts
from hrformer.checkpoints.checkpoint import load_checkpoint, load_model, save_checkpoint
from hrformer.checkpoints.pickles import CheckpointError
from hrformer.checkpoints.registry import find_weights
from hrformer.geometry.input_spec import InputSpec
from hrformer.geometry.skeletons import LSPET14
from hrformer.models.attention import WindowAttention
from hrformer.models.model import Task, VisionModel
from hrformer.zoo import create_model
from layouts import State, random_state

NANO = "hrformer_nano"


def nano(task: Task | None = None, **options: Any) -> VisionModel:
    return create_model(NANO, task, **options)


def official(task: Task, **options: Any) -> State:
    state = random_state(nano(task, **options).state_dict())
    return layouts.official(state, prefix="" if task == "classification" else "backbone.")


def first_attention(model: VisionModel) -> WindowAttention:
    return next(m for m in model.modules() if isinstance(m, WindowAttention))


def snapshot(model: VisionModel) -> tuple[State, Any, bool, str]:
    trunk: Any = model.backbone
    state = {name: value.clone() for name, value in model.state_dict().items()}
    return state, copy.copy(model.info), first_attention(model).position_bias, trunk.stage2[0].fuse.upsample


def assert_unchanged(model: VisionModel, before: tuple[State, Any, bool, str]) -> None:
    after = snapshot(model)
    assert after[1:] == before[1:]
    assert all(torch.equal(after[0][name], value) for name, value in before[0].items())


@pytest.mark.parametrize("task", ["classification", "pose", "segmentation"])
def test_every_tensor_arrives(task: Task) -> None:
    state = random_state(nano(task).state_dict())
    model = nano(task)
    report = load_checkpoint(model, layouts.official(state, prefix="" if task == "classification" else "backbone."))
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    assert not report.fresh
    assert not report.missing
    assert not report.unexpected
    # every entry of the file is in exactly one list
    names = [*report.used, *report.converted, *report.ignored]
    assert sorted(names) == sorted(layouts.official(state, prefix="" if task == "classification" else "backbone."))


@pytest.mark.parametrize(
    ("task", "options"),
    [("classification", {}), ("pose", {}), ("segmentation", {"aux": "hrnet"}), ("segmentation", {"head": "fcn"})],
)
def test_every_tensor_of_hrnet_arrives(task: Task, options: dict[str, str]) -> None:
    state = random_state(create_model("hrnet_w18", task, **options).state_dict())  # type: ignore[arg-type]
    model, report = load_model(layouts.hrnet(state))
    loaded = model.state_dict()
    assert set(loaded) == set(state)
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    assert not report.unexpected
    assert not model.training


def test_plain_hrnet_segmentation_resizes_as_its_trunk(tmp_path: Path) -> None:
    state = random_state(create_model("hrnet_w18", "segmentation", head="fcn").state_dict())
    model, report = load_model(layouts.hrnet(state))
    head: Any = model.head
    assert "bilinear_to_size" in report.assumed["upsample"]
    assert not head.align_corners
    aligned, report = load_model(layouts.hrnet(state), upsample="bilinear_aligned")
    head = aligned.head
    assert head.align_corners
    again, _ = load_model(save_checkpoint(aligned, tmp_path / "x.safetensors"))
    x = torch.randn(1, 3, 65, 75)
    with torch.inference_mode():
        assert torch.equal(again(x), aligned(x))
        assert not torch.allclose(model(x), aligned(x), atol=1e-2)


def test_norms_of_pytorch_04() -> None:
    """InPlaceABN, which HRNet's segmentation used then, multiplies by |weight| + eps and keeps no counters."""
    state = random_state(create_model("hrnet_w18", "segmentation", aux="hrnet").state_dict())
    state["backbone.bn1.weight"][0] = -0.5
    model, report = load_model({k: v for k, v in layouts.hrnet(state).items() if "num_batches" not in k})
    assert "InPlaceABN" in report.notes[0]
    loaded = model.state_dict()
    assert torch.equal(loaded["backbone.bn1.weight"], state["backbone.bn1.weight"].abs() + 1e-5)
    assert torch.equal(loaded["backbone.conv1.weight"], state["backbone.conv1.weight"])
    assert torch.equal(loaded["backbone.bn1.bias"], state["backbone.bn1.bias"])
    model, report = load_model(layouts.hrnet(state))
    assert not report.notes
    assert float(model.state_dict()["backbone.bn1.weight"][0]) == -0.5


def test_settings_reach_the_model() -> None:
    model = nano("pose")
    report = load_checkpoint(model, official("pose"))
    trunk: Any = model.backbone
    modules = trunk.high_resolution_modules()
    assert {m.fuse.upsample for m in modules} == {"bilinear"}
    assert {m.position_bias for m in model.modules() if isinstance(m, WindowAttention)} == {False}
    assert not first_attention(model).relative_position_bias_table.requires_grad
    assert model.info.decoder == "official"
    assert model.info.input_spec == InputSpec(size=(256, 192))
    assert model.info.options == {"position_bias": False, "upsample": "bilinear"}
    assert report.implied == {
        "channel_order": "RGB",
        "decoder": "official",
        "position_bias": False,
        "upsample": "bilinear",
    }
    assert report.assumed["input_size"].startswith("(256, 192): ")
    segmentation = nano("segmentation")
    load_checkpoint(segmentation, official("segmentation"))
    assert segmentation.info.input_spec.channel_order == "BGR"
    assert segmentation.info.input_spec.mean == InputSpec().mean  # stays in RGB order
    assert segmentation.info.dataset == "Cityscapes"


def test_options_decide() -> None:
    model = nano("pose")
    report = load_checkpoint(
        model,
        official("pose"),
        position_bias=True,
        upsample="nearest",
        channel_order="BGR",
        input_size=(384, 288),
        decoder="mmpose",
    )
    trunk: Any = model.backbone
    assert first_attention(model).position_bias
    assert trunk.stage4[0].fuse.upsample == "nearest"
    assert model.info.input_spec == InputSpec(size=(384, 288), channel_order="BGR")
    assert model.info.decoder == "mmpose"
    assert set(report.given) == {"position_bias", "upsample", "channel_order", "input_size", "decoder"}
    assert not set(report.implied) & set(report.given)
    assert not report.assumed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"upsample": "cubic"}, "upsample must be one of nearest, bilinear, bilinear_aligned"),
        ({"channel_order": "GRB"}, "channel_order must be 'RGB' or 'BGR'"),
        ({"input_size": (0, 10)}, "size must be"),
        ({"decoder": "megvii"}, "decoder must be one of official, mmpose"),
    ],
)
def test_bad_options_change_nothing(options: dict[str, Any], words: str) -> None:
    model = nano("pose")
    before = snapshot(model)
    with pytest.raises(ValueError, match=words):
        load_checkpoint(model, official("pose"), **options)
    assert_unchanged(model, before)


def test_options_that_do_not_apply_are_refused() -> None:
    with pytest.raises(ValueError, match="decoder cannot be set"):
        load_checkpoint(nano("classification"), official("classification"), decoder="mmpose")
    model = create_model("hrnet_w18", "pose")
    with pytest.raises(ValueError, match="position_bias cannot be set on hrnet_w18"):
        load_checkpoint(model, layouts.hrnet(model.state_dict()), position_bias=True)


def test_missing_entries_are_an_error_listing_both_sides() -> None:
    state = official("pose")
    state["backbone.stage3.0.branches.1.0.renamed.weight"] = state.pop("backbone.stage3.0.branches.1.0.norm1.weight")
    model = nano("pose")
    before = snapshot(model)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(model, state)
    message = str(caught.value)
    assert "1 in the model, not in the file: backbone.stage3.0.branches.1.0.norm1.weight" in message
    assert "1 in the file, not in the model: backbone.stage3.0.branches.1.0.renamed.weight" in message
    assert_unchanged(model, before)
    report = load_checkpoint(model, state, strict=False)
    assert report.fresh == ("backbone.stage3.0.branches.1.0.norm1",)
    assert report.unexpected == ("backbone.stage3.0.branches.1.0.renamed.weight",)


def test_another_variant_is_an_error() -> None:
    model = nano("pose")
    before = snapshot(model)
    state = create_model("hrformer_tiny", "pose").state_dict()
    with pytest.raises(CheckpointError, match=r"(?s)not in the model: .* and \d+ more.*the file is a hrformer_tiny"):
        load_checkpoint(model, layouts.official(state))
    with pytest.raises(CheckpointError, match=r"(?s)another shape.*\(18, 256, 3, 3\) in the file, \(32, 256, 3, 3\)"):
        load_checkpoint(create_model("hrformer_small", "pose"), layouts.official(state))
    assert_unchanged(model, before)


def test_unknown_entries_are_reported_but_harmless() -> None:
    report = load_checkpoint(nano("pose"), official("pose") | {"teacher.x": torch.ones(1)})
    assert report.unexpected == ("teacher.x",)


def test_batch_counters_may_be_missing() -> None:
    state = {name: value for name, value in official("pose").items() if not name.endswith("num_batches_tracked")}
    report = load_checkpoint(nano("pose"), state)
    assert report.missing
    assert all(name.endswith("num_batches_tracked") for name in report.missing)


def test_classification_file_starts_a_pose_model() -> None:
    """Recipe 1.10: the head and rows 1 to 3 of the last fusion are left over, the settings are the pose model's."""
    model = nano("pose", position_bias=False)
    head = {name: value.clone() for name, value in model.state_dict().items() if name.startswith("head.")}
    state = official("classification")
    report = load_checkpoint(model, {"model": state})
    assert report.fresh == ("head",)
    assert set(report.ignored.values()) == {
        "index buffer, computed from the window size",
        "part of a classification head; the model is for pose",
        "makes coarse outputs, which pose does not use",
    }
    assert all(torch.equal(model.state_dict()[name], value) for name, value in head.items())
    key = "stage4.0.branches.3.1.mlp.fc2.weight"
    assert torch.equal(model.state_dict()[f"backbone.{key.replace('mlp', 'ffn')}"], state[key])
    trunk: Any = model.backbone
    assert trunk.stage2[0].fuse.upsample == "bilinear"
    assert not first_attention(model).position_bias
    assert "for classification" in report.assumed["upsample"]
    assert model.info.input_spec.size == (256, 192)
    incomplete = {name: value for name, value in state.items() if not name.startswith("transition2")}
    with pytest.raises(CheckpointError, match=r"not in the file: backbone\.transition2"):
        load_checkpoint(model, incomplete)


def test_pose_file_lacks_outputs_for_segmentation() -> None:
    model = nano("segmentation")
    with pytest.raises(CheckpointError, match=r"not in the file: backbone\.stage4\.0\.fuse\.paths\.1"):
        load_checkpoint(model, official("pose"))


def test_bare_backbone_from_a_classification_file() -> None:
    model = nano()
    report = load_checkpoint(model, official("classification"))
    assert report.implied["upsample"] == "nearest"
    assert "part of a head; the model is a bare backbone" in report.ignored.values()
    assert not report.fresh


def test_another_number_of_classes_keeps_the_rest() -> None:
    state = official("segmentation")
    model = nano("segmentation", num_classes=11)
    report = load_checkpoint(model, state)
    assert set(report.fresh) == {"head.classifier", "head.aux.3"}
    assert report.ignored["cls_head.weight"] == "19 classes or keypoints, the model has 11"
    assert torch.equal(model.state_dict()["head.pixel.0.weight"], state["conv3x3.0.weight"])
    assert model.info.input_spec.channel_order == "BGR"
    assert model.info.dataset == ""
    pose = nano("pose", num_keypoints=14)
    assert load_checkpoint(pose, official("pose")).fresh == ("head.final_layer",)
    assert pose.info.skeleton == LSPET14
    classifier = nano("classification", num_classes=10)
    assert load_checkpoint(classifier, official("classification")).fresh == ("head.classifier",)


@pytest.mark.parametrize("window", [13, 15])
def test_another_window_resizes_the_tables(shared_dir: Path, window: int) -> None:
    with np.load(shared_dir / "parity" / "protocol" / "segmentation.npz") as arrays:
        name = {13: "2heads_to_25", 15: "4heads_to_29"}[window]
        before, after = torch.from_numpy(arrays[f"rpe_in_{name}"]), torch.from_numpy(arrays[f"rpe_out_{name}"])
    state = official("segmentation")
    block = f"backbone.stage3.0.branches.{ {13: 1, 15: 2}[window] }.1"
    key = f"{block}.attn.attn.relative_position_bias_table"
    assert state[key].shape == before.shape
    state[key] = before
    model = nano("segmentation", window_size=window)
    report = load_checkpoint(model, state)
    table = model.state_dict()[f"{block}.attn.relative_position_bias_table"]
    assert float((table - after).abs().max()) <= 1e-5 * float(after.abs().max())
    assert report.converted[key] == f"{block}.attn.relative_position_bias_table"
    assert f"bias tables resized from window 7 to {window}" in report.notes
    assert not report.fresh


def test_window_of_the_file_or_of_the_caller() -> None:
    state = official("segmentation", window_size=13)
    model, report = load_model(state)
    assert first_attention(model).window == 13
    assert not report.notes
    model, report = load_model(state, window_size=7)
    assert first_attention(model).window == 7
    assert "bias tables resized from window 13 to 7" in report.notes


def test_tables_may_be_absent_where_the_bias_is_off() -> None:
    state = {k: v for k, v in layouts.mmpose(nano("pose").state_dict()).items() if "relative" not in k}
    model = nano("pose")
    report = load_checkpoint(model, state)
    assert not first_attention(model).position_bias
    assert len(report.missing) == 18  # blocks
    with pytest.raises(CheckpointError, match=r"18 in the model, not in the file: .*relative_position_bias_table"):
        load_checkpoint(model, state, position_bias=True)


def test_half_precision_files_load_into_full_precision_models() -> None:
    state = {name: value.half() if value.is_floating_point() else value for name, value in official("pose").items()}
    model, _ = load_model(state)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.state_dict()["head.final_layer.bias"], state["keypoint_head.final_layer.bias"].float())


def test_state_dicts_of_our_own_models() -> None:
    """A training checkpoint with our names: the file says nothing, so the model keeps its settings."""
    source = nano("pose", position_bias=False)
    model = nano("pose", position_bias=False)
    report = load_checkpoint(model, {"model": source.state_dict(), "optimizer": {}})
    assert report.format == "hrformer"
    assert not report.converted
    assert not first_attention(model).position_bias
    assert report.assumed["position_bias"] == "False, as the model has it: the file does not say"


def test_load_model_takes_the_task_from_the_caller() -> None:
    with pytest.raises(CheckpointError, match=r"no weights for head of a model for segmentation.*strict=False"):
        load_model(official("classification"), task="segmentation", num_classes=4)
    with pytest.raises(CheckpointError, match=r"no weights for head\.classifier of .*with 7 outputs"):
        load_model(official("classification"), num_classes=7)
    model, report = load_model(official("classification"), task="segmentation", num_classes=4, strict=False)
    assert (model.task, model.info.num_classes, report.fresh) == ("segmentation", 4, ("head",))
    model, _ = load_model(official("classification"), task=None)
    assert model.head is None


def test_load_model_of_backbones() -> None:
    body = {name: value for name, value in official("classification").items() if name.startswith(("conv", "bn", "la"))}
    body |= {name: value for name, value in official("classification").items() if name.startswith(("tr", "stage"))}
    model, report = load_model(body)
    assert (model.task, report.format) == (None, "official-backbone")
    assert set(report.assumed) == {"position_bias", "upsample"}
    pose = {name: value for name, value in official("pose").items() if name.startswith("backbone.")}
    with pytest.raises(CheckpointError, match="task='pose'"):
        load_model(pose)
    assert load_model(pose, task="pose", strict=False)[1].fresh == ("head",)


def test_load_model_names_unknown_shapes() -> None:
    state = timm.create_model("hrnet_w18_small").state_dict()
    with pytest.raises(CheckpointError, match=r"hrnet with 16, 32, 64, 128 channels, 1, 1, 1 modules, .*none of"):
        load_model(state)
    assert load_model(state, name="timm/hrnet_w18_small")[1].format == "timm"


def test_timm_models() -> None:
    source = timm.create_model("resnet10t", num_classes=10)
    model = create_model("resnet10t", "classification", num_classes=10)
    report = load_checkpoint(model, source.state_dict())
    assert report.format == "timm"
    assert len(report.used) == len(source.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model.eval()(x), source.eval()(x))
    other = create_model("resnet10t", "classification", num_classes=3)
    assert load_checkpoint(other, source.state_dict()).fresh == ("backbone.net.fc",)
    with pytest.raises(CheckpointError, match="in the model, not in the file"):
        load_checkpoint(other, {"fc.weight": torch.ones(10, 512)})


def test_published_entry_of_a_hub_file() -> None:
    """Files of the hub have no hash in the registry; the caller says which one it is."""
    entry = find_weights("hrnet_w18_ssld_paddle_in1k")
    state = create_model("hrnet_w18", "classification").state_dict()
    model, report = load_model(layouts.hrnet(state), published=entry)
    assert (model.info.name, model.info.input_spec.crop_ratio) == ("hrnet_w18", 0.95)
    assert report.implied["crop_ratio"] == 0.95
    assert model.info.dataset == "ImageNet-1K"


def test_report_reads_well() -> None:
    text = str(load_checkpoint(nano("segmentation", num_classes=3), official("segmentation")))
    lines = text.splitlines()
    assert lines[0].startswith("state dict: official-segmentation; entries used ")
    assert "  ignored, 18: index buffer, computed from the window size" in lines
    assert "  fresh, not from the file: head.aux.3, head.classifier" in lines
    assert max(map(len, lines)) < 200
