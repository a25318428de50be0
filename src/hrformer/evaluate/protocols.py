"""How a data set is scored: the published test protocols as configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationProtocol:
    """Resize, centre crop (both from the model's ``InputSpec``), top-1 and top-5.

    Attributes:
        batch_size: pictures per step; changes no score.
        flip: average the logits with the mirror image's.
    """

    batch_size: int = 64
    flip: bool = False

    def __post_init__(self) -> None:
        _require_positive("batch_size", self.batch_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class PoseProtocol:
    """COCO's ten figures or PCK, from labelled or detected boxes.

    Attributes:
        batch_size: people per step; changes no score.
        score: "coco", "pck", or "both"; the first named is the main one ("both": PCK).
        flip: average with the mirror image's heatmaps.
        shift: with ``flip``, move the mirrored maps one cell to the right.
        detections: person boxes in COCO's results format; None takes the labelled boxes.
        box_threshold: detections scored below it are not looked at.
        joint_threshold: joints must score above it to count in a person's score.
        nms_threshold: OKS above which two people count as one; None keeps all. The published figures use 0.9, with
            labelled boxes too.
        alpha: of PCK, as a share of its reference length.
        pck_norm: reference length of PCK: empty for the torso (left shoulder to right hip), two names of joints for
            their distance, "box" for the longer side of the labelled box.
    """

    batch_size: int = 64
    score: Literal["coco", "pck", "both"] = "coco"
    flip: bool = True
    shift: bool = True
    detections: Path | None = None
    box_threshold: float = 0.0
    joint_threshold: float = 0.2
    nms_threshold: float | None = 0.9
    alpha: float = 0.2
    pck_norm: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require_positive("batch_size", self.batch_size)
        _require_positive("alpha", self.alpha)
        if self.score not in ("coco", "pck", "both"):
            raise ValueError(f"score must be 'coco', 'pck' or 'both', got {self.score!r}")
        if self.nms_threshold is not None and not 0 < self.nms_threshold <= 1:
            raise ValueError(f"nms_threshold must be None or lie in (0, 1], got {self.nms_threshold}")
        if self.detections is not None and self.score != "coco":
            raise ValueError("PCK compares each labelled person with its own prediction, so it needs labelled boxes")


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentationProtocol:
    """Mean IoU by one confusion matrix at the pictures' own sizes.

    Attributes:
        batch_size: pictures of equal size per step; changes no score.
        short_side: bring the short side to this many pixels first; None keeps the picture's size, 0 takes the short
            side of the network's own input size.
        size: (height, width) to resize to whatever the aspect ratio, instead of ``short_side``.
        scales: factors on the network input, whose raw logits are summed.
        flip: add the mirror image's logits.
        pad: pad to a multiple of this many pixels after normalisation; None: 8 with several scales, else 1.
        window: (height, width) of a sliding window over the network input; None takes the picture whole.
        stride: (down, right) step of the window; None is two thirds of it.
    """

    batch_size: int = 1
    short_side: int | None = None
    size: tuple[int, int] | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    pad: int | None = None
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        lengths = {
            "short_side": (self.short_side or None,),
            "pad": (self.pad,),
            "size": self.size,
            "window": self.window,
        }
        for name, values in {**lengths, "scales": self.scales, "batch_size": (self.batch_size,)}.items():
            for value in values or ():
                if value is not None:
                    _require_positive(name, value)
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One item of the set with its own score, to look at.

    Attributes:
        index: number of the item in the set.
        file: of its picture.
        score: in 0..1, higher is better.
        prediction: what the model said: a class id; (K, 3) joints (x, y, score) in picture pixels; a (H, W) mask.
    """

    index: int
    file: str
    score: float
    prediction: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Outcome of an evaluation.

    Attributes:
        task: "classification", "pose" or "segmentation".
        main: key in ``scores`` of the score that decides which checkpoint is best; higher is better.
        scores: as the metric computed them, in JSON types: numbers, and lists of rows (``per_class``, ``per_joint``).
        intervals: confidence intervals (low, high) of the main scores, by key; empty where none were asked for.
        confidence: of the intervals.
        worst: the items with the lowest scores, worst first.
        items: how many were evaluated.
        seconds: it took.
    """

    task: str
    main: str
    scores: dict[str, Any]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    confidence: float = 0.95
    worst: tuple[Example, ...] = ()
    items: int = 0
    seconds: float = 0.0

    @property
    def value(self) -> float:
        """The main score."""
        return float(self.scores[self.main])


def _require_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be above 0, got {value}")
