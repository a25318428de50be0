"""Samples as training gets them, with their labels drawn: what the network sees, not what the files hold.

Pictures and sheets are (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate, zip_longest
from pathlib import PurePath
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from hrformer.data.draw import LEFT, MIDDLE, RIGHT, Color, Pixels, color_of, draw_joints, draw_segmentation
from hrformer.data.inspection.report import Finding, finding, grouped
from hrformer.data.inspection.scan import Progress
from hrformer.data.loader import Batch, Item, LoaderDataset, Transform, batches_of, seeded
from hrformer.data.order import Key, mixed_seed
from hrformer.data.preprocess import normalise_planes
from hrformer.data.set_types import IGNORE, ClassificationSet, ImageSet, PoseSet, SegmentationSet, as_pixels, names_of
from hrformer.data.transforms.classification import BatchMixer
from hrformer.data.transforms.pose import TrainPose
from hrformer.geometry.input_spec import InputSpec
from hrformer.wording import counted

VERSIONS = 4  # augmented versions of each sample: the columns of the sheet after the untouched sample
TILE = 480  # pixels of a tile's longer side; drawings of this size are not enlarged any further

_CLASS_TILE, _MIXED_ROWS = 280, 2
_WHITE, _VOID, _STRIPE = (255, 255, 255), (0, 0, 0), (90, 90, 90)
_INK, _QUIET = (20, 20, 20), (110, 110, 110)
_GAP, _TEXT, _LINE = 12, 20, 30
"""Pixels between tiles, of a letter's height, and from line to line."""

Tile = tuple[Pixels, str]  # a drawn picture, at most ``TILE`` wide and high, and the line below it
Row = Sequence[Tile]


def choose(source: ImageSet, count: int, seed: int, avoid: Collection[int] = ()) -> list[int]:
    """At most ``count`` items on different pictures, none to ``avoid``, of different classes as far as possible."""
    chosen: dict[int, int] = {}
    later: list[int] = []
    classes: set[int] = set()
    for index in np.random.default_rng(seed).permutation(len(source)).tolist():
        if len(chosen) >= count:
            break
        if source.picture(index) in avoid:
            continue
        if isinstance(source, ClassificationSet) and len(classes) < len(source.classes):
            if (label := source.label(index)) in classes:
                later.append(index)
                continue
            classes.add(label)
        chosen.setdefault(source.picture(index), index)
    for index in later:
        if len(chosen) < count:
            chosen.setdefault(source.picture(index), index)
    return list(chosen.values())


def draw_samples(
    source: ImageSet,
    transform: Transform,
    title: str,
    *,
    samples: int,
    seed: int,
    avoid: Collection[int] = (),
    mixer: BatchMixer | None = None,
    progress: Progress | None = None,
) -> tuple[Pixels | None, list[Finding]]:
    """Make a sheet: in each row a sample as it is, then ``VERSIONS`` augmented versions of it, ``samples`` in all.

    The versions are those of the first epochs of training with this ``transform`` and ``seed``, by its loader. Two rows
    of batches that went through the ``mixer`` follow. Pictures to ``avoid`` are known to be broken.

    Returns:
        The sheet, None if no sample could be made; and what went wrong.
    """
    kept = _with_flags(transform) if isinstance(transform, TrainPose) else transform
    dataset = LoaderDataset(source, kept, seed)
    rows: list[Row] = []
    batches: list[Batch] = []
    failures: list[tuple[str, str]] = []
    seen: set[int] = set()
    for index in choose(source, -(-samples // VERSIONS), seed, avoid):
        try:
            row = [_untouched(source, index, seen)]
            for epoch in range(min(VERSIONS, samples - len(batches))):
                (batch,) = batches_of(dataset, [[Key(index, epoch)]])
                row.append(_augmented(source, batch, seen))
                batches.append(batch)
                if progress:
                    progress(len(batches), samples)
        except ValueError as error:
            failures.append((source.file(index), str(error)))
            continue
        rows.append(row)
    findings = []
    for reason, files in grouped(failures):
        what = f"{counted(len(files), 'sample')} cannot be prepared for training: {reason}"
        fix = "put right what the message names; training would stop at this sample"
        findings.append(finding("error", "sample", what, fix, files))
    if not rows:
        return None, findings
    sections: list[tuple[str, Sequence[Row]]] = [("as it is, then as training sees it in its first epochs", rows)]
    if mixer is not None and mixer.kinds and len(batches) > 1:
        mixed = list(_mixed_rows(names_of(source), mixer, batches, seed))
        sections.append((f"and after what is done to whole batches: {mixer.kinds}", mixed))
    return contact_sheet(title, sections, _legend(source, seen)), findings


def _untouched(source: ImageSet, index: int, seen: set[int]) -> Tile:
    """A sample as the files have it; to ``seen`` come the ids in its mask."""
    pixels, name = source.pixels(index), PurePath(source.file(index).rpartition("::")[2]).name
    if isinstance(source, ClassificationSet):
        return fitted(pixels, _CLASS_TILE)[0], f"{name} · {source.classes[source.label(index)]}"
    if isinstance(source, SegmentationSet):
        return _painted(source, pixels, source.mask(index), seen), name
    assert isinstance(source, PoseSet)
    person = source.person(index)
    points, corners = person.keypoints, np.array([person.box[:2], person.box[:2] + person.box[2:]], np.float64)
    shown = points[points[:, 2] > 0, :2]
    left, top, right, bottom = _surroundings(pixels, np.concatenate([shown, corners]))
    view, factor = fitted(pixels[top:bottom, left:right])
    first, last = np.round((corners - (left, top)) * factor).astype(int).tolist()
    cv2.rectangle(view, first, last, _WHITE, 2)
    moved = (points[:, :2] + 0.5 - (left, top)) * factor - 0.5
    caption = f"{name} · {len(shown)} of {counted(len(points), 'joint')}"
    return _with_joints(source, view, moved, points[:, 2]), caption


def _augmented(source: ImageSet, batch: Batch, seen: set[int]) -> Tile:
    """A sample as the loader returns it, alone in its batch; to ``seen`` come the ids in its mask."""
    pixels = as_pixels(batch["image"][0])
    if isinstance(source, ClassificationSet):
        return fitted(pixels, _CLASS_TILE)[0], source.classes[int(batch["label"][0])]
    if isinstance(source, SegmentationSet):
        mask = batch["mask"][0].numpy()
        void = (mask == IGNORE).mean()
        return _painted(source, pixels, mask, seen), f"{void:.0%} void" if void >= 0.005 else ""
    assert isinstance(source, PoseSet)
    targets = batch["targets"][0].numpy()
    view, factor = fitted(pixels)
    # The cell of each map's maximum is what the network is told; a quarter-cell step is for its own maps only.
    rows, columns = np.divmod(targets.reshape(len(targets), -1).argmax(axis=1), targets.shape[2])
    stride = np.array([pixels.shape[1] / targets.shape[2], pixels.shape[0] / targets.shape[1]])
    flags = np.where(targets.max(axis=(1, 2)) > 0, batch["visible"][0].numpy(), 0)
    moved = (np.stack([columns, rows], axis=1) * stride + 0.5) * factor - 0.5
    caption = f"{int((flags > 0).sum())} of {counted(len(flags), 'joint')}"
    return _with_joints(source, view, moved, flags), caption


def _with_joints(source: PoseSet, view: Pixels, points: NDArray[np.floating], flags: NDArray[np.floating]) -> Pixels:
    drawn = draw_joints(view, np.column_stack([points, flags])[None], skeleton=source.skeleton)
    for x, y in np.round(points[flags == 1]).astype(int).tolist():
        cv2.circle(drawn, (x, y), 2, _WHITE, -1, cv2.LINE_AA)
    return drawn


def _painted(source: SegmentationSet, pixels: Pixels, mask: NDArray[np.uint8], seen: set[int]) -> Pixels:
    """With the colours of the classes, and void black and striped."""
    count = len(source.classes)
    ids = np.where(mask < count, mask, count)
    seen.update(np.unique(ids).tolist())
    view, _ = fitted(pixels)
    size = (view.shape[1], view.shape[0])
    ids = np.asarray(cv2.resize(ids.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST))
    drawn = draw_segmentation(view, ids, class_names=(*source.classes, "void"), palette=_colors(source))
    diagonal = np.add.outer(np.arange(ids.shape[0]), np.arange(ids.shape[1]))
    drawn[(ids == count) & (diagonal % 12 == 0)] = _STRIPE
    return drawn


def _colors(source: SegmentationSet) -> list[Color]:
    """Of the classes, and of void behind them."""
    return [*(color_of(number, source.palette) for number in range(len(source.classes))), _VOID]


def _legend(source: ImageSet, seen: set[int]) -> list[tuple[str, Color]]:
    """Names of the colours that are used."""
    if isinstance(source, PoseSet):
        sides = [("left side", LEFT), ("right side", RIGHT), ("middle", MIDDLE)]
        return [*sides, ("white: hidden joints, and the labelled box", _WHITE)]
    if isinstance(source, SegmentationSet):
        names, colors = (*source.classes, "void, striped: does not count"), _colors(source)
        return [(names[number], colors[number]) for number in sorted(seen)]
    return []


def _with_flags(transform: TrainPose) -> Transform:
    """The pose transform, with the joints' flags beside the heatmaps so that hidden joints can be told."""

    def transformed(item: Mapping[str, Any]) -> Item:
        params, flags = transform.make_params(item), item["visible"].clone()
        for a, b in transform.skeleton.flip_pairs if params.flip else ():
            flags[[a, b]] = flags[[b, a]]
        return transform.apply(item, params) | {"visible": flags}

    return transformed


def _mixed_rows(classes: Sequence[str], mixer: BatchMixer, batches: Sequence[Batch], seed: int) -> Iterator[Row]:
    """A batch per row, of different samples."""
    spec = InputSpec()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    for row in range(_MIXED_ROWS):
        batch = batches[row::VERSIONS][: VERSIONS + 1]
        if len(batch) < 2:
            return
        images, labels = (torch.cat([one[key] for one in batch]) for key in ("image", "label"))
        with seeded(mixed_seed(seed, row)):
            images, targets = mixer(normalise_planes(images, spec), labels)
        pixels = ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
        views = (fitted(as_pixels(one), _CLASS_TILE)[0] for one in pixels)
        yield [(view, _soft_label(classes, target)) for view, target in zip(views, targets, strict=True)]


def _soft_label(classes: Sequence[str], target: torch.Tensor) -> str:
    """``cat 63 %, dog 37 %``; smoothing is left out."""
    if target.ndim == 0:
        return classes[int(target)]
    shares = target.numpy()
    top = [number for number in np.argsort(-shares)[:2] if shares[number] > shares.min() + 0.005]
    return ", ".join(f"{classes[number]} {shares[number]:.0%}" for number in top)


def _surroundings(pixels: Pixels, points: NDArray[np.float64]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a part of the picture with all points and a margin; all of it if that fails."""
    height, width = pixels.shape[:2]
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.15 * float((high - low).max())
    left, top = (max(int(value - margin), 0) for value in low)
    right, bottom = min(int(high[0] + margin) + 1, width), min(int(high[1] + margin) + 1, height)
    return (left, top, right, bottom) if right - left > 1 and bottom - top > 1 else (0, 0, width, height)


def fitted(pixels: Pixels, side: int = TILE) -> tuple[Pixels, float]:
    """Resized so that the longer side is ``side``, and the factor."""
    height, width = pixels.shape[:2]
    factor = side / max(height, width)
    size = (max(round(width * factor), 1), max(round(height * factor), 1))
    rule = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
    return np.asarray(cv2.resize(pixels, size, interpolation=rule), np.uint8), factor


def contact_sheet(
    title: str, sections: Sequence[tuple[str, Sequence[Row]]], legend: Iterable[tuple[str, Color]] = ()
) -> Pixels:
    """Lay out title, legend, and sections (heading, rows) below each other on white paper.

    Columns are as wide as their widest tile, rows as high as their highest.
    """
    rows = [row for _, part in sections for row in part]
    columns = [max(tile[0].shape[1] for tile in column if tile) for column in zip_longest(*rows)]
    lefts = [_GAP, *(_GAP + end for end in accumulate(width + _GAP for width in columns))]
    width = max(lefts[-1], 2 * TILE)
    pictures: list[tuple[int, int, Pixels]] = []
    lines: list[tuple[int, int, str, Color]] = [(_GAP, _GAP, title, _INK)]
    left, top = width, _GAP
    for name, color in legend:
        length = _TEXT + 8 + round(_font().getlength(name)) + 2 * _GAP
        if left + length > width - 2 * _GAP:
            left, top = _GAP, top + _LINE
        square = np.full((_TEXT + 1, _TEXT + 1, 3), _QUIET, np.uint8)
        square[1:-1, 1:-1] = color
        pictures.append((left, top + 3, square))
        lines.append((left + _TEXT + 8, top, name, _INK))
        left += length
    top += _LINE
    for heading, part in sections:
        lines.append((_GAP, top + 4, heading, _QUIET))
        top += _LINE + _GAP
        for row in part:
            for left, room, (pixels, caption) in zip(lefts, columns, row, strict=False):
                pictures.append((left, top, pixels))
                lines.append((left, top + pixels.shape[0] + 2, _shortened(caption, room), _INK))
            top += max(pixels.shape[0] for pixels, _ in row) + _LINE + _GAP
    paper = Image.new("RGB", (width, top), _WHITE)
    for left, top, pixels in pictures:
        paper.paste(Image.fromarray(pixels), (left, top))
    pen = ImageDraw.Draw(paper)
    for left, top, text, color in lines:
        pen.text((left, top), _shortened(text, width - left - _GAP), fill=color, font=_font())
    return np.array(paper)


def _shortened(text: str, room: int) -> str:
    """What does not fit is taken out of the middle, where names differ least."""
    shown, kept = text, len(text)
    while _font().getlength(shown) > room and kept > 2:
        kept -= 1
        shown = f"{text[: kept // 2]}…{text[len(text) - (kept - kept // 2) :]}"
    return shown


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_TEXT)
