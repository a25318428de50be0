"""Validation pictures: what is labelled beside what the model says, small enough to lie in a page."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from hrformer.data.draw import LEFT, MIDDLE, RIGHT, color_of, draw_joints, draw_segmentation
from hrformer.data.loader import LoaderDataset, batches_of, seeded
from hrformer.data.order import Key, mixed_seed
from hrformer.data.set_types import IGNORE, ClassificationSet, ImageSet, PoseSet, SegmentationSet
from hrformer.evaluate.evaluate import network_for, scores_for
from hrformer.evaluate.inference import in_eval_mode
from hrformer.evaluate.protocols import Example, Protocol
from hrformer.evaluate.scores import NO_INTERVALS
from hrformer.models.model import VisionModel

Pixels = NDArray[np.uint8]
Legend = tuple[tuple[str, tuple[int, int, int]], ...]

LONG_SIDE = 480
"""Pixels of the longer side of a picture in the page."""

CLASS_SIDE = 224
"""The same in classification, where a picture stands alone."""

PERSON_SIDE = 400
"""The same for a person: two stand side by side, and lines must stay visible."""

JPEG_QUALITY = 85

WRONG, UNLABELLED, OFFSET = (255, 255, 255), (0, 0, 0), (255, 60, 220)
"""RGB of wrong pixels, which no class has for its own, of pixels without a label, and of the lines from where a joint
was seen to where it is."""

_FARTHEST = 1e6
"""Pixels beyond which OpenCV cannot draw; a network whose weights are not finite puts its joints there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One picture of a group.

    Attributes:
        title: what it shows.
        jpeg: the file's bytes in base64.
        size: (width, height) in pixels.
    """

    title: str
    jpeg: str
    size: tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationPicture:
    """One item of the validation set: its panels side by side.

    Attributes:
        file: of the picture, as the set calls it.
        score: of the item in 0..1, higher is better; NaN where there is no label to compare with.
        text: what else to say about it; may be empty.
        panels: label, prediction and so on.
        legend: names and RGB of what is drawn.
    """

    file: str
    score: float
    panels: tuple[Panel, ...]
    text: str = ""
    legend: Legend = ()

    @property
    def name(self) -> str:
        """The file's name without its folders."""
        return PurePath(self.file).name


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
    """What a model says about some items, and how good each is by itself.

    The model comes back in the mode it was in, and the random generators as they were.

    Args:
        model: with a head for the set's task.
        source: labelled items.
        indices: numbers of the items.
        protocol: of the set's task.

    Returns:
        One per item, in the order given; its score is NaN where it has no label.

    Raises:
        hrformer.data.set_types.DataError: an item cannot be read; the message names it.
        ValueError: model, set and protocol do not fit together, or the set has no labels.
    """
    network = network_for(model, source, protocol)
    scores = scores_for(source, protocol, len(source), NO_INTERVALS)
    dataset = LoaderDataset(source, network.transform(), seed=0)
    step = protocol.batch_size
    order = [[Key(index, 0) for index in indices[low : low + step]] for low in range(0, len(indices), step)]
    examples = []
    with in_eval_mode(model), seeded(0), torch.inference_mode():
        for batch in batches_of(dataset, order):
            predictions = network.predict(batch)
            own = scores.update(batch, predictions)
            for index, score, said in zip(batch["index"].tolist(), own, predictions, strict=True):
                score = math.nan if score is None else score
                examples.append(
                    Example(index=index, file=source.file(index), score=score, prediction=scores.shown(said))
                )
    return examples


def draw_examples(source: ImageSet, examples: Sequence[Example]) -> list[ValidationPicture]:
    """Draw labels and predictions of some items.

    Args:
        source: the set they come from.
        examples: of an evaluation of this set.

    Raises:
        ValueError: a picture or mask cannot be read, or the set is of no known task.
    """
    if isinstance(source, ClassificationSet):
        return [_classified(source, example) for example in examples]
    if isinstance(source, PoseSet):
        return [_posed(source, example) for example in examples]
    if isinstance(source, SegmentationSet):
        return [_segmented(source, example) for example in examples]
    raise ValueError(f"{type(source).__name__} is a set of no known task")


def _classified(source: ClassificationSet, example: Example) -> ValidationPicture:
    true, said = source.label(example.index), int(example.prediction)
    names = source.classes
    text = f"{names[true]}, recognised" if said == true else f"{names[true]}, taken for {names[said]}"
    panel = _panel("", _resized(source.pixels(example.index), CLASS_SIDE))
    return ValidationPicture(file=example.file, score=example.score, text=text, panels=(panel,))


def _posed(source: PoseSet, example: Example) -> ValidationPicture:
    pixels, person = source.pixels(example.index), source.person(example.index)
    label, said = (np.array(points, dtype=np.float64) for points in (person.keypoints, example.prediction))
    left, top, right, bottom = _surroundings(pixels, person.box, label, said)
    scale = PERSON_SIDE / max(right - left, bottom - top)
    canvas = _resized(pixels[top:bottom, left:right], PERSON_SIDE)
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
    return ValidationPicture(file=example.file, score=example.score, panels=tuple(panels), legend=legend)


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


def _segmented(source: SegmentationSet, example: Example) -> ValidationPicture:
    pixels = _resized(source.pixels(example.index), LONG_SIDE)
    said = _fitted(np.asarray(example.prediction), pixels)
    panels, shown = [_panel("picture", pixels)], set(np.unique(said).tolist())
    legend: Legend = ()
    if source.labelled:
        label = _fitted(source.mask(example.index), pixels)
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
    return ValidationPicture(file=example.file, score=example.score, panels=tuple(panels), legend=legend)


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


def _fitted(mask: NDArray[np.integer], pixels: Pixels) -> NDArray[np.integer]:
    """A mask in the size of a picture."""
    size = pixels.shape[1], pixels.shape[0]
    return np.asarray(cv2.resize(mask.astype(np.uint16), size, interpolation=cv2.INTER_NEAREST))


def _resized(pixels: Pixels, side: int) -> Pixels:
    """With a longer side of so many pixels."""
    scale = side / max(pixels.shape[:2])
    height, width = (max(round(length * scale), 1) for length in pixels.shape[:2])
    rule = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=rule), np.uint8)


def _panel(title: str, pixels: Pixels) -> Panel:
    done, data = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise ValueError("OpenCV could not encode a picture as JPEG")
    return Panel(title=title, jpeg=base64.b64encode(data.tobytes()).decode(), size=(pixels.shape[1], pixels.shape[0]))
