from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from half_kernels import pretend_half_kernels, pretend_no_half
from hrformer.checkpoints import download, registry
from hrformer.checkpoints.checkpoint import save_checkpoint
from hrformer.fast.optimize import FastModel
from hrformer.geometry.skeletons import COCO17
from hrformer.models.model import VisionModel
from hrformer.predict.classify import ClassificationPredictor
from hrformer.predict.pose import PosePredictor
from hrformer.predict.predictors import load, predictor_for
from hrformer.predict.segment import SegmentationPredictor
from hrformer.zoo import create_model


@pytest.mark.parametrize(
    ("task", "kind"),
    [("classification", ClassificationPredictor), ("pose", PosePredictor), ("segmentation", SegmentationPredictor)],
)
def test_file_to_predictor(task: str, kind: type, request: pytest.FixtureRequest, tmp_path: Path, noise) -> None:
    model: VisionModel = request.getfixturevalue(f"{task}_model")
    file = save_checkpoint(model, tmp_path / "weights.safetensors")
    for name in (file, str(file)):
        predictor = load(name, device="cpu")
        assert type(predictor) is kind
        assert predictor.device == torch.device("cpu")
        assert not predictor.model.training
        assert predictor.report is not None
        assert predictor.report.source == "weights.safetensors"
    options = {"short_side": 64} if task == "segmentation" else {}
    made, loaded = predictor_for(model, device="cpu")(noise, **options), predictor(noise, **options)
    compared = [key for key in ("mask", "keypoints", "probabilities") if hasattr(made, key)]
    assert len(compared) == 1
    assert np.allclose(getattr(made, compared[0]), getattr(loaded, compared[0]), atol=1e-6)
    assert model.info.name in repr(predictor)


def test_settings_reach_the_model(pose_model: VisionModel, tmp_path: Path) -> None:
    file = save_checkpoint(pose_model, tmp_path / "weights.safetensors")
    predictor = load(file, device="cpu", decoder="mmpose", input_size=(64, 48))
    assert predictor.info.decoder == "mmpose"
    assert predictor.info.input_spec.size == (64, 48)
    assert load(file, device="cpu", dtype=torch.bfloat16).model.backbone.conv1.weight.dtype == torch.bfloat16


def test_precision_reaches_the_model(
    classification_model: VisionModel, tmp_path: Path, noise: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save_checkpoint(classification_model, tmp_path / "weights.safetensors")
    made = pretend_half_kernels(monkeypatch)
    for asked, runs in (("fp32", "fp32"), ("bf16", "bf16"), ("auto", "bf16")):
        predictor = load(file, device="cpu", fast=True, precision=asked)
        assert (predictor.precision, predictor.precision_note) == (runs, f"precision: {runs}")
        assert isinstance(predictor.model, FastModel)
        assert predictor.model.backend == "native"
        predictor(noise)
    assert load(file, device="cpu", fast=True).precision == "fp32"
    assert made == ["fp32", "bf16", "bf16", "fp32"]
    for asked, runs in (("fp32", "fp32"), ("bf16", "bf16"), ("auto", "fp32")):
        predictor = load(file, device="cpu", precision=asked)
        assert predictor.precision == runs
        assert not isinstance(predictor.model, FastModel)
    reason = pretend_no_half(monkeypatch)
    predictor = load(file, device="cpu", fast=True, precision="bf16")
    assert predictor.precision == "fp32"
    assert reason in predictor.precision_note


def test_on_a_gpu_weights_take_the_precision(
    classification_model: VisionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save_checkpoint(classification_model, tmp_path / "weights.safetensors")
    monkeypatch.setattr("hrformer.predict.predictors.find_device", lambda device: torch.device("cuda"))
    for precision, dtype in (("fp32", torch.float32), ("auto", torch.float32), ("bf16", torch.bfloat16)):
        predictor = load(file, device="cpu", fast=True, precision=precision)
        assert predictor.dtype == next(predictor.model.parameters()).dtype == dtype


def test_wrong_precisions_are_named(classification_model: VisionModel, tmp_path: Path) -> None:
    file = save_checkpoint(classification_model, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="must be 'fp32', 'bf16' or 'auto', got 'fp16'"):
        load(file, device="cpu", precision="fp16")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"not both: got 'bf16' and torch\.float64"):
        load(file, device="cpu", dtype=torch.float64, fast=True, precision="bf16")
    assert load(file, device="cpu", dtype=torch.float64, precision="auto").precision == "fp64"


def test_joints_given_by_the_caller(tmp_path: Path, noise: np.ndarray) -> None:
    file = save_checkpoint(create_model("hrformer_nano", "pose", num_keypoints=3), tmp_path / "weights.safetensors")
    hands = {"keypoints": ["left_hand", "right_hand", "hat"], "skeleton": [[1, 3], [2, 3]]}
    predictor = load(file, device="cpu", skeleton=hands)
    result = predictor(noise, boxes=[[4, 4, 50, 60]] * 2, nms="hard")
    assert (len(result), result.names) == (1, tuple(hands["keypoints"]))
    saved = save_checkpoint(predictor.model, tmp_path / "named.safetensors")
    assert load(saved, device="cpu").info.skeleton == predictor.info.skeleton
    made = create_model("hrformer_nano", "pose", skeleton=hands)
    assert (made.info.num_classes, made.info.skeleton) == (3, predictor.info.skeleton)
    with pytest.raises(ValueError, match="has 17 joints, the model 3"):
        load(file, skeleton=COCO17)
    with pytest.raises(ValueError, match="has 3 joints, the model 17"):
        create_model("hrformer_nano", "pose", num_keypoints=17, skeleton=hands)
    with pytest.raises(ValueError, match="for task 'pose', not 'classification'"):
        create_model("hrformer_nano", "classification", skeleton=hands)


def test_names_of_bundled_weights(
    classification_model: VisionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tuple("abcdefghij")
    saved = create_model("hrformer_nano", "classification", num_classes=10)
    saved.load_state_dict(classification_model.state_dict())
    saved.info = replace(saved.info, class_names=names, dataset="ten things")
    save_checkpoint(saved, tmp_path / "ten_things.safetensors")
    for module in (registry, download):
        monkeypatch.setattr(module, "bundled_folder", lambda: tmp_path)
    predictor = load("ten_things", device="cpu")
    assert predictor.info.class_names == names
    assert predictor.info.dataset == "ten things"


def test_what_cannot_be_loaded_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"no weight file .*absent.pth"):
        load(tmp_path / "absent.pth")
    with pytest.raises(FileNotFoundError, match=r"no weight file absent\.pth"):
        load("absent.pth")
    with pytest.raises(ValueError, match=r"no weights are called 'hrformer_smal'.*hrformer_small_coco"):
        load("hrformer_smal")
    with pytest.raises(ValueError, match="person detector"):
        load("fasterrcnn_resnet50_fpn_v2_coco")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ValueError, match="not a weight file"):
        load(tmp_path / "text.pth")
    bare = create_model("hrformer_nano")
    with pytest.raises(ValueError, match="bare backbone"):
        load(save_checkpoint(bare, tmp_path / "bare.safetensors"))
    monkeypatch.setenv("HRFORMER_OFFLINE", "1")
    with pytest.raises(download.DownloadError):
        load("hrformer_small_coco_256x192")


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("task", ["classification", "pose", "segmentation"])
def test_models_of_other_channels_take_pictures(task: str, channels: int, noise: np.ndarray, tmp_path: Path) -> None:
    model = create_model("hrformer_nano", task=task, in_chans=channels).eval()
    assert len(model.info.input_spec.mean) == channels
    predictor_for(model, device="cpu")(noise)
    clear = np.dstack([noise, np.zeros_like(noise[..., 0])])
    if channels == 4 and task == "classification":
        assert predictor_for(model, device="cpu")(clear).probabilities != predictor_for(model)(noise).probabilities
    save_checkpoint(model, tmp_path / "model.safetensors")
    predictor = load(tmp_path / "model.safetensors", "cpu")
    assert predictor.info.input_spec == model.info.input_spec
    predictor(noise)
