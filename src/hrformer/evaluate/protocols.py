"""How a data set is scored: the published test protocols as configuration, and what comes out.

The comment at a field of a protocol is its help on the command line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationProtocol:
    """Resize, centre crop (both from the model's ``InputSpec``), top-1 and top-5."""

    batch_size: int = 64  # pictures per step; changes no score.
    flip: bool = False  # average the logits with the mirror image's.

    def __post_init__(self) -> None:
        _require_positive(batch_size=self.batch_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class PoseProtocol:
    """COCO's ten figures or PCK, from labelled or detected boxes."""

    batch_size: int = 64  # people per step; changes no score.
    # "coco", "pck", or "both"; the first named is the main one ("both": PCK).
    score: Literal["coco", "pck", "both"] = "coco"
    flip: bool = True  # average with the mirror image's heatmaps.
    shift: bool = True  # with ``flip``, move the mirrored maps one cell to the right.
    detections: Path | None = None  # person boxes in COCO's results format; None takes the labelled boxes.
    box_threshold: float = 0.0  # detections scored below it are not looked at.
    joint_threshold: float = 0.2  # joints must score above it to count in a person's score.
    # OKS above which two people count as one; None keeps all. The published figures use 0.9, with labelled boxes too.
    nms_threshold: float | None = 0.9
    alpha: float = 0.2  # of PCK, as a share of its reference length.
    # reference length of PCK: empty for the torso (left shoulder to right hip), two names of joints for
    # their distance, "box" for the longer side of the labelled box.
    pck_norm: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require_positive(batch_size=self.batch_size, alpha=self.alpha)
        if self.score not in ("coco", "pck", "both"):
            raise ValueError(f"score must be 'coco', 'pck' or 'both', got {self.score!r}")
        if self.nms_threshold is not None and not 0 < self.nms_threshold <= 1:
            raise ValueError(f"nms_threshold must be None or lie in (0, 1], got {self.nms_threshold}")
        if self.detections is not None and self.score != "coco":
            raise ValueError("PCK compares each labelled person with its own prediction, so it needs labelled boxes")


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentationProtocol:
    """Mean IoU by one confusion matrix at the pictures' own sizes."""

    batch_size: int = 1  # pictures of equal size per step; changes no score.
    # bring the short side to this many pixels first; None keeps the picture's size, 0 takes the short side of the
    # network's own input size.
    short_side: int | None = None
    # (height, width) to resize to whatever the aspect ratio, instead of ``short_side``.
    size: tuple[int, int] | None = None
    scales: tuple[float, ...] = (1.0,)  # factors on the network input, whose raw logits are summed.
    flip: bool = False  # add the mirror image's logits.
    # pad to a multiple of this many pixels after normalisation; None: 8 with several scales, else 1.
    pad: int | None = None
    # (height, width) of a sliding window over the network input; None takes the picture whole.
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None  # (down, right) step of the window; None is two thirds of it.

    def __post_init__(self) -> None:
        _require_positive(short_side=self.short_side or None, pad=self.pad, size=self.size, window=self.window)
        _require_positive(scales=self.scales, batch_size=self.batch_size)
        if not self.scales:
            raise ValueError("scales must hold at least one factor, (1.0,) for the picture as it is")
        if self.short_side is not None and self.size is not None:
            raise ValueError("give short_side or size, not both")
        if self.stride is not None and self.window is None:
            raise ValueError("a stride needs a window")
        if self.window is not None and not all(1 <= s <= w for s, w in zip(self.steps, self.window, strict=True)):
            raise ValueError(f"stride must lie in 1..window, so that no pixel is left out, got {self.stride}")

    @property
    def pad_multiple(self) -> int:
        """Multiple of pixels that the network input is padded to; 1 for none."""
        if self.pad is not None:
            return self.pad
        return 8 if tuple(self.scales) != (1.0,) else 1

    @property
    def steps(self) -> tuple[int, int]:
        """(down, right) step of the window; (0, 0) without one."""
        if self.window is None:
            return 0, 0
        return self.stride or (max(self.window[0] * 2 // 3, 1), max(self.window[1] * 2 // 3, 1))


Protocol = ClassificationProtocol | PoseProtocol | SegmentationProtocol


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FoundPerson:
    """What the network says about one box."""

    joints: NDArray[np.float32]  # (K, 3): x, y, score in picture pixels
    area: float  # of the padded box in square pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One item of the set with its own score, to look at."""

    index: int  # number of the item in the set
    file: str  # of its picture
    score: float  # in 0..1, higher is better
    # What the model said: a class id; (K, 3) joints (x, y, score) in picture pixels; a (H, W) mask.
    prediction: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Outcome of an evaluation."""

    task: str  # "classification", "pose" or "segmentation"
    main: str  # key in ``scores`` of the score that decides which checkpoint is best; higher is better
    # As the metric computed them, in JSON types: numbers, and lists of rows (``per_class``, ``per_joint``).
    scores: dict[str, Any]
    # Confidence intervals (low, high) of the main scores, by key; empty where none were asked for.
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    confidence: float = 0.95  # of the intervals
    worst: tuple[Example, ...] = ()  # the items with the lowest scores, worst first
    items: int = 0  # how many were evaluated
    seconds: float = 0.0  # it took

    @property
    def value(self) -> float:
        """The main score."""
        return float(self.scores[self.main])


def _require_positive(**values: float | tuple[float, ...] | None) -> None:
    """Numbers, also those of tuples, must be above 0; None is left alone."""
    for name, given in values.items():
        for value in given if isinstance(given, tuple | list) else (given,):
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")
