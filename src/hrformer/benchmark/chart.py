"""The picture of a run as one SVG file: bars for groups, curves for sweeps; no script, nothing loaded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from hrformer.benchmark.records import UNITS, Document, Record

WIDTH = 860
NAMES, VALUES = 330, 150
"""Width of the columns of names and of values, left and right of the bars."""
BAR, GAP, TITLE, PLOT = 16, 8, 44, 230
"""Height of a bar, of the space below it, of a title, and of a field of curves."""

COLORS = ("#2a6f97", "#e07a1f", "#4f8a4c", "#a33b5e", "#7a5ca8", "#8a7a3a", "#3a8a8a", "#666666")
"""By network, in order of appearance; told apart in print too, since every bar and curve has its name beside it."""

STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#222}.title{font-weight:600;font-size:15px}.quiet{fill:#666}"
    ".grid{stroke:#ddd}.axis{stroke:#888}.spread{stroke:#222;stroke-width:1.5}.curve{fill:none;stroke-width:2}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """A range of values and where it lies on the page.

    Attributes:
        low: value at ``start``.
        high: value at ``end``.
        start: coordinate.
        end: coordinate.
        log: whether equal factors have equal lengths.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """Coordinate of a value."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        share = ((math.log(value) if self.log else value) - low) / (high - low)
        return self.start + share * (self.end - self.start)


def draw(document: Document, title: str) -> str:
    """SVG text.

    Args:
        document: the run.
        title: above everything.
    """
    groups: dict[str, list[Record]] = {}
    for record in document.records:
        groups.setdefault(record.group, []).append(record)
    over = {name: swept for name, records in groups.items() if (swept := swept_dimension(records))}
    colors = _colors(document.records)
    body: list[str] = []
    y = 56.0
    for name, records in groups.items():
        drawn = [record for record in records if record.rounds]
        if not drawn:
            continue
        parts, height = _curves(name, drawn, over[name], colors, y) if name in over else _bars(name, drawn, colors, y)
        body += parts
        y += height
    about = f"{document.conditions['date'][:10]}, {_machine(document)}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y:.0f}" width="{WIDTH}" height="{y:.0f}">'
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>'
        f'<text class="title" x="16" y="26">{escape(title)}</text>'
        f'<text class="quiet" x="16" y="45">{escape(about)}</text>' + "".join(body) + "</svg>\n"
    )


def swept_dimension(records: Sequence[Record]) -> str:
    """ "batch", "pixels" or "window" where one candidate was measured at several of them; empty else."""
    for name in ("batch", "pixels", "window"):
        points: dict[str, set[float]] = {}
        for record in records:
            points.setdefault(_series(record), set()).add(position(record, name))
        if any(len(values) > 1 for values in points.values()):
            return name
    return ""


def position(record: Record, over: str) -> float:
    """Where a record stands in a sweep."""
    if over == "batch":
        return record.batch
    return record.size[0] * record.size[1] if over == "pixels" else record.candidate.window or 0


def shown(value: float, unit: str) -> str:
    """A value with its unit, three digits."""
    if unit == "MiB":
        return f"{value:.0f} MiB" if value >= 10 else f"{value:.2g} MiB"
    return f"{value:.3g} s" if value >= 1 else f"{value * 1000:.3g} ms"


def _series(record: Record) -> str:
    """Label without the window, so that a sweep over windows is one curve."""
    window = record.candidate.window
    label = record.candidate.label
    return label if window is None else label.replace(f", window {window}", "")


def _colors(records: Iterable[Record]) -> dict[str, str]:
    names = dict.fromkeys(f"{record.candidate.origin} {record.candidate.model}" for record in records)
    return {name: COLORS[number % len(COLORS)] for number, name in enumerate(names)}


def _color(record: Record, colors: dict[str, str]) -> str:
    return colors[f"{record.candidate.origin} {record.candidate.model}"]


def _machine(document: Document) -> str:
    gpus, conditions = document.conditions["gpus"], document.conditions
    where = gpus[0] if conditions["device"] == "cuda" and gpus else conditions["cpu"]
    return f"{where}, {conditions['threads']} threads, torch {conditions['torch']}"


def _bars(title: str, records: Sequence[Record], colors: dict[str, str], top: float) -> tuple[list[str], float]:
    """Horizontal bars from zero: median, quartiles as a line across the end."""
    unit = UNITS[records[0].kind]
    axis = Axis(low=0, high=max(record.summary.p75 for record in records), start=NAMES, end=WIDTH - VALUES)
    parts = [f'<text class="title" x="16" y="{top + 24:.0f}">{escape(title)}</text>']
    y = top + TITLE - 8
    for record in records:
        found, middle = record.summary, y + BAR / 2
        name = record.candidate.label + (f": {record.part}" if record.part else "")
        value = shown(found.median, unit)
        if record.images_per_second is not None:
            value += f", {record.images_per_second:.3g} /s"
        end = axis.place(found.median)
        parts += [
            f'<text x="{NAMES - 8}" y="{middle:.1f}" dy=".35em" text-anchor="end">{escape(_cut(name))}</text>',
            f'<rect x="{NAMES}" y="{y:.1f}" width="{max(end - NAMES, 1):.1f}" height="{BAR}"'
            f' fill="{_color(record, colors)}"><title>{escape(name)}: {escape(value)}</title></rect>',
            f'<line class="spread" x1="{axis.place(found.p25):.1f}" x2="{axis.place(found.p75):.1f}"'
            f' y1="{middle:.1f}" y2="{middle:.1f}"/>',
            f'<text x="{axis.place(found.p75) + 8:.1f}" y="{middle:.1f}" dy=".35em">{escape(value)}</text>',
        ]
        y += BAR + GAP
    return parts, y - top + 12


def _curves(
    title: str, records: Sequence[Record], over: str, colors: dict[str, str], top: float
) -> tuple[list[str], float]:
    """Median against what is swept, both axes logarithmic: growth in proportion is a line of slope 1."""
    unit = UNITS[records[0].kind]
    series: dict[str, list[Record]] = {}
    for record in records:
        series.setdefault(_series(record) + (f": {record.part}" if record.part else ""), []).append(record)
    xs = [position(record, over) for record in records]
    ys = [value for record in records for value in (record.summary.p25, record.summary.p75)]
    field_top, bottom = top + TITLE, top + TITLE + PLOT
    across = Axis(low=min(xs) * 0.9, high=max(xs) * 1.1, start=70, end=WIDTH - NAMES, log=True)
    up = Axis(low=min(ys) * 0.8, high=max(ys) * 1.25, start=bottom, end=field_top, log=True)
    parts = [f'<text class="title" x="16" y="{top + 24:.0f}">{escape(title)}</text>']
    parts += _grid(across, up, unit, sorted(set(xs)), over)
    lowest = -math.inf
    # Names stand right of their curves' ends, from the top down, pushed apart where they would touch.
    for name, points in sorted(series.items(), key=lambda one: -one[1][-1].summary.median):
        points = sorted(points, key=lambda record: position(record, over))
        places = [(across.place(position(one, over)), up.place(one.summary.median)) for one in points]
        color = _color(points[0], colors)
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path class="curve" d="{path}" stroke="{color}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"/>' for x, y in places]
        lowest = max(places[-1][1], lowest + 16)
        parts.append(
            f'<text x="{places[-1][0] + 10:.1f}" y="{lowest:.1f}" dy=".35em" style="fill:{color}">'
            f"{escape(_cut(name))}</text>"
        )
    return parts, max(bottom, lowest) - top + 44


def _grid(across: Axis, up: Axis, unit: str, xs: Sequence[float], over: str) -> Iterator[str]:
    left, right, bottom = across.start, across.end, up.start
    values = log_ticks(up.low, up.high)
    for value in values if len(values) > 1 else ticks(up.low, up.high):
        y = up.place(value)
        yield f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{left - 6}" y="{y:.1f}" dy=".35em" text-anchor="end">{escape(shown(value, unit))}</text>'
    yield f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom:.1f}" y2="{bottom:.1f}"/>'
    last = -math.inf
    for value in xs:
        x = across.place(value)
        yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom:.1f}" y2="{bottom + 4:.1f}"/>'
        if x - last >= 46:
            text = f"{value / 1000:.3g}k" if value >= 10000 else f"{value:.4g}"
            yield f'<text x="{x:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{text}</text>'
            last = x
    yield f'<text class="quiet" x="{right}" y="{bottom + 36:.1f}" text-anchor="end">{over}</text>'


def _cut(name: str, most: int = 48) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers within a range."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within a range, with 2 and 5 times them where there are few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    wide = math.log10(high / low)
    factors = (1, 2, 5) if wide < 2.5 else (1,)
    found = [factor * 10.0**power for power in decades for factor in factors]
    found = [value for value in found if low * 0.999 <= value <= high * 1.001]
    return found[:: max(1, round(len(found) / 6))]
