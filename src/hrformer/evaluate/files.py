"""Scoring predictions that lie in files: no model, no GPU, and whatever program wrote them.

Each function takes what ``hrformer predict`` writes (give its folder) and the plain form of the task: COCO's result
list, a folder of mask pictures, a table of classes. ``bootstrap``, ``worst`` and ``progress`` are those of
:func:`hrformer.evaluate.evaluate.evaluate`. There is a FileNotFoundError where there is no such file, and a ValueError
where it is not of this form, belongs to other pictures, or lacks some.
"""

from __future__ import annotations

import csv
import logging
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from hrformer.data.coco_file import as_number, flat_joints, number, read_json, shown, whole
from hrformer.data.coco_labels import truth_of
from hrformer.data.label_ids import label_table
from hrformer.data.mask_reading import MASK_SUFFIXES, decode_ids
from hrformer.data.published_classes import server_ids
from hrformer.data.set_types import IGNORE, ClassificationSet, DataError, PoseSet, SegmentationSet
from hrformer.evaluate.inference import Progress
from hrformer.evaluate.protocols import Evaluation, PoseProtocol
from hrformer.evaluate.scores import (
    ClassificationScores,
    SegmentationSetScores,
    Tally,
    joined,
    labels_of,
    require_coco,
    share,
)
from hrformer.geometry.skeletons import Skeleton
from hrformer.metrics.coco_keypoints import CocoKeypoints
from hrformer.metrics.counts import Pck, PoissonBootstrap, reference_joints
from hrformer.wording import listed

PREDICTIONS, IMAGES = "predictions.json", "images.json"  # what ``hrformer predict`` calls results and list of pictures
_FILE_KEYS = ("file", "file_name", "filename", "path", "image", "picture")
_CLASS_KEYS = ("predictions", "class_ids", "class_id", "classes", "class", "labels", "label")

Entry = TypeVar("Entry")
_log = logging.getLogger(__name__)


def evaluate_keypoint_file(
    path: Path,
    annotations: str | Path | Mapping[str, Any] | PoseSet,
    skeleton: Skeleton,
    protocol: PoseProtocol | None = None,
    *,
    bootstrap: int = 0,
) -> Evaluation:
    """Score keypoints; "images_without_results" says how many pictures have none, which count all the same.

    Args:
        path: COCO's result list (JSON: image_id, category_id, keypoints, score), or the folder of ``hrformer predict``.
        annotations: COCO keypoint annotations, a file or its content; or an opened set, whose labels are then those
            that training sees, turned as its pictures are, on the set's pictures.
        skeleton: joints of the annotations, in their order.
        protocol: says which scores; COCO's if left out. PCK needs pictures of one person with one result at most:
            results name nobody.
        bootstrap: samples for confidence intervals; 0 for none.
    """
    start, protocol = time.perf_counter(), protocol or PoseProtocol()
    labels = _labels(annotations, skeleton.num_keypoints)
    results = read_results(path, labels, skeleton.num_keypoints)
    found: list[dict[str, Any]] = []
    intervals: dict[str, tuple[float, float]] = {}
    if protocol.score != "coco":
        scores, intervals = _pck(labels, results, skeleton, protocol, bootstrap)
        found.append(scores)
    if protocol.score != "pck":
        require_coco()
        metric = CocoKeypoints(labels, skeleton.sigmas, joint_names=skeleton.keypoints)
        metric.update(results, range(len(results)))
        found.append(metric.compute())
        intervals |= metric.evaluate().intervals(bootstrap) if bootstrap else {}
    without = len(labels["images"]) - len({result["image_id"] for result in results})
    return Evaluation(
        task="pose",
        main="AP" if protocol.score == "coco" else f"pck@{protocol.alpha:g}",
        scores={**joined(*found), "images_without_results": without},
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
    """Score masks: grey or palette PNG and other lossless formats, named like the pictures.

    They hold the ids of the test server of ``dataset``, see :func:`hrformer.data.published_classes.server_ids`; if that
    is empty, class numbers.
    """
    if not source.labelled:
        raise ValueError(f"{source.name} has no labels to compare with")
    tally = Tally(SegmentationSetScores(source, bootstrap), source, worst)
    files = [source.file(index) for index in range(len(source))]
    masks = entries_for(files, find_masks(folder), "mask", str(folder))
    # Ids that stand for "none" are read as such, and refused below only where a class is labelled.
    table = None
    if dataset:
        written, count = server_ids(dataset).tolist(), len(source.classes)
        table = label_table(written[:count], {written[IGNORE]}, meaning=f"those of {dataset}'s server", advice="")
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
    """Score classes, see :func:`read_class_file` for the forms of the file.

    Top-1, and top-5 where there are more than five classes and every picture has five of them.
    """
    files = [source.file(index) for index in range(len(source))]
    rows = entries_for(files, read_class_file(path, source.classes), "entry", str(path))
    count = len(source.classes)
    ks = (1, 5) if count > 5 and min(map(len, rows)) >= 5 else (1,)
    tally = Tally(ClassificationScores(source, bootstrap, ks, ranks=True), source, worst)
    for low in range(0, len(rows), 1024):
        part = rows[low : low + 1024]
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
    images = [image for image in truth["images"] if image["id"] in wanted]
    people = [person for person in truth["annotations"] if person["image_id"] in wanted]
    return {**truth, "images": images, "annotations": people}


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
    counts = metric.update(found, truth, [float(max(person["bbox"][2:])) for person in people])
    if not samples:
        return metric.compute(), {}
    bootstrap = PoissonBootstrap(2, samples=samples)
    bootstrap.update(counts, [person["image_id"] for person in people])
    return metric.compute(), {f"pck@{protocol.alpha:g}": bootstrap.interval(share)}


def entries_for(files: Sequence[str], entries: Iterable[tuple[str, Entry]], kind: str, where: str) -> list[Entry]:
    """What stands under the names of pictures, in the order of their files; entries for others are passed over.

    A picture's entry has the same file name but for the ending. Where several have, as many folders above as
    possible must agree too, so that ``cat/1.png`` is found for ``val/cat/1.jpg`` beside a ``dog/1.png``; it is a
    ValueError if that leaves none or several. ``kind`` says what the entries are, such as "mask", and ``where`` they
    come from.
    """
    known: dict[str, Entry] = {}
    by_stem: defaultdict[str, list[str]] = defaultdict(list)
    for name, entry in entries:
        if name in known:
            raise ValueError(f"{where}: there are two entries for {name}")
        known[name] = entry
        by_stem[_parts(name)[-1]].append(name)
    # Of several files that would take one entry, it belongs to the one whose folders agree best.
    found: list[tuple[int, str]] = []
    owners: dict[str, tuple[int, str]] = {}
    for file in files:
        agreeing = {name: _agreement(file, name) for name in ([file] if file in known else by_stem[_parts(file)[-1]])}
        most = max(agreeing.values(), default=0)
        best = [name for name, length in agreeing.items() if length == most]
        if len(best) > 1:
            raise ValueError(f"{where}: {len(best)} {kind}s may belong to {file}; name them with their folders")
        found.append((most, best[0] if best else ""))
        if best and most > owners.get(best[0], (0, ""))[0]:
            owners[best[0]] = most, file
    missing = []
    for file, (length, name) in zip(files, found, strict=True):
        if not length or length < owners[name][0]:
            missing.append(file)
        elif owners[name][1] != file:
            raise ValueError(
                f"{where}: one {kind} would belong to both {owners[name][1]} and {file}; name it with its folder"
            )
    if missing:
        raise ValueError(f"{where}: {len(missing)} of {len(files)} pictures have no {kind}: {listed(missing)}")
    return [known[name] for _, name in found]


def _parts(name: str) -> tuple[str, ...]:
    """Folders and file name without its ending; members of archives ("shard.tar::a.jpg") count as files in a folder."""
    path = PurePath(name.replace("\\", "/").replace("::", "/"))
    return (*path.parts[:-1], path.stem)


def _agreement(file: str, name: str) -> int:
    """How many parts agree, from the end on; one more for the very same name, ending and all."""
    ours, theirs = _parts(file), _parts(name)
    pairs = list(zip(reversed(ours), reversed(theirs), strict=False))
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs)) + (file == name)


def read_class_file(path: Path, classes: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
    """Pictures and their classes, best first, each its number or its name, from .json or .csv.

    JSON is a mapping from file names to a class or a list of them, or a list of records with a file name ("file",
    "file_name" ...) and classes ("class_ids", "class_id", "label" ..., or "predictions" as ``hrformer predict`` writes
    them). CSV has a file name and then classes in each row; with a header, only columns whose names begin with
    "class", "label" or "prediction" count.
    """
    path = path / PREDICTIONS if path.is_dir() else path
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path)
    numbers = {name: number for number, name in enumerate(classes)}
    for place, (name, values) in enumerate(rows):
        ids = [_class_id(value, numbers, f"{path}, entry {place} ({name})") for value in values]
        if not ids or len(set(ids)) < len(ids):
            raise ValueError(f"{path}, entry {place} ({name}): needs different classes, at least one; got {values}")
        yield name, ids


def _json_rows(path: Path) -> Iterator[tuple[str, list[Any]]]:
    content = existing_json(path)
    if isinstance(content, Mapping):
        content = [{"file": name, "classes": value} for name, value in content.items()]
    for place, record in enumerate(content if isinstance(content, list) else [content]):
        keys = record if isinstance(record, Mapping) else {}
        name = next((keys[key] for key in _FILE_KEYS if key in keys), None)
        value = next((keys[key] for key in _CLASS_KEYS if key in keys), None)
        if name is None or value is None:
            raise ValueError(
                f"{path}, entry {place}: needs a file name and classes, such as {{'file': 'a.jpg', 'class_id': 3}}"
            )
        values = value if isinstance(value, list) else [value]
        yield str(name), [one["class_id"] if isinstance(one, Mapping) and "class_id" in one else one for one in values]


def _csv_rows(path: Path) -> Iterator[tuple[str, list[Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    columns: Sequence[int] = range(1, max(map(len, rows), default=0))
    if rows and rows[0][0].strip().lower() in _FILE_KEYS:
        header = rows.pop(0)
        wanted = ("class", "label", "prediction")
        columns = [i for i, name in enumerate(header) if name.strip().lower().startswith(wanted)]
        if not columns:
            raise ValueError(f"{path}: no column begins with class, label or prediction; found {header}")
    for row in rows:
        values = (row[i].strip() for i in columns if i < len(row))
        yield row[0], [value for value in values if value]


def _class_id(value: Any, numbers: Mapping[str, int], where: str) -> int:
    if isinstance(value, str) and value in numbers:
        return numbers[value]
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(numbers):
        return value
    raise ValueError(f"{where}: {value!r} is neither a class name nor a number in 0..{len(numbers) - 1}")


def find_masks(folder: Path) -> Iterator[tuple[str, Path]]:
    """Names of pictures and the masks made for them, in a folder of ``hrformer predict`` or of any masks."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give one with a mask for every picture")
    listing = folder / IMAGES
    if listing.is_file():
        for row in read_json(listing)["images"]:
            if not row.get("mask"):
                raise ValueError(f"{listing}: {row.get('file_name')} has no mask; were these pictures segmented?")
            yield str(row["source"]), folder / row["mask"]
        return
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in MASK_SUFFIXES - {".mat"} and path.is_file():
            yield PurePath(path.relative_to(folder)).as_posix(), path


def read_results(path: Path, labels: Mapping[str, Any], num_keypoints: int) -> list[dict[str, Any]]:
    """COCO's results of the labelled pictures, from a file or the folder of ``hrformer predict``, with its numbers."""
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
    for one in kept:
        if (count := len(one["keypoints"])) != 3 * num_keypoints:
            lacking = ": x and y of each, so add a third to each joint, its score or 1" * (count == 2 * num_keypoints)
            what = f"a result of picture {one['image_id']} has {count} numbers, not 3 x {num_keypoints} joints{lacking}"
            raise ValueError(f"{file}: {what}")
    return kept


def _result(record: Any, where: str) -> dict[str, Any]:
    """A result with ids, score, joints and box as numbers, in whatever way they are written."""
    keys = record if isinstance(record, Mapping) else ()
    if missing := [key for key in ("image_id", "keypoints", "score") if key not in keys]:
        raise ValueError(f"{where} lacks {', '.join(missing)}; is this a file of keypoints?")
    found = {name: value for name, value in record.items() if name not in ("category_id", "bbox")}
    found |= {"image_id": whole(record, "image_id", where), "score": number(record, "score", where)}
    if record.get("category_id") is not None:
        found["category_id"] = whole(record, "category_id", where)
    for field in ("keypoints", "bbox"):
        values = flat_joints(record.get(field))
        if field == "bbox" and not values:
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


def existing_json(path: Path) -> Any:
    """Content of a JSON file that a user named; FileNotFoundError where there is none, ValueError if it is no JSON."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    return read_json(path)
