"""Predictions for sets whose labels are kept by a test server, in the files that it takes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from hrformer.data.label_ids import to_server_ids
from hrformer.data.sets import ClassificationSet, ImageSet, PoseSet
from hrformer.evaluate.class_files import write_class_table, write_top_classes
from hrformer.evaluate.evaluate import network_for
from hrformer.evaluate.inference import Network, Precision, items_to_take, predictions_of
from hrformer.evaluate.pose import results_of
from hrformer.evaluate.processes import ALONE, Processes, Progress
from hrformer.evaluate.protocols import PoseProtocol, Protocol
from hrformer.files import write_file
from hrformer.metrics.coco_keypoints import CocoKeypoints
from hrformer.models.model import VisionModel

KEYPOINTS_FILE, CLASSES_FILE, CLASS_TABLE, MASKS_FOLDER = "keypoints.json", "classes.txt", "classes.csv", "masks"
"""What :func:`export_predictions` writes."""

TOP = 5
"""Classes per picture that ImageNet's server takes."""


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
        ids: classification: see ``write_top_classes``.

    Returns:
        The file, or the folder of masks.

    Raises:
        OSError: a file cannot be written.
        ValueError: model, set and protocol do not fit together, or two masks would have one name.
    """
    network = network_for(model, source, protocol, device, precision)
    num_items = items_to_take(source, limit)
    processes = processes or ALONE
    run = _Run(network, source, protocol, num_items, workers, processes, progress)
    if isinstance(source, PoseSet) and isinstance(protocol, PoseProtocol):
        return _export_people(run, source, protocol, folder / KEYPOINTS_FILE)
    if isinstance(source, ClassificationSet):
        return _export_classes(run, folder, ids)
    return _export_masks(run, folder / MASKS_FOLDER, dataset)


def write_coco_results(path: Path, results: Iterable[dict[str, Any]]) -> None:
    """Write COCO's result list: thousandths of a pixel, millionths of a joint's score.

    Args:
        path: file to write, whole or not at all.
        results: mappings with "image_id", "category_id", "keypoints" (3 K numbers) and "score"; the rest is left out.
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
) -> int:
    """Write masks as grey PNG, one by one as they come.

    Args:
        folder: made if absent.
        masks: file name without ending, and (H, W) class numbers, uint8 or uint16.
        dataset: write the ids of this set's server; empty: class numbers.

    Returns:
        How many were written.

    Raises:
        ValueError: the set is unknown, or a mask holds what is no class of it.
    """
    count = 0
    for name, mask in masks:
        stored = to_server_ids(dataset, mask.astype(np.uint8)) if dataset else mask
        done, data = cv2.imencode(".png", stored)
        if not done:
            raise ValueError(f"OpenCV could not encode the mask of {name}: {stored.shape} {stored.dtype}")
        content = data.tobytes()
        write_file(folder / f"{name}.png", lambda part, content=content: part.write_bytes(content))  # type: ignore[misc]
        count += 1
    return count


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


class _Run:
    """One pass over the set."""

    def __init__(
        self,
        network: Network,
        source: ImageSet,
        protocol: Protocol,
        num_items: int,
        workers: int,
        processes: Processes,
        progress: Progress | None,
    ) -> None:
        self.source, self.num_items, self.processes, self.progress = source, num_items, processes, progress
        self._batches = predictions_of(
            network,
            source,
            num_items=num_items,
            batch_size=protocol.batch_size,
            workers=workers,
            processes=processes,
        )

    def __iter__(self) -> Iterator[tuple[list[int], Sequence[Any]]]:
        """Item numbers and predictions of this process."""
        done = 0
        for batch, predictions in self._batches:
            yield [int(index) for index in batch["index"]], predictions
            done += len(predictions)
            if self.progress is not None:
                self.progress(min(done * self.processes.world_size, self.num_items), self.num_items)


def _export_people(run: _Run, source: PoseSet, protocol: PoseProtocol, path: Path) -> Path:
    people = [source.person(index) for index in range(run.num_items)]
    pictures = {
        "images": [{"id": number} for number in sorted({person.image_id for person in people})],
        "categories": [{"id": number} for number in sorted({person.category_id for person in people})],
        "annotations": [],
    }
    # The metric without labels: it sorts, forgets doubles, and suppresses.
    metric = CocoKeypoints(pictures, source.skeleton.sigmas, nms_threshold=protocol.nms_threshold)
    for numbers, found in run:
        rows = results_of([people[number] for number in numbers], found, protocol.joint_threshold)
        metric.update(rows, order=numbers)
    states = run.processes.gather(metric.state())
    if run.processes.rank == 0:
        metric.reset()
        for state in states:
            metric.merge(state)
        write_coco_results(path, metric.results())
    # Nobody goes on before the file is there.
    run.processes.gather(None)
    return path


def _export_classes(run: _Run, folder: Path, ids: Sequence[int] | None) -> Path:
    own: list[tuple[int, list[int]]] = []
    for numbers, logits in run:
        # A stable sort rather than topk: among equal logits the lower class comes first, as the metric has it.
        best = torch.stack(list(logits)).argsort(dim=1, descending=True, stable=True)[:, :TOP]
        own += zip(numbers, best.tolist(), strict=True)
    everything = dict(pair for part in run.processes.gather(own) for pair in part)
    path = folder / CLASSES_FILE
    if run.processes.rank == 0:
        rows = [everything[index] for index in range(run.num_items)]
        write_class_table(folder / CLASS_TABLE, [run.source.file(index) for index in range(run.num_items)], rows)
        write_top_classes(path, rows, ids)
    run.processes.gather(None)
    return path


def _export_masks(run: _Run, folder: Path, dataset: str) -> Path:
    names = result_names(run.source, run.num_items)

    def named() -> Iterator[tuple[str, NDArray[np.unsignedinteger]]]:
        for numbers, masks in run:
            for number, mask in zip(numbers, masks, strict=True):
                values = mask.cpu().numpy()
                yield names[number], values.astype(np.uint8 if values.max() <= 255 else np.uint16)

    write_server_masks(folder, named(), dataset)
    run.processes.gather(None)
    return folder
