"""People found by one of torchvision's detectors, or in the masks of a segmentation model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hrformer.checkpoints.checkpoint import load_model
from hrformer.checkpoints.download import fetch_weights, resolve_weights
from hrformer.checkpoints.registry import list_weights
from hrformer.checkpoints.weight_files import read_weights
from hrformer.data.images import LoadedImage
from hrformer.models.model import find_device
from hrformer.predict.boxes import PERSON, Detector
from hrformer.predict.segment import SegmentationPredictor

# torchvision trained these with frozen batch norms without an epsilon.
_WITHOUT_EPSILON = ("fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "keypointrcnn_resnet50_fpn")

MASKS = "segmentation"
"""What :class:`MaskDetector` is called where a detector is named."""

MASK_WEIGHTS = "hrformer_tiny_petspeople"
"""Bundled segmentation model that finds people where no weights are given."""

PERSON_CLASS = "person"
# Share of the shorter side over which gaps in a person are closed, such as a belt or a bar in front of it; and of the
# picture, and of the largest person in it, that a region must cover: smaller ones are mostly specks of the network.
_GAP, _LEAST, _LEAST_OF_LARGEST = 0.02, 0.004, 0.04


def detector_for(
    name: str,
    *,
    score_threshold: float | None = None,
    weights_path: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
) -> Detector:
    """The detector of this name: "segmentation", or one of torchvision's.

    Args:
        name: see ``MaskDetector`` and ``PersonDetector``.
        score_threshold: people scored below it are left out; None takes the detector's own default.
        weights_path: the detector's own weights; None takes ``MASK_WEIGHTS``, or downloads those of torchvision's.
        device: where to run; None takes the GPU if there is one.

    Raises:
        ValueError, FileNotFoundError, DownloadError: see the two detectors.
    """
    options: dict[str, Any] = {"device": device}
    if score_threshold is not None:
        options["score_threshold"] = score_threshold
    if name == MASKS:
        return MaskDetector(weights_path or MASK_WEIGHTS, **options)
    return PersonDetector(name, weights_path=weights_path, **options)


class MaskDetector:
    """Finds people in one picture at a time; people who touch are one box.

    Args:
        weights: a segmentation model with a class "person": a name from ``hrformer models``, or a file.
        score_threshold: regions whose mean probability of a person is below it are left out. The default finds
            seven per cent fewer people of the val part of petspeople than 0.5, with 5 wrong boxes in 340 pictures,
            not 13.
        device: where to run; None takes the GPU if there is one.

    Raises:
        ValueError: the weights are not of such a model, or the threshold is out of range.
        FileNotFoundError: no such weight file.
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] = MASK_WEIGHTS,
        *,
        score_threshold: float = 0.6,
        device: str | torch.device | None = None,
    ) -> None:
        if not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold must lie in [0, 1], got {score_threshold}")
        path, entry = resolve_weights(weights)
        model, _ = load_model(path, published=entry)
        names = model.info.class_names
        if model.task != "segmentation" or PERSON_CLASS not in names:
            raise ValueError(f"{os.fspath(weights)} is no segmentation model with a class {PERSON_CLASS!r}")
        self.predictor, self.person = SegmentationPredictor(model, device=device), names.index(PERSON_CLASS)
        self.score_threshold = score_threshold

    def __call__(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(H, W, 3) uint8 RGB -> boxes (N, 4) as (x, y, width, height) in pixels, scores (N,) in [0, 1], best first."""
        logits = self.predictor.run(self.network_input(pixels)[None], self.predictor.options)[0]
        return self.boxes(logits, (pixels.shape[1], pixels.shape[0]))

    def network_input(self, pixels: NDArray[np.uint8]) -> Tensor:
        """(H, W, 3) uint8 RGB -> (h, w, 3) uint8 for one item of a batch of ``predictor.run``."""
        job: Any = self.predictor.prepare(LoadedImage(pixels=pixels), self.predictor.options)[0]
        pixels_in: Tensor = job[1]
        return pixels_in

    @torch.inference_mode()
    def boxes(self, logits: Tensor, size: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits (C, h, w) of a picture of ``size`` (width, height) -> what calling the detector returns."""
        chance = logits.softmax(dim=0)[self.person].cpu().numpy()
        return boxes_of(chance, (logits.argmax(dim=0) == self.person).cpu().numpy(), size, self.score_threshold)


def boxes_of(
    chance: NDArray[np.float32], inside: NDArray[np.bool_], size: tuple[int, int], threshold: float = 0.0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Boxes around the regions of a mask, and the mean chance in each.

    Args:
        chance: (h, w) in [0, 1].
        inside: (h, w) the mask.
        size: (width, height) of the picture that the boxes are for.
        threshold: regions of a lower mean are left out.

    Returns:
        (N, 4) (x, y, width, height) in picture pixels and (N,) scores, best first.
    """
    height, width = inside.shape
    side = 2 * max(round(_GAP * min(height, width) / 2), 1) + 1
    closed = cv2.morphologyEx(inside.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((side, side), np.uint8))
    count, regions, stats, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    least = max(_LEAST * height * width, _LEAST_OF_LARGEST * areas.max(initial=0))
    scale = np.array([size[0] / width, size[1] / height] * 2)
    boxes, scores = [], []
    for region in range(1, count):
        score = float(chance[(regions == region) & inside].mean())
        if areas[region - 1] >= least and score >= threshold:
            boxes.append(stats[region, : cv2.CC_STAT_AREA] * scale)
            scores.append(score)
    order = np.argsort(-np.array(scores), kind="stable")
    return np.array(boxes, np.float32).reshape(-1, 4)[order], np.array(scores, np.float32)[order]


class PersonDetector:
    """Finds people in one picture at a time.

    Args:
        name: torchvision's name of the detector, one of those in the registry. The default has box mAP 46.7 on COCO;
            ``fasterrcnn_mobilenet_v3_large_320_fpn`` is about fifteen times faster on a CPU, with 22.8.
        score_threshold: people scored below it are left out.
        weights_path: file with torchvision's weights; None downloads it once.
        device: where to run; None takes the GPU if there is one.

    Raises:
        ValueError: the name is unknown, the threshold is out of range, or the file does not fit the detector.
        DownloadError: the weights could not be fetched.
    """

    def __init__(
        self,
        name: str = "fasterrcnn_resnet50_fpn_v2",
        *,
        score_threshold: float = 0.5,
        weights_path: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        entries = {entry.model: entry for entry in list_weights() if entry.task == "detection"}
        entry = next((entry for entry in entries.values() if name in (entry.model, entry.name)), None)
        if entry is None:
            raise ValueError(f"no person detector is called {name!r}; known: {MASKS}, {', '.join(entries)}")
        if not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold must lie in [0, 1], got {score_threshold}")
        self.name = entry.model
        self.score_threshold = score_threshold
        self.device = find_device(device)
        from torchvision.models import get_model  # a second that only detectors need

        model = get_model(entry.model, weights=None, weights_backbone=None)
        _load_weights(model, fetch_weights(entry) if weights_path is None else weights_path)
        if entry.model in _WITHOUT_EPSILON:
            _remove_epsilon(model)
        self.model: nn.Module = model.to(self.device).eval()

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(H, W, 3) uint8 RGB -> boxes (N, 4) as (x, y, width, height) in pixels, scores (N,) in [0, 1], best first."""
        picture = torch.tensor(pixels, device=self.device).permute(2, 0, 1).float() / 255
        found = self.model([picture])[0]
        people = (found["labels"] == PERSON) & (found["scores"] >= self.score_threshold)
        boxes, scores = found["boxes"][people].float().cpu().numpy(), found["scores"][people].float().cpu().numpy()
        boxes[:, 2:] -= boxes[:, :2]
        order = np.argsort(-scores, kind="stable")
        order = order[boxes[order, 2:].min(axis=1, initial=np.inf) > 0]
        return boxes[order], scores[order]


def _load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load torchvision's file into the detector it belongs to; ValueError if it belongs to another."""
    try:
        missing, unexpected = model.load_state_dict(read_weights(Path(path)).tensors, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{os.fspath(path)} does not fit this detector: {error}") from error
    # Published files come from frozen batch norms, which do not count batches.
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(
            f"{os.fspath(path)} does not fit this detector: missing {missing[:3]} ({len(missing)} in all), "
            f"unexpected {list(unexpected)[:3]} ({len(unexpected)} in all)"
        )


@torch.no_grad()
def _remove_epsilon(model: nn.Module) -> None:
    """Make ``var + eps`` equal to the stored variance; cuDNN accepts no epsilon of 0."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            module.running_var -= module.eps
