"""Running a model on a data set: scored, or written into files; one loop for all tasks, alone or among processes."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from hrformer.data.label_ids import to_server_ids
from hrformer.data.set_types import ClassificationSet, ImageSet, PoseSet
from hrformer.evaluate.inference import (
    ALONE,
    Precision,
    Processes,
    Progress,
    network_for,
    predictions_of,
)
from hrformer.evaluate.protocols import (
    Evaluation,
    PoseProtocol,
    Protocol,
)
from hrformer.evaluate.scores import (
    Tally,
    results_of,
    scores_for,
)
from hrformer.files import write_file
from hrformer.metrics.coco_keypoints import CocoKeypoints
from hrformer.models.model import VisionModel

KEYPOINTS_FILE, CLASSES_FILE, CLASS_TABLE, MASKS_FOLDER = "keypoints.json", "classes.txt", "classes.csv", "masks"
TOP = 5  # classes per picture that ImageNet's server takes
Predicted = Iterable[tuple[list[int], Sequence[Any]]]  # item numbers and their predictions, batch by batch


def evaluate(
    model: VisionModel,
    source: ImageSet,
    protocol: Protocol,
    *,
    device: str | torch.device | None = None,
    workers: int = 0,
    precision: Precision = "fp32",
    processes: Processes | None = None,
    progress: Progress | None = None,
    bootstrap: int = 0,
    worst: int = 0,
    limit: int | None = None,
) -> Evaluation:
    """Score a model on a labelled set.

    Batch size, workers and processes change no score beyond the rounding of the network's outputs. The model comes
    back in the mode it was in, and the random generators as they were.

    Args:
        model: with a head for the task of the set and of the protocol, and the set's classes or joints in its order.
        source: labelled items.
        protocol: how they are scored.
        device: where to run, also where the model stays; None: where it is.
        workers: processes that read pictures ahead.
        precision: of the forward pass.
        processes: share the items; every process returns the same evaluation. None: this one alone.
        progress: called with the number of items done over all processes (estimated from this one) and the total.
        bootstrap: samples for confidence intervals; 0 for none.
        worst: how many of the worst items to keep.
        limit: only the first so many items.

    Raises:
        hrformer.data.set_types.DataError: an item cannot be read; the message names it.
        ImportError: a score needs a package that is not installed.
        ValueError: model, set and protocol do not fit together, or the set has no labels.
    """
    processes, num_items = processes or ALONE, _items_to_take(source, limit)
    network = network_for(model, source, protocol, device, precision)
    tally = Tally(scores_for(source, protocol, num_items, bootstrap), source, worst)
    for batch, found in predictions_of(network, source, num_items, workers, processes, progress):
        tally.update(batch, found)
    return tally.finish(processes)


def _items_to_take(source: ImageSet, limit: int | None) -> int:
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    if not len(source):
        raise ValueError(f"{source.name} has no items to evaluate")
    return len(source) if limit is None else min(limit, len(source))


def export_predictions(
    model: VisionModel,
    source: ImageSet,
    protocol: Protocol,
    folder: Path,
    *,
    dataset: str = "",
    ids: Sequence[int] | None = None,
    device: str | torch.device | None = None,
    workers: int = 0,
    precision: Precision = "fp32",
    processes: Processes | None = None,
    progress: Progress | None = None,
    limit: int | None = None,
) -> Path:
    """Run a model over a set, with labels or without, and write what it says; returns the file, or the folder of masks.

    Pose: ``keypoints.json``, COCO's result list after the protocol's suppression (test-dev). Segmentation:
    ``masks/NAME.png`` at the pictures' own sizes, named like the pictures. Classification: ``classes.txt``, the five
    best class numbers per line, and ``classes.csv``, the same with file names. :mod:`hrformer.evaluate.files` reads
    all but the text file.

    Args:
        model: see :func:`evaluate`, as for the other arguments not listed.
        source: what to predict.
        protocol: of the set's task.
        folder: made if absent; files of these names are replaced.
        dataset: segmentation: write the ids of this set's server, see ``to_server_ids``; empty: class numbers.
        ids: classification: see :func:`write_classes`.
    """
    processes, num_items = processes or ALONE, _items_to_take(source, limit)
    network = network_for(model, source, protocol, device, precision)
    batches = predictions_of(network, source, num_items, workers, processes, progress)
    predicted = (([int(index) for index in batch["index"]], found) for batch, found in batches)
    if isinstance(source, PoseSet) and isinstance(protocol, PoseProtocol):
        path = folder / KEYPOINTS_FILE
        results = _results(predicted, source, protocol, num_items, processes)
        if processes.rank == 0:
            write_coco_results(path, results)
    elif isinstance(source, ClassificationSet):
        path = folder / CLASSES_FILE
        best = _best_classes(predicted, processes)
        if processes.rank == 0:
            names = [source.file(index) for index in range(num_items)]
            write_classes(folder, names, [best[index] for index in range(num_items)], ids)
    else:
        path = folder / MASKS_FOLDER
        names = result_names(source, num_items)
        for numbers, masks in predicted:
            for number, mask in zip(numbers, masks, strict=True):
                write_mask(path / f"{names[number]}.png", mask.cpu().numpy(), dataset)
    # Nobody goes on before the files are there.
    processes.gather(None)
    return path


def _results(
    predicted: Predicted, source: PoseSet, protocol: PoseProtocol, num_items: int, processes: Processes
) -> list[dict[str, Any]]:
    people = [source.person(index) for index in range(num_items)]
    pictures: dict[str, list[dict[str, Any]]] = {
        "images": [{"id": number} for number in sorted({person.image_id for person in people})],
        "categories": [{"id": number} for number in sorted({person.category_id for person in people})],
        "annotations": [],
    }
    # The metric without labels: it sorts, forgets doubles, and suppresses.
    metric = CocoKeypoints(pictures, source.skeleton.sigmas, nms_threshold=protocol.nms_threshold)
    for numbers, found in predicted:
        metric.update(results_of([people[number] for number in numbers], found, protocol.joint_threshold), numbers)
    for state in processes.gather(metric.state()):
        metric.merge(state)
    return metric.results()


def _best_classes(predicted: Predicted, processes: Processes) -> dict[int, list[int]]:
    own: list[tuple[int, list[int]]] = []
    for numbers, logits in predicted:
        # A stable sort rather than topk: among equal logits the lower class comes first, as the metric has it.
        best = torch.stack(list(logits)).argsort(dim=1, descending=True, stable=True)[:, :TOP]
        own += zip(numbers, best.tolist(), strict=True)
    return dict(pair for part in processes.gather(own) for pair in part)


def result_names(source: ImageSet, num_items: int) -> list[str]:
    """File names without ending for the results of the first items: the pictures', with folders where that takes it.

    Raises:
        ValueError: two are the same with their folder, too.
    """
    paths = [PurePath(source.file(index).replace("::", "/")) for index in range(num_items)]
    names = [path.stem for path in paths]
    if len({name.casefold() for name in names}) < len(names):
        names = [f"{path.parent.name}_{path.stem}" for path in paths]
    seen: dict[str, PurePath] = {}
    for name, path in zip(names, paths, strict=True):
        if (other := seen.setdefault(name.casefold(), path)) is not path:
            raise ValueError(f"the results of {other} and {path} would have one name, {name}.png")
    return names


def write_coco_results(path: Path, results: Iterable[dict[str, Any]]) -> None:
    """Write COCO's result list, whole or not at all: thousandths of a pixel, millionths of a joint's score.

    Of each result "image_id", "category_id", "keypoints" (3 K numbers) and "score" are written.
    """
    rows = []
    for result in results:
        row = {key: result[key] for key in ("image_id", "category_id", "keypoints", "score")}
        joints = enumerate(row["keypoints"])
        rows.append(row | {"keypoints": [round(value, 6 if place % 3 == 2 else 3) for place, value in joints]})
    text = json.dumps(rows, allow_nan=False) + "\n"
    write_file(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_mask(path: Path, mask: NDArray[np.integer], dataset: str = "") -> None:
    """Write (H, W) class numbers as grey PNG, as the ids of a set's server where one is named.

    Raises:
        ValueError: the set is unknown, or the mask holds what is no class of it.
    """
    small: NDArray[Any] = mask.astype(np.uint8 if dataset or mask.max() <= 255 else np.uint16)
    stored = to_server_ids(dataset, small) if dataset else small
    done, data = cv2.imencode(".png", stored)
    if not done:
        raise ValueError(f"OpenCV could not encode {path}: {stored.shape} {stored.dtype}")
    write_file(path, lambda part: part.write_bytes(data.tobytes()))


def write_classes(
    folder: Path, names: Sequence[str], rows: Sequence[Sequence[int]], ids: Sequence[int] | None = None
) -> None:
    """Class numbers of each picture, best first, as ImageNet's evaluation server takes them, and with file names.

    Args:
        folder: of a line of text per picture, and of the table for
            :func:`hrformer.evaluate.files.read_class_file`, each written whole or not at all.
        names: files of the pictures.
        rows: equally many classes of each, in the order of the server's pictures.
        ids: what the server calls each class; None writes our numbers, from 0 in the order of the classes. ImageNet's
            server wants ILSVRC2012_ID, 1..1000 in the order of the development kit, which is not that of the folders.

    Raises:
        ValueError: ``ids`` lacks a class.
    """
    highest = max((number for row in rows for number in row), default=-1)
    if ids is not None and highest >= len(ids):
        raise ValueError(f"there are server ids for {len(ids)} classes, but class {highest} occurs")

    def write_table(part: Path) -> None:
        with part.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(["file", *(f"class_id_{place + 1}" for place in range(len(rows[0]) if rows else 0))])
            table.writerows([name, *row] for name, row in zip(names, rows, strict=True))

    write_file(folder / CLASS_TABLE, write_table)
    lines = [" ".join(str(number if ids is None else ids[number]) for number in row) + "\n" for row in rows]
    write_file(folder / CLASSES_FILE, lambda part: part.write_text("".join(lines), encoding="utf-8"))
