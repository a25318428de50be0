"""Curves as inline SVG: axes, ticks, legend, and the numbers as a title wherever the pointer rests. No script."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from statistics import median

Point = tuple[float, float]

WIDTH, HEIGHT = 440, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 36
"""Size of a chart and the margins of its field, in units of about a pixel."""

MOST_POINTS = 300
"""Points of one curve that are drawn; of more, the lowest and highest of each stretch."""

MOST_TITLES = 100
"""Stretches of a chart that show numbers under the pointer."""

LOG_SPAN = 30.0
"""Positive values that span more than this factor get a logarithmic axis."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One curve.

    Attributes:
        name: for the legend.
        points: (update, value), in order; values that are not finite are gaps.
        color: number of a colour of the page's style, 0 to 4.
        faint: a thin, pale line.
        dots: mark each point.
    """

    name: str
    points: Sequence[Point]
    color: int = 0
    faint: bool = False
    dots: bool = False


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


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    until: float,
    show: Callable[[float], str],
    tick: Callable[[float], str] | None = None,
    from_zero: bool = False,
    log: bool = True,
    best: Point | None = None,
    marks: Sequence[float] = (),
) -> str:
    """A figure with one chart over updates, or nothing where no series has a point.

    Args:
        title: above the chart.
        series: curves; later ones lie above.
        until: last update of the horizontal axis, which starts at 0.
        show: text of a value, under the pointer.
        tick: text of a value at the axis; None for ``show``.
        from_zero: whether the vertical axis starts at 0.
        log: let the axis be logarithmic where values span more than ``LOG_SPAN``.
        best: a point to ring.
        marks: updates at which to draw a vertical line: where the run was taken up again.
    """
    series = [one for one in series if any(math.isfinite(y) for _, y in one.points)]
    if not series:
        return ""
    across = Axis(low=0, high=max(until, 1), start=LEFT, end=WIDTH - RIGHT)
    up = _vertical([y for one in series for _, y in one.points if math.isfinite(y)], from_zero, log)
    legend = "".join(
        f'<li><i class="c{one.color}{" faint" if one.faint else ""}"></i>{escape(one.name)}</li>'
        for one in sorted(series, key=lambda one: (not one.faint, one.color))
    )
    note = ' <span class="quiet">logarithmic</span>' if up.log else ""
    inside = [
        *_grid(across, up, tick or show),
        *(
            f'<line class="mark" x1="{_n(x)}" x2="{_n(x)}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            for x in _places(across, marks)
        ),
        *(_curve(one, across, up) for one in series),
        _ring(best, across, up) if best else "",
        *_titles(series, across, show),
    ]
    return (
        f'<figure class="chart"><h3>{escape(title)}{note}</h3>'
        + (f'<ul class="legend">{legend}</ul>' if len(series) > 1 else "")
        + f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)} over updates">'
        + "".join(inside)
        + "</svg></figure>"
    )


def smoothed(points: Sequence[Point], span: int) -> list[Point]:
    """Exponential moving average over about ``span`` points, without a bias towards the first ones.

    Values that are not finite are left out of the average and stay gaps.
    """
    keep, total, weight = 1 - 2 / (span + 1), 0.0, 0.0
    result = []
    for x, y in points:
        if math.isfinite(y):
            total, weight = total * keep + y, weight * keep + 1
            result.append((x, total / weight))
        else:
            result.append((x, math.nan))
    return result


def running_median(points: Sequence[Point], span: int) -> list[Point]:
    """Median of the last ``span`` finite values: single outliers leave no trace."""
    result, recent = [], deque[float](maxlen=span)
    for x, y in points:
        if math.isfinite(y):
            recent.append(y)
        result.append((x, median(recent) if recent else math.nan))
    return result


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


def count_text(value: float) -> str:
    """A number of updates, short: 500, 1500, 20k, 1.5M."""
    for limit, unit in ((1e6, "M"), (1e4, "k")):
        if value >= limit:
            return f"{value / (1e6 if unit == 'M' else 1e3):.4g}{unit}"
    return f"{value:.4g}"


def _vertical(values: Sequence[float], from_zero: bool, log: bool) -> Axis:
    low, high = min(values), max(values)
    if log and not from_zero and low > 0 and high / low > LOG_SPAN:
        return Axis(low=low * 0.9, high=high * 1.1, start=HEIGHT - BOTTOM, end=TOP, log=True)
    if from_zero:
        low = min(low, 0.0)
    room = 0.05 * (high - low) or 0.1 * abs(high) or 1.0
    floor = low if from_zero and low == 0 else low - room
    return Axis(low=floor, high=high + room, start=HEIGHT - BOTTOM, end=TOP)


def _grid(across: Axis, up: Axis, tick: Callable[[float], str]) -> Iterable[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for value in log_ticks(up.low, up.high) if up.log else ticks(up.low, up.high):
        y = _n(up.place(value))
        yield f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y}" y2="{y}"/>'
        yield f'<text x="{LEFT - 6}" y="{y}" dy=".35em" text-anchor="end">{escape(tick(value))}</text>'
    for value in ticks(across.low, across.high):
        x = across.place(value)
        # A number at the very end would be cut off.
        anchor = "end" if x > right - 12 else "middle"
        yield f'<line class="tick" x1="{_n(x)}" x2="{_n(x)}" y1="{bottom}" y2="{bottom + 4}"/>'
        place = WIDTH - 2 if anchor == "end" else x
        yield f'<text x="{_n(place)}" y="{bottom + 15}" text-anchor="{anchor}">{count_text(value)}</text>'
    yield f'<line class="tick" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>'
    yield f'<text class="name" x="{right}" y="{HEIGHT - 4}" text-anchor="end">updates</text>'


def _curve(series: Series, across: Axis, up: Axis) -> str:
    path, circles, pen = [], [], "M"
    for x, y in _thinned(series.points):
        if not math.isfinite(y):
            pen = "M"
            continue
        place = f"{_n(across.place(x))} {_n(up.place(y))}"
        path.append(f"{pen}{place}")
        pen = "L"
        if series.dots:
            horizontal, vertical = place.split()
            circles.append(f'<circle class="c{series.color}" cx="{horizontal}" cy="{vertical}" r="2.5"/>')
    faint = " faint" if series.faint else ""
    shown = circles if len(circles) <= MOST_TITLES else []
    return f'<path class="c{series.color}{faint}" d="{"".join(path)}"/>{"".join(shown)}'


def _ring(point: Point, across: Axis, up: Axis) -> str:
    if not math.isfinite(point[1]):
        return ""
    return f'<circle class="ring" cx="{_n(across.place(point[0]))}" cy="{_n(up.place(point[1]))}" r="6"/>'


def _places(across: Axis, values: Sequence[float]) -> list[float]:
    return [across.place(value) for value in values if across.low <= value <= across.high]


def _thinned(points: Sequence[Point]) -> list[Point]:
    """At most about ``MOST_POINTS``; what sticks out is kept."""
    if len(points) <= MOST_POINTS:
        return list(points)
    size = math.ceil(2 * len(points) / MOST_POINTS)
    kept: list[Point] = []
    for start in range(0, len(points), size):
        stretch = [point for point in points[start : start + size] if math.isfinite(point[1])]
        if len(stretch) < 2:
            kept += stretch or [points[start]]
        else:
            ends = {min(stretch, key=_value), max(stretch, key=_value)}
            kept += sorted(ends)
    # The last value is the one people look for.
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _value(point: Point) -> float:
    return point[1]


def _titles(series: Sequence[Series], across: Axis, show: Callable[[float], str]) -> Iterable[str]:
    """Invisible strips, each with the values in the middle of it."""
    xs = sorted({x for one in series for x, _ in one.points})
    size = math.ceil(len(xs) / MOST_TITLES)
    chosen = xs[size // 2 :: size]
    tables = [dict(one.points) for one in series]
    edges = [across.start, *(across.place((a + b) / 2) for a, b in pairwise(chosen)), across.end]
    for number, x in enumerate(chosen):
        lines = [f"after update {x:.0f}"]
        for one, table in zip(series, tables, strict=True):
            if x in table:
                lines.append(f"{one.name}: {show(table[x]) if math.isfinite(table[x]) else table[x]}")
        left, width = edges[number], edges[number + 1] - edges[number]
        yield (
            f'<rect class="hit" x="{_n(left)}" y="{TOP}" width="{_n(width)}" height="{HEIGHT - TOP - BOTTOM}">'
            f"<title>{escape(chr(10).join(lines))}</title></rect>"
        )


def _n(value: float) -> str:
    """A coordinate, with as many digits as can be seen."""
    return f"{value:.1f}".removesuffix(".0")
