"""Samples as training gets them, with their labels drawn: what the network sees, not what the files hold."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from hrformer.data.draw import LEFT, MIDDLE, RIGHT, color_of, draw_joints, draw_segmentation
from hrformer.data.inspection.contact_sheet import Color, Pixels, Section, Tile, contact_sheet, fitted
from hrformer.data.inspection.report import Finding, Reasons
from hrformer.data.loader import Batch, LoaderDataset, Transform, batches_of, seeded
from hrformer.data.order import Key, mixed_seed
from hrformer.data.preprocess import normalise_planes
from hrformer.data.sets import IGNORE, ClassificationSet, ImageSet, PoseSet, SegmentationSet, as_pixels
from hrformer.data.transforms.classification import BatchMixer
from hrformer.data.transforms.pose import PoseParams, TrainPose
from hrformer.geometry.input_spec import InputSpec
from hrformer.wording import counted

VERSIONS = 4
"""Augmented versions of each sample: the columns of the sheet after the untouched sample."""

_MIXED_ROWS = 2
_CLASS_TILE = 280
_BOX, _HIDDEN = (255, 255, 255), (255, 255, 255)
_VOID, _STRIPE = (0, 0, 0), (90, 90, 90)

Progress = Callable[[int, int], object]


def choose(source: ImageSet, count: int, seed: int, avoid: Collection[int] = ()) -> list[int]:
    """At most ``count`` items on different pictures, of different classes as far as possible; the same for one seed.

    ``avoid`` holds numbers of pictures.
    """
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
    split: str,
    avoid: Collection[int] = (),
    mixer: BatchMixer | None = None,
    progress: Progress | None = None,
) -> tuple[Pixels | None, list[Finding]]:
    """Make a sheet: in each row a sample as it is, then ``VERSIONS`` augmented versions of it.

    Args:
        source: the set.
        transform: of training, run by the loader that training uses.
        title: of the sheet.
        samples: augmented versions in all.
        seed: of choice and augmentation; the versions are those of the first epochs with this seed.
        split: part of the set, for the findings.
        avoid: numbers of pictures that are known to be broken.
        mixer: classification: what is done to whole batches; two rows of its results follow.
        progress: called with the number of versions done, and of all.

    Returns:
        The sheet, None if no sample could be made; and what went wrong.
    """
    kept = _FlaggedPose(transform) if isinstance(transform, TrainPose) else transform
    dataset = LoaderDataset(source, kept, seed)
    drawing = _drawing(source)
    rows: list[tuple[Tile, ...]] = []
    batches: list[Batch] = []
    failures = Reasons()
    done = 0
    for index in choose(source, -(-samples // VERSIONS), seed, avoid):
        try:
            row = [drawing.untouched(index)]
            for epoch in range(min(VERSIONS, samples - done)):
                (batch,) = batches_of(dataset, [[Key(index, epoch)]])
                row.append(drawing.augmented(index, batch))
                batches.append(batch)
                done += 1
                if progress:
                    progress(done, samples)
        except ValueError as error:
            failures.add(source.file(index), str(error))
            continue
        rows.append(tuple(row))
    findings = list(_failed(failures, split))
    if not rows:
        return None, findings
    sections = [Section(heading="as it is, then as training sees it in its first epochs", rows=tuple(rows))]
    if mixer is not None and isinstance(source, ClassificationSet) and len(batches) > 1:
        mixed = tuple(_mixed_rows(source, mixer, batches, seed))
        sections.append(Section(heading=f"and after what is done to whole batches: {mixer.kinds}", rows=mixed))
    return contact_sheet(title, sections, drawing.legend()), findings


def _failed(failures: Reasons, split: str) -> Iterator[Finding]:
    for reason, places in failures:
        what = f"{counted(places.count, 'sample')} cannot be prepared for training: {reason}"
        fix = "put right what the message names; training would stop at this sample"
        yield places.finding("error", "sample", split, what, fix)


class _Drawing:
    """How a sample of one task is drawn."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def untouched(self, index: int) -> Tile:
        """The sample as the files have it."""
        raise NotImplementedError

    def augmented(self, index: int, batch: Batch) -> Tile:
        """The sample as the loader returns it, alone in its batch."""
        raise NotImplementedError

    def legend(self) -> list[tuple[str, Color]]:
        """Names of the colours used so far."""
        return []

    def _name(self, index: int, label: str = "") -> str:
        name = PurePath(self.source.file(index).rpartition("::")[2]).name
        return f"{name} · {label}" if label else name


class _ClassDrawing(_Drawing):
    source: ClassificationSet

    def untouched(self, index: int) -> Tile:
        pixels, _ = fitted(self.source.pixels(index), _CLASS_TILE)
        return Tile(pixels=pixels, caption=self._name(index, self.source.classes[self.source.label(index)]))

    def augmented(self, index: int, batch: Batch) -> Tile:
        pixels, _ = fitted(as_pixels(batch["image"][0]), _CLASS_TILE)
        return Tile(pixels=pixels, caption=self.source.classes[int(batch["label"][0])])


class _PersonDrawing(_Drawing):
    source: PoseSet

    def untouched(self, index: int) -> Tile:
        pixels, person = self.source.pixels(index), self.source.person(index)
        points = person.keypoints[person.keypoints[:, 2] > 0, :2]
        left, top, right, bottom = _surroundings(pixels, np.concatenate([points, _corners(person.box)]))
        view, factor = fitted(pixels[top:bottom, left:right])
        corners = np.round((_corners(person.box) - (left, top)) * factor).astype(int)
        cv2.rectangle(view, corners[0].tolist(), corners[1].tolist(), _BOX, 2)
        moved = (person.keypoints[:, :2] + 0.5 - (left, top)) * factor - 0.5
        count = f"{len(points)} of {counted(len(moved), 'joint')}"
        return Tile(pixels=self._joints(view, moved, person.keypoints[:, 2]), caption=self._name(index, count))

    def augmented(self, index: int, batch: Batch) -> Tile:
        crop, targets = as_pixels(batch["image"][0]), batch["targets"][0].numpy()
        view, factor = fitted(crop)
        # The cell of each map's maximum is what the network is told; a quarter-cell step is for its own maps only.
        places = targets.reshape(len(targets), -1).argmax(axis=1)
        cells = np.stack([places % targets.shape[2], places // targets.shape[2]], axis=1)
        stride = np.array([crop.shape[1] / targets.shape[2], crop.shape[0] / targets.shape[1]])
        flags = np.where(targets.max(axis=(1, 2)) > 0, batch["visible"][0].numpy(), 0)
        moved = (cells * stride + 0.5) * factor - 0.5
        count = f"{int((flags > 0).sum())} of {counted(len(flags), 'joint')}"
        return Tile(pixels=self._joints(view, moved, flags), caption=count)

    def _joints(self, view: Pixels, points: NDArray[np.floating], flags: NDArray[np.floating]) -> Pixels:
        drawn = draw_joints(view, np.column_stack([points, flags])[None], skeleton=self.source.skeleton)
        for x, y in np.round(points[flags == 1]).astype(int).tolist():
            cv2.circle(drawn, (x, y), 2, _HIDDEN, -1, cv2.LINE_AA)
        return drawn

    def legend(self) -> list[tuple[str, Color]]:
        sides = [("left side", LEFT), ("right side", RIGHT), ("middle", MIDDLE)]
        return [*sides, ("white: hidden joints, and the labelled box", _BOX)]


class _MaskDrawing(_Drawing):
    source: SegmentationSet

    def __init__(self, source: SegmentationSet) -> None:
        super().__init__(source)
        self._seen: set[int] = set()

    def untouched(self, index: int) -> Tile:
        return Tile(pixels=self._paint(self.source.pixels(index), self.source.mask(index)), caption=self._name(index))

    def augmented(self, index: int, batch: Batch) -> Tile:
        mask = batch["mask"][0].numpy()
        void = (mask == IGNORE).mean()
        caption = f"{void:.0%} void" if void >= 0.005 else ""
        return Tile(pixels=self._paint(as_pixels(batch["image"][0]), mask), caption=caption)

    def _paint(self, pixels: Pixels, mask: NDArray[np.uint8]) -> Pixels:
        count = len(self.source.classes)
        ids = np.where(mask < count, mask, count)
        self._seen.update(np.unique(ids).tolist())
        view, _ = fitted(pixels)
        size = (view.shape[1], view.shape[0])
        ids = np.asarray(cv2.resize(ids.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST))
        colors = [color_of(number, self.source.palette) for number in range(count)]
        drawn = draw_segmentation(view, ids, class_names=(*self.source.classes, "void"), palette=[*colors, _VOID])
        diagonal = np.add.outer(np.arange(ids.shape[0]), np.arange(ids.shape[1]))
        drawn[(ids == count) & (diagonal % 12 == 0)] = _STRIPE
        return drawn

    def legend(self) -> list[tuple[str, Color]]:
        names = (*self.source.classes, "void, striped: does not count")
        colors = [*(color_of(number, self.source.palette) for number in range(len(names) - 1)), _VOID]
        return [(names[number], colors[number]) for number in sorted(self._seen)]


def _drawing(source: ImageSet) -> _Drawing:
    if isinstance(source, ClassificationSet):
        return _ClassDrawing(source)
    return _PersonDrawing(source) if isinstance(source, PoseSet) else _MaskDrawing(source)  # type: ignore[arg-type]


class _FlaggedPose:
    """The pose transform, with the joints' flags beside the heatmaps so that hidden joints can be told."""

    def __init__(self, transform: TrainPose) -> None:
        self._transform = transform

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        params: PoseParams = self._transform.make_params(item)
        flags = item["visible"].clone()
        if params.flip:
            for a, b in self._transform.skeleton.flip_pairs:
                flags[[a, b]] = flags[[b, a]]
        return self._transform.apply(item, params) | {"visible": flags}


def _mixed_rows(
    source: ClassificationSet, mixer: BatchMixer, batches: Sequence[Batch], seed: int
) -> Iterator[tuple[Tile, ...]]:
    """A batch per row, of different samples."""
    spec = InputSpec()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    for row in range(_MIXED_ROWS):
        batch = batches[row::VERSIONS][: VERSIONS + 1]
        if len(batch) < 2:
            return
        with seeded(mixed_seed(seed, row)):
            images = normalise_planes(torch.cat([one["image"] for one in batch]), spec)
            images, targets = mixer(images, torch.cat([one["label"] for one in batch]))
        tiles = []
        for image, target in zip(images, targets, strict=True):
            pixels = ((image * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
            tiles.append(
                Tile(pixels=fitted(as_pixels(pixels), _CLASS_TILE)[0], caption=_soft_label(source.classes, target))
            )
        yield tuple(tiles)


def _soft_label(classes: Sequence[str], target: torch.Tensor) -> str:
    """``cat 63 %, dog 37 %``; smoothing is left out."""
    if target.ndim == 0:
        return classes[int(target)]
    shares = target.numpy()
    top = [number for number in np.argsort(-shares)[:2] if shares[number] > shares.min() + 0.005]
    return ", ".join(f"{classes[number]} {shares[number]:.0%}" for number in top)


def _corners(box: NDArray[np.floating]) -> NDArray[np.float64]:
    """((x1, y1), (x2, y2))."""
    return np.array([box[:2], box[:2] + box[2:]], dtype=np.float64)


def _surroundings(pixels: Pixels, points: NDArray[np.float64]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a part of the picture with all points and a margin; all of it if that fails."""
    height, width = pixels.shape[:2]
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.15 * float((high - low).max())
    left, top = (max(int(value - margin), 0) for value in low)
    right, bottom = min(int(high[0] + margin) + 1, width), min(int(high[1] + margin) + 1, height)
    return (left, top, right, bottom) if right - left > 1 and bottom - top > 1 else (0, 0, width, height)
