from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from hrformer.checkpoints.checkpoint import save_checkpoint
from hrformer.checkpoints.download import DownloadError
from hrformer.checkpoints.registry import list_weights
from hrformer.geometry.input_spec import InputSpec
from hrformer.predict.detectors import MaskDetector, PersonDetector, _remove_epsilon, boxes_of, detector_for
from hrformer.zoo import create_model

FAST = "fasterrcnn_mobilenet_v3_large_320_fpn"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as torchvision publishes them: frozen batch norms, which keep no count of batches."""
    torch.manual_seed(0)
    state = torchvision.models.get_model(FAST, weights=None, weights_backbone=None).state_dict()
    file = tmp_path_factory.mktemp("detector") / "detector.pth"
    torch.save({key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}, file)
    return file


class Found(nn.Module):
    """Answers like a torchvision detector."""

    def forward(self, pictures: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        assert pictures[0].shape == (3, 60, 90)
        assert 0 <= float(pictures[0].min()) < float(pictures[0].max()) <= 1
        boxes = torch.tensor([[1.0, 2, 11, 22], [0, 0, 5, 5], [3, 3, 9, 9], [4, 4, 4, 9], [0, 1, 2, 3]])
        scores = torch.tensor([0.6, 0.99, 0.4, 0.9, 0.9])
        return [{"boxes": boxes, "scores": scores, "labels": torch.tensor([1, 2, 1, 1, 1])}]


def test_people_only_and_best_first(weights: Path, noise: np.ndarray) -> None:
    detector = PersonDetector(FAST, weights_path=weights, device="cpu")
    detector.model = Found()
    boxes, scores = detector(noise)
    # Dropped: another class, a low score, a box without width.
    assert boxes.tolist() == [[0, 1, 2, 2], [1, 2, 10, 20]]
    assert scores.tolist() == pytest.approx([0.9, 0.6])


def test_real_detector_runs(weights: Path, noise: np.ndarray) -> None:
    detector = PersonDetector(FAST, weights_path=weights, score_threshold=0.0, device="cpu")
    assert not detector.model.training
    boxes, scores = detector(noise)
    assert boxes.shape == (len(scores), 4)
    assert np.all(boxes[:, :2] + boxes[:, 2:] <= [90.001, 60.001])


def test_every_detector_of_the_registry_can_be_built() -> None:
    names = [entry.model for entry in list_weights() if entry.task == "detection"]
    assert "fasterrcnn_resnet50_fpn_v2" in names
    with torch.device("meta"):
        for name in names:
            assert torchvision.models.get_model(name, weights=None, weights_backbone=None)


def test_wrong_arguments_are_explained(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no person detector is called 'yolo'; known: segmentation, fasterrcnn"):
        PersonDetector("yolo")
    with pytest.raises(ValueError, match="score_threshold"):
        PersonDetector(FAST, score_threshold=2, weights_path=weights)
    with pytest.raises(FileNotFoundError):
        PersonDetector(FAST, weights_path=tmp_path / "absent.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="does not fit this detector: missing"):
        PersonDetector(FAST, weights_path=tmp_path / "other.pth")
    torch.save({"roi_heads.box_predictor.cls_score.bias": torch.zeros(3)}, tmp_path / "smaller.pth")
    with pytest.raises(ValueError, match=r"does not fit this detector: [\s\S]*size mismatch"):
        PersonDetector(FAST, weights_path=tmp_path / "smaller.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ValueError, match="not a weight file"):
        PersonDetector(FAST, weights_path=tmp_path / "text.pth")
    monkeypatch.setenv("HRFORMER_OFFLINE", "1")
    with pytest.raises(DownloadError):
        PersonDetector(FAST)


def test_epsilon_is_removed() -> None:
    norm = nn.BatchNorm2d(1).eval()
    norm.running_var.fill_(1e-6)
    x = torch.full((1, 1, 1, 1), 1e-3)
    assert norm(x).item() == pytest.approx(1e-3 / 1.1e-5**0.5, rel=1e-4)
    _remove_epsilon(norm)
    assert norm(x).item() == pytest.approx(1, rel=1e-4)


def test_people_in_a_mask_are_boxes() -> None:
    inside, chance = np.zeros((50, 100), bool), np.full((50, 100), 0.1, np.float32)
    inside[10:40, 10:20] = True  # two people, the second in two parts with a narrow gap, and a speck
    inside[20:30, 60:70], inside[31:45, 60:70] = True, True
    inside[5, 90] = True
    chance[:, :50], chance[:, 50:] = 0.6, 0.9
    boxes, scores = boxes_of(chance, inside, (200, 150))
    assert boxes.tolist() == [[120, 60, 20, 75], [20, 30, 20, 90]]
    assert scores.tolist() == pytest.approx([0.9, 0.6])
    assert boxes_of(chance, inside, (200, 150), 0.7)[0].shape == (1, 4)
    nobody, none = boxes_of(chance, np.zeros_like(inside), (200, 150))
    assert nobody.shape == (0, 4)
    assert none.shape == (0,)


def test_a_segmentation_model_finds_people(tmp_path: Path, noise: np.ndarray) -> None:
    model = create_model("hrformer_nano", "segmentation", num_classes=2, ocr_channels=16, ocr_key_channels=8)
    model.info = replace(model.info, class_names=("background", "person"), input_spec=InputSpec(size=(64, 64)))
    with torch.no_grad():
        model.head.classifier.bias.copy_(torch.tensor([-50.0, 50.0]))
    file = save_checkpoint(model.eval(), tmp_path / "people.safetensors")
    detector = detector_for("segmentation", weights_path=file, device="cpu")
    boxes, scores = detector(noise)
    assert boxes.tolist() == [[0, 0, 90, 60]]
    assert scores.tolist() == pytest.approx([1.0])
    with pytest.raises(ValueError, match="score_threshold"):
        MaskDetector(file, score_threshold=2)
    model.info = replace(model.info, class_names=("background", "tree"))
    save_checkpoint(model, file)
    with pytest.raises(ValueError, match="no segmentation model with a class 'person'"):
        MaskDetector(file)
