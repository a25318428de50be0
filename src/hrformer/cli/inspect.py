"""``hrformer inspect data``: a report of what would break training, and a picture of augmented samples."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from hrformer.cli.arguments import InspectArguments, InspectDataArguments
from hrformer.cli.evaluate import open_set
from hrformer.cli.messages import note, say, wide_console
from hrformer.cli.runs import RunCommand, option_names, speaking_of_options
from hrformer.data import coco_keypoints
from hrformer.data.inspection.parts import Part, compare, told_once
from hrformer.data.inspection.people import check_annotations, same_fault
from hrformer.data.inspection.report import Finding, Report, finding
from hrformer.data.inspection.samples import draw_samples
from hrformer.data.loader import Transform, default_workers
from hrformer.data.set_types import ImageSet, PoseSet, names_of
from hrformer.data.source_config import Split
from hrformer.data.transforms.classification import BatchMixer, TrainClassification
from hrformer.data.transforms.pose import TrainPose
from hrformer.data.transforms.segmentation import TrainSegmentation
from hrformer.models.model import find_device
from hrformer.predict.results import write_json, write_picture
from hrformer.train.config import DATA_ROOT, AnyRun, ClassificationRun, PoseRun
from hrformer.train.config_file import task_of
from hrformer.train.data_check import Progress, findings_of, part_of
from hrformer.train.fitting import fitted, with_sizes
from hrformer.train.progress import bars
from hrformer.wording import counted

REPORT_FILE, SHEET_FILE = "report.json", "contact_sheet.jpg"

ROWS_SHOWN = 40  # of longer lists the first and the last of so many rows are printed; ``report.json`` has all
_BAR = 16

_CAPTIONS = {
    "classification": "share of the pictures, and their number:",
    "pose": "share of the people looked at in whom the joint is labelled, and labelled as hidden:",
    "segmentation": "share of the labelled pixels, and number of the pictures that have the class:",
}


def run_inspect(command: RunCommand[InspectDataArguments] | InspectArguments) -> int:
    """Inspect, print and write; returns 0, or 1 if something would break the training. ValueError for odd options."""
    if isinstance(command, InspectArguments):
        raise ValueError("name the recipe: hrformer inspect data RECIPE [options]; `hrformer train` lists the recipes")
    options, file = command.options, command.options.out / REPORT_FILE
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit must be at least 1, got {options.limit}")
    if options.samples < 0:
        raise ValueError(f"--samples must not be negative, got {options.samples}")
    earlier = file.exists()
    with speaking_of_options(command.config), _reported_notes(), bars() as progress:
        report = _inspect(command.config, options, progress)
        write_json(file, report.to_dict())
    if earlier:
        note(f"the report in {options.out} is replaced; --out takes another folder")
    print_report(report)
    say(f"{counted(report.errors, 'error')}, {counted(len(report.findings) - report.errors, 'warning')}")
    sheet = options.out / SHEET_FILE
    say(f"report: {file}" + (f"; samples: {sheet}" if sheet.exists() else ""))
    return 1 if report.errors else 0


def _inspect(config: AnyRun, options: InspectDataArguments, progress: Progress) -> Report:
    """Look through the data of a run and write the sheet of samples."""
    findings: list[Finding] = []
    gpu, threads = find_device(None).type == "cuda" and not config.runtime.cpu, default_workers() + 1
    config = _with_sizes(config, gpu, findings)
    parts: list[Part] = []
    statistics: dict[str, dict[str, object]] = {}
    labelled = config
    if isinstance(config, PoseRun):
        labelled = replace(config, evaluation=replace(config.evaluation, detections=None))
    # Training needs both.
    wanted: tuple[Split, ...] = ("train", "val") if options.split == "train" else (options.split,)
    for name in wanted:
        in_file, numbers = check_annotations(config.data, name) if isinstance(config, PoseRun) else ([], {})
        try:
            part = part_of(config, open_set(labelled, name), name)
        except (ValueError, OSError, ImportError) as error:
            fix = "say where the data lies: --data.root FOLDER" if config.data.root == DATA_ROOT else ""
            refusal = finding("error", "open", str(error), fix, split=name)
            # One error for one fault: the reader stops at the first of what the checks of the file count.
            findings += same_fault(in_file, str(error)) or [refusal]
            if config.data.val_share:
                break  # the other part is of the same files
            continue
        part.look_through(limit=options.limit, threads=threads, progress=partial(progress, f"{name} pictures"))
        findings += [*in_file, *findings_of(config, part)]
        statistics[name] = part.statistics() | numbers
        parts.append(part)
    findings = told_once((*findings, *_about_run(config, parts)), config.data.val_share > 0)
    sheet = options.out / SHEET_FILE
    sheet.unlink(missing_ok=True)
    if options.samples and parts and parts[0].split == options.split and parts[0].labelled:
        # How much samples are changed follows from the number of items.
        first, last = parts[0].source, parts[-1].source
        config = fitted(config, len(first), len(last), gpu=gpu, names=names_of(first))
        findings += _draw(config, parts[0], sheet, options.samples, progress)
    findings = [replace(one, what=option_names(one.what)) for one in findings]
    return Report(
        data=parts[0].source.name if parts else "",
        task=task_of(config),
        findings=tuple(sorted(findings, key=lambda one: one.severity != "error")),
        statistics=statistics,
    )


def _with_sizes(config: AnyRun, gpu: bool, findings: list[Finding]) -> AnyRun:
    """The run with the sizes that its training would find here; with its task's own where the weights are not there."""
    if not config.fit:
        return config
    try:
        return with_sizes(config, gpu=gpu)
    except (ValueError, OSError, RuntimeError) as error:
        fix = "name other weights to start from: --model.init; `hrformer models` lists them"
        findings.append(finding("error", "start_weights", str(error), fix, split="train"))
        return with_sizes(replace(config, model=replace(config.model, init="")), gpu=gpu)


def _about_run(config: AnyRun, parts: Sequence[Part]) -> Iterator[Finding]:
    """What fits neither one part nor the run alone."""
    if len(parts) == 2:
        yield from compare(*parts)
    train = next((part for part in parts if part.split == "train"), None)
    # 0 stands for a batch that is fitted to the set.
    if train is not None and len(train.source) < config.batch.total:
        what = f"one batch needs {counted(config.batch.total, 'item')}, the part has {len(train.source)}"
        fix = f"take smaller batches: --batch.total {len(train.source)} at most"
        yield finding("error", "batch", what, fix, split="train")
    if isinstance(config, PoseRun) and config.evaluation.detections is not None:
        try:
            open_set(config, "val")
        except (ValueError, OSError) as error:
            fix = "correct --evaluation.detections, or leave it out to validate on labelled boxes"
            yield finding("error", "detections", str(error), fix, split="val")


def _draw(config: AnyRun, part: Part, file: Path, samples: int, progress: Progress) -> Iterator[Finding]:
    """Write the sheet; what went wrong."""
    source = part.source
    transform, mixer = _augmentation(config, source)
    sheet, findings = draw_samples(
        source,
        transform,
        f"{source.name}, {part.split}" + (f", recipe {config.recipe}" if config.recipe else ""),
        samples=samples,
        seed=config.seed,
        avoid=part.unusable(),
        mixer=mixer,
        progress=partial(progress, "samples"),
    )
    if sheet is not None:
        write_picture(file, sheet)
    return (replace(one, split=part.split) for one in findings)


def _augmentation(config: AnyRun, source: ImageSet) -> tuple[Transform, BatchMixer | None]:
    """What a run does to samples, and to whole batches."""
    if isinstance(config, ClassificationRun):
        return TrainClassification(config.augment), BatchMixer(config.augment, len(names_of(source)))
    if isinstance(config, PoseRun):
        assert isinstance(source, PoseSet)
        return TrainPose(config.augment, source.skeleton), None
    return TrainSegmentation(config.augment), None


@contextmanager
def _reported_notes() -> Iterator[None]:
    """What readers put right in labels stands in the report, and is not said twice."""
    log = logging.getLogger(coco_keypoints.__name__)

    def is_other(record: logging.LogRecord) -> bool:
        return not hasattr(record, "kind")

    log.addFilter(is_other)
    try:
        yield
    finally:
        log.removeFilter(is_other)


def print_report(report: Report) -> None:
    """Numbers by part, labels side by side, findings."""
    say(f"{report.data or 'no data'}, {report.task}")
    for split, numbers in report.statistics.items():
        for line in _number_lines(split, numbers):
            say(line)
    tables = {split: numbers.get("classes") or numbers.get("joints") for split, numbers in report.statistics.items()}
    if tables := {split: table for split, table in tables.items() if table}:
        say("")
        say(_CAPTIONS[report.task])
        wide_console().print(_label_table(report.task, tables))
    say("")
    for one in report.findings:
        say(f"{one.severity}: {one.split}: {one.what}")
        if one.where:
            say(f"  where: {one.places}")
        if one.fix:
            say(f"  fix: {one.fix}")
    if not report.findings:
        say("nothing wrong was found")


def _number_lines(split: str, numbers: Mapping[str, Any]) -> list[str]:
    items, pictures, looked_at = numbers["items"], numbers["pictures"], numbers["looked_at"]
    seen = "all looked at" if looked_at == pictures else f"{looked_at} looked at"
    of_items = f"{counted(items, 'item')} on " if items != pictures else ""
    lines = [f"{split}: {of_items}{counted(pictures, 'picture')}, {seen}"]
    if "width" in numbers:
        sides = "; ".join(f"{name} {_spread(numbers[name])}" for name in ("width", "height"))
        lines.append(f"  {sides} pixels")
        mean, std = (" ".join(f"{value:.3f}" for value in numbers[name]) for name in ("mean", "std"))
        lines.append(f"  channels in 0..1: mean {mean}, standard deviation {std}")
    if "void" in numbers:
        lines.append(f"  void: {numbers['void']:.1%} of the pixels")
    if numbers.get("box_side"):
        lines.append(
            f"  people looked at: {numbers['people']}, {numbers['people_per_picture']:.1f} per picture; "
            f"longer side of the boxes {_spread(numbers['box_side'])} pixels"
        )
    if numbers.get("annotations"):
        lines.append(
            f"  annotations in the file: {numbers['annotations']}, of them {counted(numbers['crowds'], 'crowd')}, "
            f"{numbers['without_joints']} without joints, {numbers['without_area']} without area"
        )
    return lines


def _spread(values: Mapping[str, float]) -> str:
    low, high = values["smallest"], values["largest"]
    return f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}, median {values['median']:.0f}"


def _label_table(task: str, parts: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """Classes or joints, with a bar for the first part and numbers for all."""
    label, formats = "class", {"share": ".2%", "pictures": "d"}
    if task == "pose":
        label, formats = "joint", {"labelled": ".1%", "hidden": ".1%"}
    share, other = formats
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column(label, overflow="fold")
    table.add_column("", no_wrap=True, min_width=_BAR)
    for split in parts:
        table.add_column(split, justify="right")
        table.add_column(other, justify="right")
    by_name = [{row["name"]: row for row in part} for part in parts.values()]
    first = [*by_name[0].values()]
    largest = max(row[share] for row in first) or 1
    cut = ROWS_SHOWN // 2 if len(first) > ROWS_SHOWN else len(first)
    for number, row in enumerate([*first[:cut], *first[max(cut, len(first) - cut) :]]):
        if number == cut:
            table.add_row(f"… {len(first) - ROWS_SHOWN} more")
        cells = [row["name"], "█" * round(_BAR * row[share] / largest)]
        for part in by_name:
            found = part.get(row["name"])
            cells += [format(found[key], spec) if found else "–" for key, spec in formats.items()]
        table.add_row(*cells)
    return table
