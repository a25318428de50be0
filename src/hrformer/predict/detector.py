"""torchvision's person detectors, for pictures that come without boxes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hrformer.checkpoints.download import fetch_weights
from hrformer.checkpoints.registry import WeightEntry, list_weights
from hrformer.checkpoints.weight_files import read_weights
from hrformer.models.model import find_device

PERSON_LABEL = 1

# torchvision trained these with frozen batch norms without an epsilon.
_WITHOUT_EPSILON = ("fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "keypointrcnn_resnet50_fpn")


class PersonDetector:
    """Finds people in one picture at a time.

    Args:
        name: torchvision's name of the detector, one of ``detector_names()``. The default has box mAP 46.7 on COCO;
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
        entry = _entry(name)
        if not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold must lie in [0, 1], got {score_threshold}")
        self.name = entry.model
        self.score_threshold = score_threshold
        self.device = find_device(device)
        from torchvision.models import get_model  # a second that only detectors need

        model = get_model(entry.model, weights=None, weights_backbone=None)
        load_detector_weights(model, fetch_weights(entry) if weights_path is None else weights_path)
        if entry.model in _WITHOUT_EPSILON:
            _remove_epsilon(model)
        self.model: nn.Module = model.to(self.device).eval()

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Find people.

        Args:
            pixels: (H, W, 3) uint8 RGB.

        Returns:
            boxes: (N, 4) (x, y, width, height) in picture pixels, best first.
            scores: (N,) in [0, 1].
        """
        picture = torch.tensor(pixels, device=self.device).permute(2, 0, 1).float() / 255
        found = self.model([picture])[0]
        people = (found["labels"] == PERSON_LABEL) & (found["scores"] >= self.score_threshold)
        boxes, scores = found["boxes"][people].float().cpu().numpy(), found["scores"][people].float().cpu().numpy()
        boxes[:, 2:] -= boxes[:, :2]
        order = np.argsort(-scores, kind="stable")
        order = order[boxes[order, 2:].min(axis=1, initial=np.inf) > 0]
        return boxes[order], scores[order]


def detector_names() -> list[str]:
    """Detectors whose weights are in the registry."""
    return [entry.model for entry in _entries()]


def load_detector_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load torchvision's file into the detector it belongs to.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a weight file or belongs to another detector.
    """
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


def _entries() -> list[WeightEntry]:
    return [entry for entry in list_weights() if entry.task == "detection"]


def _entry(name: str) -> WeightEntry:
    for entry in _entries():
        if name in (entry.model, entry.name):
            return entry
    raise ValueError(f"no person detector is called {name!r}; known: {', '.join(detector_names())}")


@torch.no_grad()
def _remove_epsilon(model: nn.Module) -> None:
    """Make ``var + eps`` equal to the stored variance; cuDNN accepts no epsilon of 0."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            module.running_var -= module.eps
