"""What is known of a file from its content, and what is assumed and said to be."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import layouts
from hrformer.checkpoints.checkpoint import load_model, save_checkpoint
from hrformer.checkpoints.formats import HABITS, Family
from hrformer.checkpoints.pickles import CheckpointError
from hrformer.checkpoints.recognise import Recognised, file_notes, file_settings, recognise
from hrformer.checkpoints.registry import find_weights
from hrformer.checkpoints.weight_files import read_weights
from hrformer.models.model import Task
from hrformer.zoo import create_model
from layouts import State


def state(name: str, task: Task | None, **options: Any) -> State:
    return create_model(name, task, **options).state_dict()


def known(source: Any) -> Recognised:
    return recognise(read_weights(source))


def implied(found: Recognised) -> dict[str, Any]:
    settings, assumed = file_settings(found)
    return {name: value for name, value in settings.items() if name not in assumed}


@pytest.fixture(scope="module")
def nano() -> dict[Task | None, State]:
    tasks: tuple[Task | None, ...] = ("classification", "pose", "segmentation", None)
    return {task: state("hrformer_nano", task) for task in tasks}


@pytest.fixture(scope="module")
def w18() -> dict[Task | None, State]:
    return {
        "classification": state("hrnet_w18", "classification"),
        "pose": state("hrnet_w18", "pose"),
        "segmentation": state("hrnet_w18", "segmentation", aux="hrnet"),
        None: state("hrnet_w18", None),
    }


def test_official_classification(nano: dict[Task | None, State]) -> None:
    found = known({"model": layouts.official(nano["classification"], prefix=""), "epoch": 1})
    assert (found.format, found.family, found.task, found.num_outputs) == (
        "official-classification",
        "hrformer",
        "classification",
        1000,
    )
    assert found.model == "hrformer_nano"
    values = {"position_bias": True, "upsample": "nearest", "channel_order": "RGB", "interpolation": "bicubic"}
    assert implied(found) == values
    assert file_settings(found)[0]["input_size"] == (224, 224)
    assert "does not say" in file_settings(found)[1]["input_size"]


def test_official_pose(nano: dict[Task | None, State]) -> None:
    found = known({"state_dict": layouts.official(nano["pose"])})
    assert (found.format, found.task, found.num_outputs) == ("official-pose", "pose", 17)
    values = {"position_bias": False, "upsample": "bilinear", "channel_order": "RGB", "decoder": "official"}
    assert implied(found) == values
    assert file_settings(found)[0]["input_size"] == (256, 192)


def test_official_segmentation_wants_bgr(nano: dict[Task | None, State]) -> None:
    names = {f"module.{key}": value for key, value in layouts.official(nano["segmentation"]).items()}
    found = known({"state_dict": names})
    assert (found.format, found.task, found.num_outputs) == ("official-segmentation", "segmentation", 19)
    values = {"position_bias": True, "upsample": "nearest", "channel_order": "BGR", "interpolation": "bicubic"}
    assert implied(found) == values
    assert file_settings(found)[0]["dataset"] == "Cityscapes"
    assert file_settings(found)[1]["dataset"]


def test_official_segmentation_that_records_its_pixels(nano: dict[Task | None, State]) -> None:
    config = {
        "dataset": "pascal_context",
        "data": {"input_mode": "RGB"},
        "train": {"data_transformer": {"input_size": [640, 480]}},
    }
    found = known({"state_dict": layouts.official(nano["segmentation"]), "config_dict": config})
    assert implied(found)["channel_order"] == "RGB"
    assert implied(found)["input_size"] == (480, 640)
    assert implied(found)["dataset"] == "pascal_context"


def test_mmpose(nano: dict[Task | None, State]) -> None:
    new, old = (known(layouts.mmpose(nano["pose"], head=head)) for head in ("head.", "keypoint_head."))
    assert (new.format, old.format) == ("mmpose-1.x", "mmpose-0.x")
    assert implied(new) == {"upsample": "bilinear", "channel_order": "RGB", "decoder": "mmpose"}
    assert file_settings(old)[0]["decoder"] == "mmpose"
    assert file_settings(old)[1]["decoder"]
    for found in (new, old):
        assert file_settings(found)[0]["position_bias"] is True
        assert "2022-02-26" in file_settings(found)[1]["position_bias"]
        assert "DARK" in file_notes(found)[0]


def test_mmpose_without_tables_has_no_bias(nano: dict[Task | None, State]) -> None:
    names = {key: value for key, value in layouts.mmpose(nano["pose"]).items() if "relative" not in key}
    assert implied(known(names))["position_bias"] is False


@pytest.mark.parametrize(
    "text", ["with_rpe=False, image_size=[288, 384]", "{'with_rpe': False, 'input_size': (288, 384)}"]
)
def test_mmpose_configuration_beside_the_weights(nano: dict[Task | None, State], text: str) -> None:
    for name in ("cfg", "config"):
        found = known({"state_dict": layouts.mmpose(nano["pose"]), "meta": {name: f"a = 1\nb = {text}\n"}})
        assert implied(found)["position_bias"] is False
        assert implied(found)["input_size"] == (384, 288)


@pytest.mark.parametrize(
    ("text", "decoding"),
    [
        ("codec = dict(type='UDPHeatmap', sigma=2)", ("udp", 11, False)),
        ("dict(blur_kernel_size=17, type='mmpose.codecs.MSRAHeatmap', unbiased=True)", ("dark", 17, True)),
        ("codec = dict(type='MSRAHeatmap', sigma=2)\nuse_udp=True", ("mmpose", 11, True)),
        ("test_cfg=dict(shift_heatmap=False, target_type='GaussianHeatmap', use_udp=True)", ("udp", 11, False)),
        ("{'post_process': 'unbiased', 'modulate_kernel': 17, 'shift_heatmap': True}", ("dark", 17, True)),
        ("test_cfg=dict(post_process='default', shift_heatmap=False, modulate_kernel=11)", ("mmpose", 11, False)),
    ],
)
def test_codec_of_mmpose_files(
    nano: dict[Task | None, State], tmp_path: Path, text: str, decoding: tuple[str, int, bool]
) -> None:
    model, report = load_model({"state_dict": layouts.mmpose(nano["pose"]), "meta": {"cfg": text}})
    assert (model.info.decoder, model.info.blur_kernel, model.info.shift_heatmap) == decoding
    assert any("DARK" in note for note in report.notes) == (decoding[0] == "mmpose")
    save_checkpoint(model, tmp_path / "own.safetensors")
    assert load_model(tmp_path / "own.safetensors")[0].info.decoder == decoding[0]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("use_udp=True, target_type='CombinedTarget'", "CombinedTarget"),
        ("dict(type='UDPHeatmap', heatmap_type='combined')", "CombinedTarget"),
        ("dict(type='MegviiHeatmap')", "MegviiHeatmap"),
    ],
)
def test_codecs_that_are_refused(nano: dict[Task | None, State], text: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"decoder must be one of official, mmpose, dark, udp, got '{name}'"):
        load_model({"state_dict": layouts.mmpose(nano["pose"]), "meta": {"cfg": text}})


def test_joints_of_mmpose_files() -> None:
    meta = {
        "dataset_name": "three",
        "keypoint_id2name": {0: "top", 1: "left", 2: "right"},
        "flip_indices": [0, 2, 1],
        "skeleton_links": [(0, 1), (0, 2)],
        "sigmas": [0.1, 0.1, 0.1],
    }
    names = layouts.mmpose(state("hrformer_nano", "pose", num_keypoints=3))
    skeleton = file_settings(known({"state_dict": names, "meta": {"dataset_meta": meta}}))[0]["skeleton"]
    assert skeleton.keypoints == ("top", "left", "right")
    assert skeleton.flip_pairs == ((1, 2),)
    broken = known({"state_dict": names, "meta": {"dataset_meta": meta | {"sigmas": [0.1]}}})
    assert "skeleton" not in file_settings(broken)[0]


@pytest.mark.parametrize(
    ("name", "bias", "size"),
    [
        ("hrformer_small_coco_256x192_no_bias", False, (256, 192)),
        ("hrformer_base_coco_384x288", True, (384, 288)),
        ("hrformer_small_imagenet", True, None),
    ],
)
def test_published_files_are_known_by_their_hash(
    nano: dict[Task | None, State],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    bias: bool,
    size: tuple[int, int] | None,
) -> None:
    path = tmp_path / "renamed.bin"
    torch.save({"state_dict": layouts.mmpose(nano["pose"])}, path)
    prefix = find_weights(name).sha256_prefix
    monkeypatch.setattr("hrformer.checkpoints.recognise.sha256_of", lambda _: f"{prefix}{'0' * 56}")
    found = known(path)
    assert implied(found)["position_bias"] is bias
    assert implied(found).get("input_size") == size
    assert implied(found)["upsample"] == ("bilinear" if size else "nearest")
    assert not file_notes(found)


def test_backbones_cannot_tell_their_task(nano: dict[Task | None, State]) -> None:
    found = known(layouts.official(nano[None], prefix=""))
    assert (found.format, found.task, found.single_output) == ("official-backbone", None, False)
    assert implied(found) == {}
    assert file_settings(found)[0]["position_bias"] is True
    assert file_settings(found)[0]["upsample"] == "nearest"
    assert "does not tell its task" in file_settings(found)[1]["upsample"]
    assert known(layouts.mmpose(nano[None])).format == "mmpose-backbone"


def test_a_pose_backbone_has_one_output(nano: dict[Task | None, State]) -> None:
    body = {key: value for key, value in nano["pose"].items() if key.startswith("backbone.")}
    found = known(layouts.official(body))
    assert found.single_output
    assert (file_settings(found)[0]["position_bias"], file_settings(found)[0]["upsample"]) == (False, "bilinear")


@pytest.mark.parametrize(
    ("task", "layout", "upsample", "others"),
    [
        ("classification", "hrnet-classification", "nearest", {"interpolation": "bilinear"}),
        ("pose", "hrnet-pose", "nearest", {"decoder": "official"}),
        ("segmentation", "hrnet-segmentation", "bilinear_aligned", {"interpolation": "bilinear"}),
    ],
)
def test_official_hrnet(
    w18: dict[Task | None, State], task: Task, layout: str, upsample: str, others: dict[str, str]
) -> None:
    names = {f"model.{key}": value for key, value in layouts.hrnet(w18[task]).items()}
    found = known(names | {"loss.criterion.weight": torch.ones(19)})
    assert (found.format, found.family, found.task, found.model) == (layout, "hrnet", task, "hrnet_w18")
    assert implied(found) == {"upsample": upsample, "channel_order": "RGB", **others}


def test_mmpose_hrnet(w18: dict[Task | None, State]) -> None:
    found = known(layouts.mmpose(w18["pose"]))
    assert (found.format, found.family) == ("mmpose-1.x", "hrnet")
    assert implied(found) == {"upsample": "nearest", "channel_order": "RGB", "decoder": "mmpose"}
    assert known(layouts.mmpose(w18["pose"], head="keypoint_head.")).format == "mmpose-0.x"


def test_openseg_hrnet_wants_bgr() -> None:
    names = layouts.official(state("hrnet_w18", "segmentation", ocr_channels=64, ocr_key_channels=32))
    found = known(names)
    assert (found.format, found.options) == ("openseg", {"ocr_channels": 64, "ocr_key_channels": 32})
    assert implied(found)["channel_order"] == "BGR"
    assert implied(found)["upsample"] == "bilinear_aligned"


def test_openseg_hrnet_with_a_wide_auxiliary_head() -> None:
    names = layouts.official(state("hrnet_w18", "segmentation", ocr_channels=64, ocr_key_channels=32, aux="wide"))
    found = known(names)
    assert found.options == {"ocr_channels": 64, "ocr_key_channels": 32, "aux": "wide"}


def test_hrnet_segmentation_without_ocr(w18: dict[Task | None, State]) -> None:
    for classes, mode in ((19, "bilinear_to_size"), (59, "bilinear_to_size"), (150, "bilinear_aligned")):
        found = known(layouts.hrnet(state("hrnet_w18", "segmentation", num_classes=classes, head="fcn")))
        assert (found.format, found.task, found.num_outputs) == ("hrnet-segmentation-plain", "segmentation", classes)
        assert found.options == {"head": "fcn"}
        assert file_settings(found)[0]["upsample"] == mode
        assert "the file does not say" in file_settings(found)[1]["upsample"]


def test_openseg_without_ocr_gives_its_backbone(w18: dict[Task | None, State]) -> None:
    found = known(layouts.hrnet(w18[None]) | {"cls_head.3.weight": torch.zeros(19, 512, 1, 1)})
    assert found.task is None
    assert "no counterpart here" in file_notes(found)[0]


def test_options_come_from_shapes() -> None:
    names = state("hrformer_nano", "segmentation", window_size=13, mlp_ratio=2, in_chans=1, num_classes=5)
    found = known(layouts.official(names))
    assert found.options == {"in_chans": 1, "window_size": 13, "mlp_ratio": 2.0}
    assert found.num_outputs == 5
    names = state("hrformer_nano", "classification", head_planes=8, head_width=64)
    assert known(layouts.official(names)).options == {"window_size": 7, "head_planes": 8, "head_width": 64}


def test_other_networks_are_named() -> None:
    with pytest.raises(CheckpointError, match=r"not recognised as an HRFormer or HRNet.*layer4\.0\.conv1\.weight"):
        known({"layer4.0.conv1.weight": torch.ones(1), "fc.weight": torch.ones(1)})


def test_every_layout_with_habits_says_how_to_read_pixels() -> None:
    for (layout, family), habits in HABITS.items():
        assert habits["channel_order"] in ("RGB", "BGR"), layout
        assert re.fullmatch("hrformer|hrnet", family)
        assert "upsample" in habits
    assert set(Family.__args__) == {"hrformer", "hrnet", "timm"}
