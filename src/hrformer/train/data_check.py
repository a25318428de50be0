"""Looking at the data before the first update: what would end a run later, or make its scores meaningless, ends it now.

The checks are those of ``hrformer inspect data``. Every file's header is read; pictures and masks are decoded as far as
that takes some seconds, spread over the set.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from hrformer.data.fingerprint import Fingerprint, changes, fingerprint, relative_name
from hrformer.data.inspection.parts import Part, compare, told_once
from hrformer.data.inspection.report import Finding, Severity
from hrformer.data.loader import default_workers
from hrformer.data.set_types import DataError, ImageSet
from hrformer.data.views import without
from hrformer.train.config import AnyRun, ClassificationRun, SegmentationRun
from hrformer.train.run_folder import ResumeError
from hrformer.wording import counted

DECODED_PIXELS = 1_000_000_000  # of each part: about ten seconds on two cores
_LEAST = 100  # pictures
_UNREADABLE = ("unreadable-picture", "unreadable-mask", "broken-file")
_LEFT_OUT = "nothing if they may be missing: --data.skip-broken leaves them out; else put good files in their place"
_SAME_DATA = (
    "A run goes on only with the data it began with: put that back, or start a new run from the weights of this one: "
    "give another --out and --model.init {}"
)

Progress = Callable[[str, int, int], object]
"""Called with what is being done, how much of it is done, and how much there is."""

_log = logging.getLogger("hrformer.train")


def part_of(config: AnyRun, source: ImageSet, split: str) -> Part:
    """A part of a run's data with all checks of its task."""
    return Part(
        source,
        split,
        crop=config.augment.size,
        # Small pictures are enlarged on purpose there.
        may_enlarge=isinstance(config, ClassificationRun) and config.augment.crop == "padded",
        short_side=config.augment.short_side if isinstance(config, SegmentationRun) else None,
    )


def check_data(
    config: AnyRun, sets: Mapping[str, ImageSet], progress: Progress | None = None
) -> dict[str, dict[int, tuple[str, str]]]:
    """Look at both parts of a run's data, "train" and "val"; with ``data.skip_broken`` everything is decoded.

    Returns:
        For each part what cannot be read: (file, reason) by the number of the picture; empty without ``skip_broken``,
        with which that is no error.

    Raises:
        DataError: something would break the training or make its scores meaningless; all such findings, each with what
            to do.
    """
    skip = config.data.skip_broken
    parts, findings, broken = [], [], {}
    for split, source in sets.items():
        part = _looked_through(config, source, split, progress)
        parts.append(part)
        broken[split] = part.unreadable() if skip else {}
        findings += [one for one in part.findings() if not (skip and one.kind in _UNREADABLE)]
    findings = told_once((*findings, *compare(*parts)), config.data.val_share > 0)
    # One remark is shown: what comes of leaving files out before all others.
    findings.sort(key=lambda one: one.kind != "lost-class")
    if errors := [one for one in findings if one.severity == "error"]:
        what = (f"{one.split}: {one.what}{f' ({one.places})' if one.where else ''}: {one.fix}" for one in errors)
        raise DataError("; ".join(what))
    # What readers put right they have told already.
    told = {note.text for source in sets.values() for note in getattr(source, "notes", ())}
    findings = [one for one in findings if one.what not in told]
    if findings:
        first = f"{counted(len(findings), 'remark')} about the data, such as: {findings[0].split}: {findings[0].what}"
        _log.warning("%s; `hrformer inspect data` shows all, with what to do", first)
    return broken


def findings_of(config: AnyRun, part: Part) -> list[Finding]:
    """What is wrong with a part; with ``data.skip_broken``, what cannot be read is no error as long as anything can."""
    found = list(part.findings())
    if not config.data.skip_broken:
        return found
    nothing = len(part.unreadable()) == len(part.first_items)
    fix = "put good files in their place: nothing else is left of this part" if nothing else _LEFT_OUT
    severity: Severity = "error" if nothing else "warning"
    return [replace(one, severity=severity, fix=fix) if one.kind in _UNREADABLE else one for one in found]


def data_of(config: AnyRun, sets: Mapping[str, ImageSet]) -> dict[str, Fingerprint]:
    """What the parts of a run's data consist of, to be kept with its checkpoints."""
    return {split: fingerprint(source, _roots(config)) for split, source in sets.items()}


def check_same_data(
    config: AnyRun,
    before: Mapping[str, Fingerprint],
    now: Mapping[str, Fingerprint],
    broken: Mapping[str, Mapping[int, tuple[str, str]]],
    out: Path,
) -> None:
    """Raise a ResumeError if data has changed since the checkpoint, other than what is left out as it cannot be read.

    ``before`` and ``now`` are from :func:`data_of`, ``broken`` from :func:`check_data`.
    """
    told = []
    for split, found in now.items():
        names = {relative_name(file, _roots(config)) for file, _ in broken[split].values()}
        if text := changes(before[split], found, names):
            told.append(f"{split}: {text}")
    if told:
        fix = _SAME_DATA.format(out / "best.safetensors")
        raise ResumeError(f"the data has changed since the run in {out} began: {'; '.join(told)}. {fix}")


@contextmanager
def taking_up(out: Path) -> Iterator[None]:
    """Say of data that cannot be opened that a run was to go on with it: a ResumeError in place of a DataError."""
    try:
        yield
    except DataError as error:
        what = f"the data of the run in {out} cannot be opened as it was when it began"
        fix = _SAME_DATA.format(out / "best.safetensors")
        raise ResumeError(f"{what}. {fix}. What is wrong now: {error}") from error


def _roots(config: AnyRun) -> list[Path]:
    other = getattr(config.data, "val_root", None)
    return [config.data.root, *config.data.more_roots, *([other] if other else [])]


def left_out(config: AnyRun, source: ImageSet, split: str, progress: Progress | None = None) -> ImageSet:
    """A part without what cannot be read, where ``data.skip_broken`` asks for that; every file left out is named."""
    if not config.data.skip_broken:
        return source
    part = _looked_through(config, source, split, progress)
    tell_left_out(split, part.unreadable())
    return without(source, part.unreadable())


def tell_left_out(split: str, broken: Mapping[int, tuple[str, str]]) -> None:
    """Name files that were left out."""
    for file, reason in broken.values():
        _log.warning("%s: left out %s: %s", split, file, reason)


def _looked_through(config: AnyRun, source: ImageSet, split: str, progress: Progress | None) -> Part:
    """A part with the headers of all pictures read, and as many decoded as there is time for, or all."""
    part, threads = part_of(config, source, split), default_workers() + 1
    tell = partial(progress, f"checking {split}") if progress is not None else None
    part.read_headers(threads=threads, progress=tell)
    some = max(DECODED_PIXELS * len(part.first_items) // max(part.pixels, 1), _LEAST)
    limit = some if part.pixels and not config.data.skip_broken else None
    part.look_through(limit=limit, threads=threads, progress=tell)
    return part
