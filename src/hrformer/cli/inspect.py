"""``hrformer inspect data``: a report of what would break training, and a picture of augmented samples."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hrformer.cli.arguments import InspectArguments, InspectDataArguments
from hrformer.cli.inspect_report import print_report
from hrformer.cli.messages import note, say
from hrformer.cli.runs import RunCommand, option_names, speaking_of_options
from hrformer.data import coco_keypoints
from hrformer.data.classification_sets import open_classification
from hrformer.data.inspection.annotations import annotation_file, check_annotations, same_fault
from hrformer.data.inspection.parts import Part, compare, told_once
from hrformer.data.inspection.report import Finding, Report, sorted_findings
from hrformer.data.inspection.samples import draw_samples
from hrformer.data.loader import Transform, default_workers
from hrformer.data.pose_sets import open_pose
from hrformer.data.segmentation_sets import open_segmentation
from hrformer.data.sets import ClassificationSet, ImageSet, PoseSet, names_of
from hrformer.data.sources import Split
from hrformer.data.transforms.classification import BatchMixer, TrainClassification
from hrformer.data.transforms.pose import TrainPose
from hrformer.data.transforms.segmentation import TrainSegmentation
from hrformer.data.transforms.settings import ClassificationAugment
from hrformer.predict.files import write_json, write_picture
from hrformer.train.config import DATA_ROOT, AnyRun, ClassificationRun, PoseRun, RunConfig, SegmentationRun
from hrformer.train.data_check import Progress, findings_of, part_of
from hrformer.train.fitting import fitted, with_sizes
from hrformer.train.progress import bars
from hrformer.wording import counted

REPORT_FILE, SHEET_FILE = "report.json", "contact_sheet.jpg"

TASKS: Mapping[type[RunConfig], str] = {
    ClassificationRun: "classification",
    PoseRun: "pose",
    SegmentationRun: "segmentation",
}


def run_inspect(command: RunCommand[InspectDataArguments] | InspectArguments) -> int:
    """Inspect, print and write.

    Returns:
        0; 1 if something would break the training.

    Raises:
        ValueError: no run is named, or an option is out of range.
        OSError: the results cannot be written.
    """
    if isinstance(command, InspectArguments):
        raise ValueError("name the recipe: hrformer inspect data RECIPE [options]; `hrformer train` lists the recipes")
    options = command.options
    earlier = (options.out / REPORT_FILE).exists()
    with speaking_of_options(command.config), _reported_notes(), bars() as progress:
        report = inspect_data(
            command.config,
            options.split,
            options.out,
            limit=options.limit,
            samples=options.samples,
            seed=command.config.seed,
            progress=progress,
        )
    if earlier:
        note(f"the report in {options.out} is replaced; --out takes another folder")
    print_report(report)
    say(f"{counted(report.errors, 'error')}, {counted(len(report.findings) - report.errors, 'warning')}")
    sheet = options.out / SHEET_FILE
    say(f"report: {options.out / REPORT_FILE}" + (f"; samples: {sheet}" if sheet.exists() else ""))
    return 1 if report.errors else 0


def inspect_data(
    config: AnyRun,
    split: Split,
    out: Path,
    *,
    limit: int | None = None,
    samples: int = 24,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Look through the data of a run and write ``report.json`` and ``contact_sheet.jpg``.

    Args:
        config: of the run.
        split: part of the set; with "train" comes "val", since both are needed for training.
        out: folder to write to, made if absent.
        limit: look at so many pictures of each part only, spread over it.
        samples: augmented samples on the sheet; 0 for no sheet.
        seed: of choice and augmentation of the samples.
        progress: told how far it is.

    Raises:
        ValueError: ``limit`` or ``samples`` is out of range, or a setting of the augmentation.
        OSError: the results cannot be written.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"--limit must be at least 1, got {limit}")
    if samples < 0:
        raise ValueError(f"--samples must not be negative, got {samples}")
    findings: list[Finding] = []
    config = _fitted(config, findings)
    parts: list[Part] = []
    statistics: dict[str, dict[str, object]] = {}
    wanted: tuple[Split, ...] = ("train", "val") if split == "train" else (split,)
    for name in wanted:
        part, numbers = _opened(config, name, findings)
        if part is not None:
            part.look_through(limit=limit, threads=default_workers() + 1, progress=_stage(progress, f"{name} pictures"))
            findings += findings_of(config, part)
            statistics[name] = part.statistics() | numbers
            parts.append(part)
        elif config.data.val_share:
            break  # the other part is of the same files
    findings = told_once((*findings, *_about_run(config, parts)), config.data.val_share > 0)
    sheet = out / SHEET_FILE
    sheet.unlink(missing_ok=True)
    if samples and parts and parts[0].split == split and parts[0].labelled:
        # How much samples are changed follows from the number of items.
        first, last = parts[0].source, parts[-1].source
        config = fitted(config, len(first), len(last), gpu=_on_gpu(config), names=names_of(first))
        findings += _draw(config, parts[0], sheet, samples, seed, progress)
    report = Report(
        data=parts[0].source.name if parts else "",
        task=TASKS[type(config)],
        findings=sorted_findings(replace(one, what=option_names(one.what)) for one in findings),
        statistics=statistics,
    )
    write_json(out / REPORT_FILE, report.to_dict())
    return report


def _fitted(config: AnyRun, findings: list[Finding]) -> AnyRun:
    """The run with the sizes that its training would find here; with its task's own where the weights are not there."""
    if not config.fit:
        return config
    gpu = _on_gpu(config)
    try:
        return with_sizes(config, gpu=gpu)
    except (ValueError, OSError, RuntimeError) as error:
        fix = "name other weights to start from: --model.init; `hrformer models` lists them"
        findings.append(Finding(severity="error", kind="start_weights", split="train", what=str(error), fix=fix))
        return with_sizes(replace(config, model=replace(config.model, init="")), gpu=gpu)


def _on_gpu(config: AnyRun) -> bool:
    return torch.cuda.is_available() and not config.runtime.cpu


def open_part(config: AnyRun, split: Split) -> ImageSet:
    """Open one part of a run's data.

    Raises:
        ValueError: it is not as it should be.
    """
    if isinstance(config, ClassificationRun):
        return open_classification(config.data, split)
    if isinstance(config, PoseRun):
        return open_pose(config.data, split)
    return open_segmentation(config.data, split)


def training_transform(config: AnyRun, source: ImageSet) -> Transform:
    """The augmentation of a run."""
    if isinstance(config, ClassificationRun):
        return TrainClassification(config.augment)
    if isinstance(config, PoseRun):
        assert isinstance(source, PoseSet)
        return TrainPose(config.augment, source.skeleton, config.augment.codec())
    return TrainSegmentation(config.augment)


def _annotations(config: AnyRun, split: Split) -> tuple[list[Finding], dict[str, Any]]:
    """Pose: what is odd in the annotation file itself, and numbers about it."""
    if not isinstance(config, PoseRun) or (file := annotation_file(config.data, split)) is None:
        return [], {}
    return check_annotations(file, split, config.data.category)


def _opened(config: AnyRun, split: Split, findings: list[Finding]) -> tuple[Part | None, dict[str, Any]]:
    """An opened part, or findings why that fails; and numbers about its file of annotations."""
    in_file, numbers = _annotations(config, split)
    try:
        part = part_of(config, open_part(config, split), split)
    except (ValueError, OSError, ImportError) as error:
        fix = "say where the data lies: --data.root FOLDER" if config.data.root == DATA_ROOT else ""
        refusal = Finding(severity="error", kind="open", split=split, what=option_names(str(error)), fix=fix)
        # One error for one fault: the reader stops at the first of what the checks of the file count.
        findings += same_fault(in_file, str(error)) or [refusal]
        return None, numbers
    findings += in_file
    return part, numbers


def _about_run(config: AnyRun, parts: Sequence[Part]) -> Iterator[Finding]:
    """What fits neither one part nor the run alone."""
    if len(parts) == 2:
        yield from compare(*parts)
    train = next((part for part in parts if part.split == "train"), None)
    # 0 stands for a batch that is fitted to the set.
    if train is not None and len(train.source) < config.batch.total:
        what = f"one batch needs {counted(config.batch.total, 'item')}, the part has {len(train.source)}"
        fix = f"take smaller batches: --batch.total {len(train.source)} at most"
        yield Finding(severity="error", kind="batch", split="train", what=what, fix=fix)
    if isinstance(config, PoseRun) and config.evaluation.detections is not None:
        try:
            open_pose(config.data, "val", detections=config.evaluation.detections)
        except (ValueError, OSError) as error:
            fix = "correct --evaluation.detections, or leave it out to validate on labelled boxes"
            yield Finding(severity="error", kind="detections", split="val", what=str(error), fix=fix)


def _draw(
    config: AnyRun, part: Part, file: Path, samples: int, seed: int, progress: Progress | None
) -> Iterable[Finding]:
    """Write the sheet; what went wrong."""
    source, mixer = part.source, None
    if isinstance(config, ClassificationRun) and isinstance(source, ClassificationSet) and _mixes(config.augment):
        mixer = BatchMixer(config.augment, len(source.classes))
    sheet, findings = draw_samples(
        source,
        training_transform(config, source),
        f"{source.name}, {part.split}" + (f", recipe {config.recipe}" if config.recipe else ""),
        samples=samples,
        seed=seed,
        split=part.split,
        avoid=part.unusable,
        mixer=mixer,
        progress=_stage(progress, "samples"),
    )
    if sheet is not None:
        write_picture(file, sheet)
    return findings


def _mixes(augment: ClassificationAugment) -> bool:
    return max(augment.erasing, augment.mixup, augment.cutmix) > 0


@contextmanager
def _reported_notes() -> Iterator[None]:
    """What readers put right in labels stands in the report, and is not said twice."""
    log = logging.getLogger(coco_keypoints.__name__)

    def other(record: logging.LogRecord) -> bool:
        return not hasattr(record, "kind")

    log.addFilter(other)
    try:
        yield
    finally:
        log.removeFilter(other)


def _stage(progress: Progress | None, name: str) -> Callable[[int, int], object] | None:
    return None if progress is None else lambda done, total: progress(name, done, total)
