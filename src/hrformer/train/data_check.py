"""Looking at the data before the first update: what would end a run later, or make its scores meaningless, ends it now.

The checks are those of ``hrformer inspect data``. Every file's header is read; pictures and masks are decoded as far as
that takes some seconds, spread over the set.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from hrformer.data.fingerprint import Fingerprint, changes, fingerprint, relative_name
from hrformer.data.inspection.parts import Part, compare, told_once
from hrformer.data.inspection.report import Finding, Severity
from hrformer.data.loader import default_workers
from hrformer.data.set_types import DataError, ImageSet
from hrformer.data.views import without
from hrformer.train.config import AnyRun, ClassificationRun, SegmentationRun
from hrformer.train.state import ResumeError
from hrformer.wording import counted

DECODED_PIXELS = 1_000_000_000
"""Pixels of each part that are decoded: about ten seconds on two cores."""

_LEAST = 100

_UNREADABLE = ("unreadable-picture", "unreadable-mask", "broken-file")
_LEFT_OUT = "nothing if they may be missing: --data.skip-broken leaves them out; else put good files in their place"

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
    """Look at both parts of a run's data.

    Args:
        config: of the run; with ``data.skip_broken`` everything is decoded, and what cannot be read is no error.
        sets: "train" and "val".
        progress: told how far it is.

    Returns:
        For each part what cannot be read: (file, reason) by the number of the picture; empty without ``skip_broken``.

    Raises:
        DataError: something would break the training or make its scores meaningless; all such findings, each with what
            to do.
    """
    skip = config.data.skip_broken
    parts, findings, broken = [], [], {}
    for split, source in sets.items():
        part = part_of(config, source, split)
        _look_through(part, everything=skip, progress=progress)
        parts.append(part)
        broken[split] = part.unreadable() if skip else {}
        findings += [one for one in part.findings() if not (skip and one.kind in _UNREADABLE)]
    findings = told_once((*findings, *compare(*parts)), config.data.val_share > 0)
    # One remark is shown: what comes of leaving files out before all others.
    findings.sort(key=lambda one: one.kind != "lost-class")
    errors = [one for one in findings if one.severity == "error"]
    if errors:
        raise DataError("; ".join(_sentence(one) for one in errors))
    # What readers put right they have told already.
    told = {note.text for source in sets.values() for note in getattr(source, "notes", ())}
    findings = [one for one in findings if one.what not in told]
    if findings:
        _log.warning(
            "%s about the data, such as: %s: %s; `hrformer inspect data` shows all, with what to do",
            counted(len(findings), "remark"),
            findings[0].split,
            findings[0].what,
        )
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
    """Refuse to go on with data that has changed.

    Args:
        config: of the run.
        before: from :func:`data_of`, of the checkpoint.
        now: of the data as it is.
        broken: what is left out since it cannot be read; it may have changed.
        out: run directory.

    Raises:
        ResumeError: it has changed.
    """
    told = []
    for split, found in now.items():
        names = {relative_name(file, _roots(config)) for file, _ in broken[split].values()}
        if text := changes(before[split], found, names):
            told.append(f"{split}: {text}")
    if told:
        raise ResumeError(f"the data has changed since the run in {out} began: {'; '.join(told)}. {_same_data(out)}")


@contextmanager
def taking_up(out: Path) -> Iterator[None]:
    """Say of data that cannot be opened that a run was to go on with it.

    Raises:
        ResumeError: in place of a ``DataError`` from within.
    """
    try:
        yield
    except DataError as error:
        raise ResumeError(
            f"the data of the run in {out} cannot be opened as it was when it began. {_same_data(out)}. What is wrong "
            f"now: {error}"
        ) from error


def _same_data(out: Path) -> str:
    return (
        "A run goes on only with the data it began with: put that back, or start a new run from the weights of this "
        f"one: give another --out and --model.init {out / 'best.safetensors'}"
    )


def _roots(config: AnyRun) -> list[Path]:
    other = getattr(config.data, "val_root", None)
    return [config.data.root, *config.data.more_roots, *([other] if other else [])]


def left_out(config: AnyRun, source: ImageSet, split: str, progress: Progress | None = None) -> ImageSet:
    """A part without what cannot be read, where ``data.skip_broken`` asks for that; every file left out is named.

    Raises:
        DataError: nothing is left.
    """
    if not config.data.skip_broken:
        return source
    part = part_of(config, source, split)
    _look_through(part, everything=True, progress=progress)
    tell_left_out(split, part.unreadable())
    return without(source, part.unreadable())


def tell_left_out(split: str, broken: Mapping[int, tuple[str, str]]) -> None:
    """Name files that were left out."""
    for file, reason in broken.values():
        _log.warning("%s: left out %s: %s", split, file, reason)


def _look_through(part: Part, *, everything: bool, progress: Progress | None) -> None:
    """Read the headers of all, and decode as many pictures as the time allows."""
    threads, name = default_workers() + 1, f"checking {part.split}"

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(name, done, total)

    part.read_headers(threads=threads, progress=tell)
    limit = None
    if part.pixels and not everything:
        limit = max(DECODED_PIXELS * len(part.first_items) // part.pixels, _LEAST)
    part.look_through(limit=limit, threads=threads, progress=tell)


def _sentence(finding: Finding) -> str:
    places = f" ({finding.places})" if finding.where else ""
    return f"{finding.split}: {finding.what}{places}: {finding.fix}"
