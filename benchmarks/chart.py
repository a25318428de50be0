"""The picture of a run, by matplotlib: bars for groups, curves for sweeps."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hrformer.files import write_file
from records import Document, Record

BAR, CURVES = 0.3, 3.5
"""Inches: height of a bar, and of a field of curves."""


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(document: Document, title: str, path: Path) -> None:
    """Write an SVG file with a field for every group that has figures."""
    import matplotlib
    from matplotlib.figure import Figure

    groups: dict[str, list[Record]] = {}
    for record in document.records:
        if record.rounds:
            groups.setdefault(record.group, []).append(record)
    swept = [len({(one.batch, one.size, one.candidate.window) for one in records}) > 1 for records in groups.values()]
    heights = [
        CURVES if curves else 0.8 + BAR * len(records) for curves, records in zip(swept, groups.values(), strict=True)
    ]
    figure = Figure(figsize=(10, 1 + sum(heights)), layout="constrained")
    conditions = document.conditions
    machine = conditions["gpus"][0] if conditions["device"] == "cuda" and conditions["gpus"] else conditions["cpu"]
    about = f"{conditions['date'][:10]}, {machine}, {conditions['threads']} threads, torch {conditions['torch']}"
    figure.suptitle(f"{title}\n{about}", fontsize="medium")
    if groups:
        fields = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
        for field, (name, records), curves in zip(fields, groups.items(), swept, strict=True):
            (_curves if curves else _bars)(field, records)
            field.set_title(name, fontsize="medium", loc="left")
    # Text stays text, which can be searched and copied.
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        write_file(path, lambda part: figure.savefig(part, format="svg"))


def _bars(field: Any, records: Sequence[Record]) -> None:
    """Medians from zero, quartiles as a line across the end; one colour for every network."""
    models = list(dict.fromkeys((one.candidate.origin, one.candidate.model) for one in records))
    for place, record in enumerate(records):
        low, median, high = record.quartiles
        color = f"C{models.index((record.candidate.origin, record.candidate.model))}"
        bar = field.barh(place, median, color=color, xerr=[[median - low], [high - median]])
        rate = "" if record.images_per_second is None else f", {record.images_per_second:.3g} /s"
        field.bar_label(bar, [record.shown(median) + rate], padding=6, fontsize="small")
    labels = [": ".join(filter(None, (one.candidate.label, one.part))) for one in records]
    field.set_yticks(range(len(records)), labels, fontsize="small")
    field.invert_yaxis()
    field.margins(x=0.2)
    field.set_xlabel("MiB" if "memory" in records[0].kind else "seconds", fontsize="small")


def _curves(field: Any, records: Sequence[Record]) -> None:
    """Medians against what is swept, both axes logarithmic: growth in proportion is a line of slope 1."""
    curves: dict[str, list[tuple[float, float]]] = {}
    over = "window" if records[0].candidate.window else "batch" if records[0].batch != records[-1].batch else "pixels"
    for record in records:
        window = record.candidate.window or 0
        place = {"batch": record.batch, "window": window, "pixels": record.size[0] * record.size[1]}[over]
        name = record.candidate.label.replace(f", window {window}", "")
        curves.setdefault(name, []).append((place, record.median))
    places = sorted({place for points in curves.values() for place, _ in points})
    for name, points in curves.items():
        field.loglog(*zip(*sorted(points), strict=True), marker="o", label=name)
    field.set_xticks(places, [f"{place:g}" for place in places])
    field.minorticks_off()
    field.set_xlabel(over, fontsize="small")
    field.set_ylabel("seconds", fontsize="small")
    field.legend(fontsize="small")
