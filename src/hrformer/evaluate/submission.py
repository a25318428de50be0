"""Predictions for sets whose labels are kept by a test server, in the files that it takes."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from hrformer.data.published_classes import to_server_ids
from hrformer.data.set_types import ClassificationSet, ImageSet, PoseSet
from hrformer.evaluate.evaluate import network_for
from hrformer.evaluate.inference import ALONE, Precision, Processes, Progress, items_to_take, predictions_of
from hrformer.evaluate.protocols import PoseProtocol, Protocol
from hrformer.evaluate.scores import results_of
from hrformer.files import write_file
from hrformer.metrics.coco_keypoints import CocoKeypoints
from hrformer.models.model import VisionModel

KEYPOINTS_FILE, CLASSES_FILE, CLASS_TABLE, MASKS_FOLDER = "keypoints.json", "classes.txt", "classes.csv", "masks"
"""What :func:`export_predictions` writes."""

TOP = 5
"""Classes per picture that ImageNet's server takes."""

Predicted = Iterable[tuple[list[int], Sequence[Any]]]
"""Item numbers and their predictions, batch by batch."""


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
    """Run a model over a set, with labels or without, and write what it says.

    Pose: ``keypoints.json``, COCO's result list after the protocol's suppression (test-dev). Segmentation:
    ``masks/NAME.png`` at the pictures' own sizes, named like the pictures. Classification: ``classes.txt``, the five
    best class numbers per line, and ``classes.csv``, the same with file names. :mod:`hrformer.evaluate.files` reads
    all but the text file.

    Args:
        model: see :func:`hrformer.evaluate.evaluate.evaluate`, as for the other arguments not listed.
        source: what to predict.
        protocol: of the set's task.
        folder: made if absent; files of these names are replaced.
        dataset: segmentation: write the ids of this set's server, see ``to_server_ids``; empty: class numbers.
        ids: classification: see :func:`write_top_classes`.

    Returns:
        The file, or the folder of masks.

    Raises:
        OSError: a file cannot be written.
        ValueError: model, set and protocol do not fit together, or two masks would have one name.
    """
    network = network_for(model, source, protocol, device, precision)
    num_items, processes = items_to_take(source, limit), processes or ALONE
    batches = predictions_of(
        network, source, num_items=num_items, workers=workers, processes=processes, progress=progress
    )
    predicted = (([int(index) for index in batch["index"]], found) for batch, found in batches)
    if isinstance(source, PoseSet) and isinstance(protocol, PoseProtocol):
        path = _export_people(predicted, source, protocol, num_items, processes, folder / KEYPOINTS_FILE)
    elif isinstance(source, ClassificationSet):
        path = _export_classes(predicted, source, num_items, processes, folder, ids)
    else:
        path = folder / MASKS_FOLDER
        write_server_masks(path, _named_masks(predicted, result_names(source, num_items)), dataset)
    # Nobody goes on before the files are there.
    processes.gather(None)
    return path


def _export_people(
    predicted: Predicted, source: PoseSet, protocol: PoseProtocol, num_items: int, processes: Processes, path: Path
) -> Path:
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
    if processes.rank == 0:
        write_coco_results(path, metric.results())
    return path


def _export_classes(
    predicted: Predicted,
    source: ClassificationSet,
    num_items: int,
    processes: Processes,
    folder: Path,
    ids: Sequence[int] | None,
) -> Path:
    own: list[tuple[int, list[int]]] = []
    for numbers, logits in predicted:
        # A stable sort rather than topk: among equal logits the lower class comes first, as the metric has it.
        best = torch.stack(list(logits)).argsort(dim=1, descending=True, stable=True)[:, :TOP]
        own += zip(numbers, best.tolist(), strict=True)
    everything = dict(pair for part in processes.gather(own) for pair in part)
    if processes.rank == 0:
        rows = [everything[index] for index in range(num_items)]
        write_class_table(folder / CLASS_TABLE, [source.file(index) for index in range(num_items)], rows)
        write_top_classes(folder / CLASSES_FILE, rows, ids)
    return folder / CLASSES_FILE


def _named_masks(predicted: Predicted, names: list[str]) -> Iterator[tuple[str, NDArray[np.unsignedinteger]]]:
    for numbers, masks in predicted:
        for number, mask in zip(numbers, masks, strict=True):
            values = mask.cpu().numpy()
            yield names[number], values.astype(np.uint8 if values.max() <= 255 else np.uint16)


def result_names(source: ImageSet, num_items: int) -> list[str]:
    """File names without ending for the results of the first items: the pictures', with folders where that takes it.

    Raises:
        ValueError: two are the same with their folder, too.
    """
    paths = [PurePath(source.file(index).replace("::", "/")) for index in range(num_items)]
    for names in ([path.stem for path in paths], [f"{path.parent.name}_{path.stem}" for path in paths]):
        if len({name.casefold() for name in names}) == len(names):
            return names
    seen: dict[str, PurePath] = {}
    for name, path in zip(names, paths, strict=True):
        if name.casefold() in seen:
            raise ValueError(f"the results of {seen[name.casefold()]} and {path} would have one name, {name}.png")
        seen[name.casefold()] = path
    raise AssertionError("some name occurs twice")


def write_coco_results(path: Path, results: Iterable[dict[str, Any]]) -> None:
    """Write COCO's result list, whole or not at all: thousandths of a pixel, millionths of a joint's score.

    Of each result "image_id", "category_id", "keypoints" (3 K numbers) and "score" are written.
    """
    rows = [
        {
            "image_id": result["image_id"],
            "category_id": result["category_id"],
            "keypoints": [round(value, 6 if place % 3 == 2 else 3) for place, value in enumerate(result["keypoints"])],
            "score": result["score"],
        }
        for result in results
    ]
    text = json.dumps(rows, allow_nan=False) + "\n"
    write_file(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_server_masks(
    folder: Path, masks: Iterable[tuple[str, NDArray[np.unsignedinteger]]], dataset: str = ""
) -> None:
    """Write masks as grey PNG, one by one as they come.

    Args:
        folder: made if absent.
        masks: file name without ending, and (H, W) class numbers, uint8 or uint16.
        dataset: write the ids of this set's server; empty: class numbers.

    Raises:
        ValueError: the set is unknown, or a mask holds what is no class of it.
    """
    for name, mask in masks:
        stored = to_server_ids(dataset, mask.astype(np.uint8)) if dataset else mask
        done, data = cv2.imencode(".png", stored)
        if not done:
            raise ValueError(f"OpenCV could not encode the mask of {name}: {stored.shape} {stored.dtype}")
        content = data.tobytes()
        write_file(folder / f"{name}.png", lambda part, content=content: part.write_bytes(content))  # type: ignore[misc]


def write_class_table(path: Path, names: Sequence[str], rows: Sequence[Sequence[int]]) -> None:
    """CSV that :func:`hrformer.evaluate.prediction_files.read_class_file` reads, written whole or not at all.

    ``rows`` are class ids of each picture, best first, equally many.
    """

    def write(part: Path) -> None:
        with part.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(["file", *(f"class_id_{place + 1}" for place in range(len(rows[0]) if rows else 0))])
            table.writerows([name, *row] for name, row in zip(names, rows, strict=True))

    write_file(path, write)


def write_top_classes(path: Path, rows: Sequence[Sequence[int]], ids: Sequence[int] | None = None) -> None:
    """One line of class numbers per picture, best first, as ImageNet's evaluation server takes them.

    Args:
        path: file to write, whole or not at all.
        rows: in the order of the server's pictures.
        ids: what the server calls each class; None writes our numbers, from 0 in the order of the classes. ImageNet's
            server wants ILSVRC2012_ID, 1..1000 in the order of the development kit, which is not that of the folders.

    Raises:
        ValueError: ``ids`` lacks a class.
    """
    highest = max((number for row in rows for number in row), default=-1)
    if ids is not None and highest >= len(ids):
        raise ValueError(f"there are server ids for {len(ids)} classes, but class {highest} occurs")
    lines = [" ".join(str(number if ids is None else ids[number]) for number in row) + "\n" for row in rows]
    write_file(path, lambda part: part.write_text("".join(lines), encoding="utf-8"))
