"""Validation pictures: what is labelled beside what the model says, small enough to lie in a page."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from hrformer.data.draw import LEFT, MIDDLE, RIGHT, color_of, draw_joints, draw_segmentation
from hrformer.data.inspection.samples import fitted
from hrformer.data.order import Key, mixed_seed
from hrformer.data.set_types import IGNORE, ClassificationSet, ImageSet, PoseSet, SegmentationSet
from hrformer.evaluate.inference import network_for, predictions_in
from hrformer.evaluate.protocols import Example, Protocol
from hrformer.evaluate.scores import scores_for
from hrformer.models.model import VisionModel

Pixels = NDArray[np.uint8]
Legend = tuple[tuple[str, tuple[int, int, int]], ...]

# Pixels of the longer side of a picture in the page, of one that stands alone in classification, and of a person: two
# stand side by side, and lines must stay visible.
LONG_SIDE, CLASS_SIDE, PERSON_SIDE = 480, 224, 400
JPEG_QUALITY = 85
# RGB of wrong pixels, which no class has for its own, of pixels without a label, and of the lines from where a joint
# was seen to where it is.
WRONG, UNLABELLED, OFFSET = (255, 255, 255), (0, 0, 0), (255, 60, 220)
# Pixels beyond which OpenCV cannot draw; a network whose weights are not finite puts its joints there.
_FARTHEST = 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One picture of a group."""

    title: str  # what it shows
    jpeg: str  # the file's bytes in base64
    size: tuple[int, int]  # (width, height) in pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationPicture:
    """One item of the validation set: its panels side by side."""

    file: str  # of the picture, as the set calls it
    score: float | None  # of the item in 0..1, higher is better; None where there is no label to compare with
    panels: tuple[Panel, ...]  # label, prediction and so on
    text: str = ""  # what else to say about it; may be empty
    legend: Legend = ()  # names and RGB of what is drawn


def choose_items(source: ImageSet, count: int, seed: int) -> list[int]:
    """Numbers of at most ``count`` items on different pictures, the same for the same set and seed; in order."""
    generator = torch.Generator().manual_seed(mixed_seed(seed, len(source)))
    chosen: dict[int, int] = {}
    for index in torch.randperm(len(source), generator=generator).tolist():
        if len(chosen) >= count:
            break
        chosen.setdefault(source.picture(index), index)
    return sorted(chosen.values())


def predict_examples(model: VisionModel, source: ImageSet, indices: Sequence[int], protocol: Protocol) -> list[Example]:
    """What a model says about the items of these numbers, and how good each is by itself, NaN where it has no label.

    The model comes back in the mode it was in, and the random generators as they were.
    """
    network = network_for(model, source, protocol)
    scores = scores_for(source, protocol, len(source))
    step, examples = protocol.batch_size, []
    order = [[Key(index, 0) for index in indices[low : low + step]] for low in range(0, len(indices), step)]
    for batch, predictions in predictions_in(network, source, order):
        own = scores.update(batch, predictions)
        for index, score, said in zip(batch["index"].tolist(), own, predictions, strict=True):
            score = math.nan if score is None else score
            examples.append(Example(index=index, file=source.file(index), score=score, prediction=scores.shown(said)))
    return examples


def draw_examples(source: ImageSet, examples: Sequence[Example]) -> list[ValidationPicture]:
    """Draw labels and predictions of some items of a set."""
    drawn = []
    for one in examples:
        if isinstance(source, ClassificationSet):
            parts = _classified(source, one)
        elif isinstance(source, PoseSet):
            parts = _posed(source, one)
        else:
            assert isinstance(source, SegmentationSet)
            parts = _segmented(source, one)
        drawn.append(ValidationPicture(file=one.file, score=one.score if one.score >= 0 else None, **parts))
    return drawn


def _classified(source: ClassificationSet, example: Example) -> dict[str, Any]:
    true, said = source.label(example.index), int(example.prediction)
    names = source.classes
    text = f"{names[true]}, recognised" if said == true else f"{names[true]}, taken for {names[said]}"
    panel = _panel("", fitted(source.pixels(example.index), CLASS_SIDE)[0])
    return {"text": text, "panels": (panel,)}


def _posed(source: PoseSet, example: Example) -> dict[str, Any]:
    pixels, person = source.pixels(example.index), source.person(example.index)
    label, said = (np.array(points, dtype=np.float64) for points in (person.keypoints, example.prediction))
    left, top, right, bottom = _surroundings(pixels, person.box, label, said)
    canvas, scale = fitted(pixels[top:bottom, left:right], PERSON_SIDE)
    for points in (label, said):
        points[:, :2] = (points[:, :2] + 0.5 - (left, top)) * scale - 0.5
    sane = (np.abs(said[:, :2]) < _FARTHEST).all(axis=1)
    # Every joint has a place, however unsure the model is of it, and is scored there.
    said[:, 2] = sane
    seen, known = canvas.copy(), label[:, 2] > 0
    for joint in np.flatnonzero(known & sane):
        start, end = (tuple(int(v) for v in np.round(points[joint, :2])) for points in (said, label))
        cv2.line(seen, start, end, OFFSET, 2, cv2.LINE_AA)
    panels = [_panel("prediction", draw_joints(seen, said[None], skeleton=source.skeleton))]
    legend: Legend = (("left side", LEFT), ("right side", RIGHT), ("middle", MIDDLE))
    if known.any():
        panels.insert(0, _panel("label", draw_joints(canvas, label[None], skeleton=source.skeleton, joint_threshold=0)))
        legend += (("from prediction to label", OFFSET),)
    return {"panels": tuple(panels), "legend": legend}


def _surroundings(pixels: Pixels, box: NDArray[np.floating], *people: NDArray[Any]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part of the picture that shows the box and all joints, with a margin."""
    height, width = pixels.shape[:2]
    corners = [box[:2], box[:2] + box[2:]]
    points = np.concatenate([corners, *(person[person[:, 2] > 0, :2] for person in people)])
    points = points[(np.abs(points) < _FARTHEST).all(axis=1)]
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    margin = 0.08 * max(right - left, bottom - top)
    left, top = max(int(left - margin), 0), max(int(top - margin), 0)
    right, bottom = min(int(right + margin) + 1, width), min(int(bottom + margin) + 1, height)
    # A box outside its picture leaves nothing to see; then the whole picture is shown.
    return (left, top, right, bottom) if right - left > 1 and bottom - top > 1 else (0, 0, width, height)


def _segmented(source: SegmentationSet, example: Example) -> dict[str, Any]:
    pixels, _ = fitted(source.pixels(example.index), LONG_SIDE)
    said = _as_large(np.asarray(example.prediction), pixels)
    panels, shown = [_panel("picture", pixels)], set(np.unique(said).tolist())
    legend: Legend = ()
    if source.labelled:
        label = _as_large(source.mask(example.index), pixels)
        shown |= set(np.unique(label).tolist())
        panels.append(_panel("label", _painted(source, pixels, label)))
        # What all pictures have comes first, so that the legends of several fit together.
        legend = (("wrong", WRONG), ("not labelled", UNLABELLED))
    panels.append(_panel("prediction", _painted(source, pixels, said)))
    if source.labelled:
        panels.append(_panel("errors", _errors(pixels, label, said)))
    legend += tuple(
        (name, color_of(number, source.palette)) for number, name in enumerate(source.classes) if number in shown
    )
    return {"panels": tuple(panels), "legend": legend}


def _painted(source: SegmentationSet, pixels: Pixels, mask: NDArray[np.integer]) -> Pixels:
    """Class colours over the picture, black where there is no class."""
    count = len(source.classes)
    colors = [*(color_of(number, source.palette) for number in range(count)), UNLABELLED]
    ids = np.where(mask == IGNORE, count, mask)
    # No class covers more than the whole picture: none is named inside it, since the page has a legend.
    return draw_segmentation(pixels, ids, palette=colors, opacity=0.6, smallest_share=2.0)


def _errors(pixels: Pixels, label: NDArray[np.integer], said: NDArray[np.integer]) -> Pixels:
    """The picture in dark grey, white where the prediction is wrong, black where there is no label."""
    grey = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
    drawn = np.repeat((grey // 3 + 50).astype(np.uint8)[:, :, None], 3, axis=2)
    drawn[label != said] = WRONG
    drawn[label == IGNORE] = UNLABELLED
    return drawn


def _as_large(mask: NDArray[np.integer], pixels: Pixels) -> NDArray[np.integer]:
    """A mask in the size of a picture."""
    size = pixels.shape[1], pixels.shape[0]
    return np.asarray(cv2.resize(mask.astype(np.uint16), size, interpolation=cv2.INTER_NEAREST))


def _panel(title: str, pixels: Pixels) -> Panel:
    done, data = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise ValueError("OpenCV could not encode a picture as JPEG")
    return Panel(title=title, jpeg=base64.b64encode(data.tobytes()).decode(), size=(pixels.shape[1], pixels.shape[0]))
