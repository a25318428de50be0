"""Scoring predictions that lie in files: no model, no GPU, and whatever program wrote them.

Each function takes what ``hrformer predict`` writes (give its folder) and the plain form of the task: COCO's result
list, a folder of mask pictures, a table of classes.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hrformer.data.coco_file import as_number, flat_joints, number, shown, whole
from hrformer.data.coco_labels import truth_of
from hrformer.data.label_ids import label_table
from hrformer.data.mask_reading import decode_ids
from hrformer.data.published_classes import server_ids
from hrformer.data.set_types import IGNORE, ClassificationSet, PoseSet, SegmentationSet
from hrformer.evaluate.evaluate import Tally
from hrformer.evaluate.inference import Progress
from hrformer.evaluate.prediction_files import (
    IMAGES,
    PREDICTIONS,
    entries_for,
    existing_json,
    find_masks,
    read_class_file,
)
from hrformer.evaluate.protocols import Evaluation, PoseProtocol
from hrformer.evaluate.scores import (
    ClassificationScores,
    SegmentationSetScores,
    joined,
    labels_of,
    require_coco,
    share,
)
from hrformer.geometry.skeletons import Skeleton
from hrformer.metrics.coco_keypoints import CocoKeypoints
from hrformer.metrics.counts import PoissonBootstrap
from hrformer.metrics.pck import Pck, reference_joints
from hrformer.wording import listed

_CHUNK = 1024
_log = logging.getLogger(__name__)


def evaluate_keypoint_file(
    path: Path,
    annotations: str | Path | Mapping[str, Any] | PoseSet,
    skeleton: Skeleton,
    protocol: PoseProtocol | None = None,
    *,
    bootstrap: int = 0,
) -> Evaluation:
    """Score keypoints.

    Args:
        path: COCO's result list (JSON: image_id, category_id, keypoints, score), or the folder of ``hrformer predict``.
        annotations: COCO keypoint annotations, a file or its content; or an opened set, whose labels are then those
            that training sees, turned as its pictures are, on the set's pictures. Those without results count.
        skeleton: joints of the annotations, in their order.
        protocol: says which scores; COCO's if left out. PCK needs pictures of one person with one result at most:
            results name nobody.
        bootstrap: as in :func:`hrformer.evaluate.evaluate.evaluate`.

    Returns:
        As from ``evaluate``, without the worst items; "images_without_results" says how many pictures have none.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: COCO's figures without faster-coco-eval.
        ValueError: the file is not of this form, belongs to other pictures, or lacks some.
    """
    start, protocol = time.perf_counter(), protocol or PoseProtocol()
    labels = _labels(annotations, skeleton.num_keypoints)
    results = _results(path, labels, skeleton.num_keypoints)
    intervals: dict[str, tuple[float, float]] = {}
    pck: dict[str, Any] = {}
    coco: dict[str, Any] = {}
    if protocol.score in ("pck", "both"):
        pck, intervals = _pck(labels, results, skeleton, protocol, bootstrap)
    if protocol.score in ("coco", "both"):
        require_coco()
        metric = CocoKeypoints(labels, skeleton.sigmas, joint_names=skeleton.keypoints)
        metric.update(results, range(len(results)))
        coco = metric.compute()
        intervals |= metric.evaluate().intervals(bootstrap) if bootstrap else {}
    without = len(labels["images"]) - len({result["image_id"] for result in results})
    return Evaluation(
        task="pose",
        main="AP" if not pck else f"pck@{protocol.alpha:g}",
        scores={**joined(pck, coco), "images_without_results": without},
        intervals=intervals,
        items=len(results),
        seconds=time.perf_counter() - start,
    )


def evaluate_masks(
    folder: Path,
    source: SegmentationSet,
    *,
    dataset: str = "",
    bootstrap: int = 0,
    worst: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Score masks.

    Args:
        folder: of ``hrformer predict``, or of masks (grey or palette PNG and other lossless formats) named like the
            pictures.
        source: the labelled set.
        dataset: the masks hold the ids of this set's test server, see
            :func:`hrformer.data.published_classes.server_ids`; empty: class numbers.
        bootstrap: as in :func:`hrformer.evaluate.evaluate.evaluate`, as for ``worst`` and ``progress``.

    Raises:
        hrformer.data.set_types.DataError: a mask cannot be read.
        ValueError: masks are missing, of the wrong size, or hold what is no class; the message names them.
    """
    if not source.labelled:
        raise ValueError(f"{source.name} has no labels to compare with")
    tally = Tally(SegmentationSetScores(source, bootstrap), source, worst)
    files = [source.file(index) for index in range(len(source))]
    masks = entries_for(files, find_masks(folder), "mask", str(folder))
    count = len(source.classes)
    # Ids that stand for "none" are read as such, and refused below only where a class is labelled.
    table = None
    if dataset:
        written = server_ids(dataset)
        ids = [int(number) for number in written[:count]]
        table = label_table(ids, {int(written[IGNORE])}, meaning=f"those of {dataset}'s server", advice="")
    for index, path in enumerate(masks):
        values: NDArray[Any] = decode_ids(path.read_bytes(), str(path))
        predicted = values if table is None else table.convert(values, str(path))
        labelled = source.mask(index)
        if predicted.shape != labelled.shape:
            raise ValueError(
                f"{path}: the mask is {predicted.shape[1]} x {predicted.shape[0]} pixels, the labels of {files[index]} "
                f"are {labelled.shape[1]} x {labelled.shape[0]}; predictions must have the picture's own size"
            )
        try:
            tally.update({"index": [index], "mask": [labelled]}, [predicted.astype(np.int32)])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if progress is not None:
            progress(index + 1, len(source))
    return tally.finish()


def evaluate_class_file(path: Path, source: ClassificationSet, *, bootstrap: int = 0, worst: int = 0) -> Evaluation:
    """Score classes.

    Args:
        path: of :func:`hrformer.evaluate.prediction_files.read_class_file`, or the folder of ``hrformer predict``.
        source: the labelled set.
        bootstrap: as in :func:`hrformer.evaluate.evaluate.evaluate`, as for ``worst``.

    Returns:
        Top-1, and top-5 where there are more than five classes and every picture has five of them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not of this form, or lacks pictures.
    """
    file = path / PREDICTIONS if path.is_dir() else path
    files = [source.file(index) for index in range(len(source))]
    rows = entries_for(files, read_class_file(file, source.classes), "entry", str(file))
    count = len(source.classes)
    ks = (1, 5) if count > 5 and min(map(len, rows)) >= 5 else (1,)
    tally = Tally(ClassificationScores(source, bootstrap, ks), source, worst)
    for low in range(0, len(rows), _CHUNK):
        part = rows[low : low + _CHUNK]
        # Logits with the listed order; so far apart that the best class has all of the probability.
        logits = torch.full((len(part), count), -torch.inf)
        for line, ids in zip(logits, part, strict=True):
            line[torch.tensor(ids)] = -1000.0 * torch.arange(len(ids))
        numbers = range(low, low + len(part))
        tally.update({"index": numbers, "label": torch.tensor([source.label(i) for i in numbers])}, list(logits))
    return tally.finish()


def _labels(annotations: str | Path | Mapping[str, Any] | PoseSet, num_keypoints: int) -> Mapping[str, Any]:
    """Labels of the evaluated pictures, complete and checked."""
    if not isinstance(annotations, PoseSet):
        if not isinstance(annotations, Mapping) and not Path(annotations).exists():
            raise FileNotFoundError(f"{annotations}: no such file")
        return truth_of(annotations, num_keypoints)
    truth = labels_of(annotations)
    if annotations.image_ids is None:
        return truth
    wanted = set(annotations.image_ids)
    return {
        **truth,
        "images": [image for image in truth["images"] if image["id"] in wanted],
        "annotations": [person for person in truth["annotations"] if person["image_id"] in wanted],
    }


def _results(path: Path, labels: Mapping[str, Any], num_keypoints: int) -> list[dict[str, Any]]:
    """Results of the evaluated pictures, with the picture numbers of the annotations."""
    file = path / PREDICTIONS if path.is_dir() else path
    records = existing_json(file)
    if not isinstance(records, list):
        raise ValueError(f"{file}: must hold a list of results, found {type(records).__name__}")
    records = [_result(record, f"{file}: result {place}") for place, record in enumerate(records)]
    listing = file.with_name(IMAGES)
    if file.name == PREDICTIONS and listing.is_file():
        ours = _our_numbers(listing, labels["images"])
        records = [{**one, "image_id": ours[one["image_id"]]} for one in records if one["image_id"] in ours]
    known = {image["id"] for image in labels["images"]}
    if unknown := sorted({record["image_id"] for record in records} - known):
        raise ValueError(f"{file}: {len(unknown)} picture numbers are not among the labels': {listed(unknown)}")
    if not records:
        raise ValueError(f"{file}: has no result for any of the {len(known)} pictures")
    kinds = [category["id"] for category in labels["categories"]]
    records = [{"category_id": kinds[0], **record} for record in records] if len(kinds) == 1 else records
    kept = [record for record in records if record.get("category_id", kinds[0]) in kinds]
    if not kept:
        found = listed(sorted({record["category_id"] for record in records}))
        raise ValueError(f"{file}: 'category_id' of the results is {found}, that of the labels {listed(kinds)}")
    if len(kept) < len(records):
        _log.warning("%s: %d results of other categories than the labels'; left out", file, len(records) - len(kept))
    if wrong := next((one for one in kept if len(one["keypoints"]) != 3 * num_keypoints), None):
        count = len(wrong["keypoints"])
        lacking = ": x and y of each, so add a third to each joint, its score or 1" * (count == 2 * num_keypoints)
        raise ValueError(
            f"{file}: a result of picture {wrong['image_id']} has {count} numbers, not 3 x {num_keypoints} "
            f"joints{lacking}"
        )
    return kept


def _result(record: Any, where: str) -> dict[str, Any]:
    """A result with ids, score, joints and box as numbers, in whatever way they are written."""
    if not isinstance(record, Mapping) or not {"image_id", "keypoints", "score"} <= set(record):
        keys = record if isinstance(record, Mapping) else ()
        missing = [key for key in ("image_id", "keypoints", "score") if key not in keys]
        raise ValueError(f"{where} lacks {', '.join(missing)}; is this a file of keypoints?")
    found = {**record, "image_id": whole(record, "image_id", where), "score": number(record, "score", where)}
    if record.get("category_id") is not None:
        found["category_id"] = whole(record, "category_id", where)
    else:
        found.pop("category_id", None)
    for field in ("keypoints", "bbox"):
        values = flat_joints(record.get(field))
        if field == "bbox" and not values:
            found.pop(field, None)
            continue
        numbers = [as_number(value) for value in values] if isinstance(values, list) else [math.nan]
        if not all(map(math.isfinite, numbers)) or (field == "bbox" and len(numbers) != 4):
            what = "x, y, score of each joint" if field == "keypoints" else "x, y, width, height"
            raise ValueError(f"{where}: {field!r} must be a list of finite numbers, {what}, got {shown(record, field)}")
        found[field] = numbers
    return found


def _our_numbers(listing: Path, images: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """From the picture numbers of ``hrformer predict`` to those of the labels."""
    rows = [(str(row["source"]), int(row["id"])) for row in existing_json(listing)["images"]]
    if missing := [image["id"] for image in images if not image.get("file_name")]:
        raise ValueError(f"the annotations of {len(missing)} pictures lack file_name: {listed(missing)}")
    theirs = entries_for([str(image["file_name"]) for image in images], rows, "result", str(listing))
    return {number: image["id"] for number, image in zip(theirs, images, strict=True)}


def _pck(
    labels: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    skeleton: Skeleton,
    protocol: PoseProtocol,
    samples: int,
) -> tuple[dict[str, Any], dict[str, tuple[float, float]]]:
    """PCK's scores and interval; people without a result have all joints wrong."""
    people = [person for person in labels["annotations"] if person["num_keypoints"]]
    for kind, rows in (("labelled people", people), ("results", results)):
        numbers = Counter(row["image_id"] for row in rows)
        if several := sorted(number for number, times in numbers.items() if times > 1):
            raise ValueError(
                f"PCK from a file needs pictures of one person, as results do not say whom they mean; {len(several)} "
                f"pictures have several {kind}: {listed(several)}. Use score='coco'"
            )
    joints = {row["image_id"]: np.asarray(row["keypoints"], np.float64).reshape(-1, 3) for row in results}
    nowhere = np.full((skeleton.num_keypoints, 3), np.nan)
    torso = reference_joints(skeleton, protocol.pck_norm)
    metric = Pck(skeleton.keypoints, torso=torso, alpha=protocol.alpha)
    found = np.array([joints.get(person["image_id"], nowhere) for person in people]).reshape(-1, *nowhere.shape)
    truth = np.array([person["keypoints"] for person in people], np.float64).reshape(found.shape)
    sides = [float(max(person["bbox"][2:])) for person in people]
    counts = metric.update(found, truth, sides)
    scores = metric.compute()
    if not samples:
        return scores, {}
    bootstrap = PoissonBootstrap(2, samples=samples)
    bootstrap.update(counts, [person["image_id"] for person in people])
    return scores, {f"pck@{protocol.alpha:g}": bootstrap.interval(share)}
