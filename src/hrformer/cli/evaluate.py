"""``hrformer eval``: scores of weights, or of predictions in files, by the test protocol of a recipe."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.table import Table

from hrformer.checkpoints.checkpoint import load_model, save_checkpoint
from hrformer.checkpoints.download import resolve_weights
from hrformer.cli.arguments import EvaluateArguments
from hrformer.cli.messages import note, process_number, say, wide_console
from hrformer.cli.runs import RunCommand, speaking_of_options
from hrformer.data.classification_sets import open_classification
from hrformer.data.loader import default_workers
from hrformer.data.pose_sets import open_pose
from hrformer.data.segmentation_sets import open_segmentation
from hrformer.data.set_types import ClassificationSet, ImageSet, PoseSet, SegmentationSet
from hrformer.data.source_config import Split
from hrformer.evaluate.calibration import calibrate
from hrformer.evaluate.evaluate import evaluate, export_predictions
from hrformer.evaluate.files import evaluate_class_file, evaluate_keypoint_file, evaluate_masks
from hrformer.evaluate.inference import ALONE, Processes, Progress
from hrformer.evaluate.protocols import Evaluation
from hrformer.fast.choice import weights_precision
from hrformer.fast.optimize import FastModel, optimize
from hrformer.files import sha256_of, write_file
from hrformer.models.model import VisionModel, find_device
from hrformer.train.config import AnyRun, ClassificationRun, PoseRun, SegmentationRun
from hrformer.train.config_file import to_dict
from hrformer.train.data_check import left_out
from hrformer.train.distributed import processes
from hrformer.train.progress import bars, label_of, share_text
from hrformer.train.run_folder import versions
from hrformer.wording import counted, listed

SCORES_FILE = "scores.json"
BEST_WEIGHTS = "best.safetensors"

_SERVER_SETS = ("cityscapes", "pascal_context", "coco_stuff_10k", "coco_stuff_164k", "ade20k")


def run_evaluate(command: RunCommand[EvaluateArguments] | EvaluateArguments) -> int:
    """Score, print and write ``scores.json``, or write the files of a test server; returns 0."""
    if isinstance(command, EvaluateArguments):
        raise ValueError(
            "name the recipe first: hrformer eval RECIPE --weights FILE [options]; `hrformer train` lists the recipes"
        )
    options, config = command.options, command.config
    _check_options(options)
    with speaking_of_options(config):
        if options.predictions is not None:
            outcome, facts = _score_files(options, config), {"predictions": str(options.predictions)}
        else:
            with _group() as group:
                found = _run_model(command, group)
            if found is None:
                return 0
            outcome, facts = found
    if process_number() == 0:
        _write_scores(command, outcome, facts)
        show_scores(outcome)
        say(f"scores: {options.out / SCORES_FILE}")
    return 0


def open_set(config: AnyRun, split: Split) -> ImageSet:
    """The part of a run's data that is to be scored; DataError if it is not as it should be."""
    if isinstance(config, PoseRun):
        protocol = config.evaluation
        return open_pose(config.data, split, detections=protocol.detections, box_threshold=protocol.box_threshold)
    if isinstance(config, SegmentationRun):
        return open_segmentation(config.data, split)
    return open_classification(config.data, split)


def _check_options(options: EvaluateArguments) -> None:
    for name, least in {"bootstrap": 0, "worst": 0, "workers": 0, "limit": 1}.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise ValueError(f"--{name} must be at least {least}, got {value}")
    if options.predictions is not None:
        given: dict[str, object] = {"--weights": options.weights, "--submit": options.submit}
        given |= {"--limit": options.limit, "--calibrate": options.calibrate}
        if both := [name for name, value in given.items() if value]:
            raise ValueError(f"--predictions is scored without a model and as a whole: leave out {', '.join(both)}")
    elif options.server_ids:
        raise ValueError("--server-ids says what masks in files hold; it needs --predictions")
    if options.calibrate is not None and options.calibrate.suffix != ".safetensors":
        raise ValueError(f"--calibrate: the file name must end in .safetensors, got {options.calibrate.name}")
    if options.predictions is not None and (options.fast or options.precision != "fp32"):
        raise ValueError("--fast and --precision run weights; leave them out with --predictions, which needs no model")


def _run_model(command: RunCommand[EvaluateArguments], group: Processes) -> tuple[Evaluation, dict[str, Any]] | None:
    """Outcome, and facts about the weights; None where files for a test server were written instead."""
    options, config = command.options, command.config
    device = find_device(options.device)
    if device == torch.device("cuda"):  # of several processes each takes its own
        device = find_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    _check_precision(options, device)
    path, model = _load(command)
    with bars(after=2.0) as look:
        source = left_out(config, open_set(config, options.split), options.split, look)
    workers = default_workers(group.world_size) if options.workers is None else options.workers
    shared: dict[str, Any] = {"device": device, "workers": workers, "processes": group, "limit": options.limit}
    if options.calibrate is not None:
        _calibrate(model, source, config, options.calibrate, device, workers)
    if options.fast:
        assert options.precision != "fp16"
        model = optimize(model.to(device), precision=options.precision)
    elif options.precision != "auto":
        shared["precision"] = options.precision
    note(f"{model.info.name} ({path}) on {source.name} {options.split}, {counted(len(source), 'item')}, {device}")
    if options.precision != "fp32":
        reason = f" ({model.reason})" if isinstance(model, FastModel) and model.reason else ""
        note(f"precision: {_precision(model, options)}{reason}")
    if options.submit:
        with _progress() as progress:
            shared |= {"dataset": server_set(config), "progress": progress}
            written = export_predictions(model, source, config.evaluation, options.out, **shared)
        say(f"predictions: {written}")
        return None
    with _progress() as progress:
        shared |= {"bootstrap": options.bootstrap, "worst": options.worst, "progress": progress}
        outcome = evaluate(model, source, config.evaluation, **shared)
    return outcome, {
        "weights": str(path),
        "sha256": sha256_of(path),
        "model": model.info.name,
        "input": model.info.input_spec.to_dict(),
        "precision": _precision(model, options),
        "path": model.backend if isinstance(model, FastModel) else "reference",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "processes": group.world_size,
    }


def _check_precision(options: EvaluateArguments, device: torch.device) -> None:
    precision = options.precision
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("--precision fp16 is for a GPU; a CPU takes fp32, bf16 or auto")
    if options.fast and device.type != "cpu" and precision in ("bf16", "fp16"):
        raise ValueError(f"--fast runs weights in --precision fp32 on {device}; leave out --fast, or --precision")


def _precision(model: VisionModel, options: EvaluateArguments) -> str:
    """What products are computed in: by the kernels or runtime of ``optimize``, by autocast, or as the weights are."""
    if isinstance(model, FastModel):
        return model.precision
    return options.precision if options.precision in ("bf16", "fp16") else weights_precision(model)


def _calibrate(
    model: VisionModel, source: ImageSet, config: AnyRun, file: Path, device: torch.device, workers: int
) -> None:
    """Fit the model's temperature to the set, and write the model."""
    if not isinstance(source, ClassificationSet) or not isinstance(config, ClassificationRun):
        raise ValueError(f"--calibrate is for classifiers; {source.name} is a set for {source.task}")
    with _progress() as progress:
        shared: dict[str, Any] = {"device": device, "workers": workers, "progress": progress}
        found = calibrate(model, source, config.evaluation, **shared)
    if process_number() == 0:
        save_checkpoint(model, file)
        say(f"temperature: {found:.3f}, in {file}")


def _load(command: RunCommand[EvaluateArguments]) -> tuple[Path, VisionModel]:
    name = command.options.weights
    if name is None:
        if command.folder is None or not (command.folder / BEST_WEIGHTS).is_file():
            raise ValueError(
                "give --weights, a file or a name from `hrformer models`; only the directory of a run that has "
                f"validated once holds its own, {BEST_WEIGHTS}"
            )
        name = str(command.folder / BEST_WEIGHTS)
    path, published = resolve_weights(name)
    model, report = load_model(path, published=published)
    for setting, text in report.assumed.items():
        note(f"assumed: {setting} {text}")
    return path, model


def _score_files(options: EvaluateArguments, config: AnyRun) -> Evaluation:
    """Score predictions that lie in files."""
    assert options.predictions is not None
    source, bootstrap = open_set(config, options.split), options.bootstrap
    if isinstance(source, PoseSet) and isinstance(config, PoseRun):
        protocol = config.evaluation
        return evaluate_keypoint_file(options.predictions, source, source.skeleton, protocol, bootstrap=bootstrap)
    if isinstance(source, SegmentationSet):
        dataset = server_set(config) if options.server_ids else ""
        if options.server_ids and not dataset:
            raise ValueError(f"--server-ids: {source.name} has no test server; known are {listed(_SERVER_SETS)}")
        with _progress() as progress:
            shared: dict[str, Any] = {"dataset": dataset, "worst": options.worst, "progress": progress}
            return evaluate_masks(options.predictions, source, bootstrap=bootstrap, **shared)
    assert isinstance(source, ClassificationSet)
    return evaluate_class_file(options.predictions, source, worst=options.worst, bootstrap=bootstrap)


def server_set(config: AnyRun) -> str:
    """Set whose test server decides about the ids in masks; empty where there is none."""
    if not isinstance(config, SegmentationRun):
        return ""
    name = config.data.dataset if config.data.format == "official" else config.data.format
    return name if name in _SERVER_SETS else ""


@contextmanager
def _group() -> Iterator[Processes]:
    """The processes that a launcher such as torchrun started, or this one alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    # Only small Python objects are exchanged, at the end, and the model may be anywhere.
    dist.init_process_group("gloo")
    try:
        yield processes() or ALONE
    finally:
        dist.destroy_process_group()


@contextmanager
def _progress() -> Iterator[Progress | None]:
    """A bar on standard error; the first process alone has one."""
    if process_number() > 0:
        yield None
        return
    with bars() as show:
        yield partial(show, "items")


def _write_scores(command: RunCommand[EvaluateArguments], outcome: Evaluation, facts: dict[str, Any]) -> None:
    options, settings = command.options, to_dict(command.config)
    content = {
        "recipe": command.config.recipe or options.run,
        "task": outcome.task,
        "main": outcome.main,
        "scores": outcome.scores,
        "intervals": {name: list(ends) for name, ends in outcome.intervals.items()},
        "confidence": outcome.confidence,
        "items": outcome.items,
        "seconds": round(outcome.seconds, 3),
        "worst": [{"file": one.file, "index": one.index, "score": one.score} for one in outcome.worst],
        "split": options.split,
        "limit": options.limit,
        "bootstrap": options.bootstrap,
        "data": settings["data"],
        "protocol": settings["evaluation"],
        **facts,
        "versions": versions(),
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    if (options.out / SCORES_FILE).exists():
        note(f"the scores in {options.out} are replaced; --out takes another folder")
    write_file(options.out / SCORES_FILE, lambda part: part.write_text(text, encoding="utf-8"))


def show_scores(outcome: Evaluation) -> None:
    """Print the scores: those of the whole set, then those of each class or joint."""
    console = wide_console()
    titles = ["score", "value", *([f"{outcome.confidence:.0%} interval"] if outcome.intervals else [])]
    table = Table(*titles, title=f"{outcome.task}, {counted(outcome.items, 'item')}", title_justify="left")
    table.columns[0].no_wrap, table.columns[1].justify = True, "right"
    for name, value in outcome.scores.items():
        if isinstance(value, list | dict):
            continue
        cells = [label_of(name), _cell(value)]
        if outcome.intervals:
            ends = outcome.intervals.get(name)
            cells.append(f"{share_text(ends[0])} to {share_text(ends[1])}" if ends else "")
        table.add_row(*cells)
    console.print(table)
    for name, rows in outcome.scores.items():
        if not isinstance(rows, list) or not rows or not isinstance(rows[0], dict):
            continue
        table = Table(title=label_of(name), title_justify="left")
        for key in rows[0]:
            table.add_column(label_of(key), justify="left" if key == "name" else "right")
        for row in rows:
            table.add_row(*(_cell(value) for value in row.values()))
        console.print(table)
    for example in outcome.worst:
        say(f"worst: {share_text(example.score)} {example.file}")


def _cell(value: Any) -> str:
    """Shares as percentages, counts as they are, a dash for what there is none of."""
    if value is None:
        return "–"
    return share_text(value) if isinstance(value, float) else str(value)
