"""Curves as SVG for the summary page, drawn by matplotlib; their colours are the page's, light or dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from itertools import pairwise
from statistics import median
from typing import Any

from hrformer.train.record import Point

# Size of a chart and the margins of its field, in units of about a pixel.
WIDTH, HEIGHT = 440, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 8, 36
MOST_TITLES = 100  # places of a chart that show numbers under the pointer
LOG_SPAN = 30.0  # positive values that span more than this factor get a logarithmic axis

# Variables of the page's style, and what stands for each of them while matplotlib draws.
COLORS = {"c0": "#2f6fb3", "c1": "#c9691a", "c2": "#2b8a57", "c3": "#8557b8"}
COLORS |= {"text": "#22211f", "quiet": "#68655f", "line": "#dedad2"}

STYLE: dict[Any, Any] = {
    "path.simplify_threshold": 0.6,  # long runs have more points than a page should hold, or a screen can show
    "font.size": 11,
    "font.family": "DejaVu Sans",
    "svg.fonttype": "none",  # words stay words, in the page's own type
    **dict.fromkeys(("axes.spines.left", "axes.spines.top", "axes.spines.right"), False),
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), COLORS["quiet"]),
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": COLORS["line"],
    "ytick.major.size": 0,
    "xaxis.labellocation": "right",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One curve."""

    name: str  # for the legend
    points: Sequence[Point]  # (update, value), in order; values that are not finite are gaps
    color: int = 0  # number of a colour of the page's style, 0 to 3
    faint: bool = False  # a thin, pale line
    dots: bool = False  # mark each point


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A figure of the page."""

    title: str
    curves: Sequence[Curve]  # for its legend
    svg: str
    log: bool  # whether the vertical axis is logarithmic


def lacking() -> str:
    """What the page does without on this machine, and the remedy; empty where it is whole."""
    for package, what in (("jinja2", "is not written"), ("matplotlib", "has no curves")):
        if find_spec(package) is None:
            return f"summary.html {what}, since {package} is not installed: pip install 'hrformer[train]'"
    return ""


def line_chart(
    title: str,
    curves: Sequence[Curve],
    *,
    until: float,
    show: Callable[[float], str],
    from_zero: bool = False,
    log: bool = True,
    best: Point | None = None,
    resumed: Sequence[float] = (),
) -> Chart | None:
    """Draw curves over updates, later ones above; None where no curve has a point.

    ``until`` is the last update of the horizontal axis, which starts at 0, and ``show`` gives the text of a value. The
    vertical axis may start at 0, and be logarithmic where values span more than ``LOG_SPAN``. The ``best`` point has a
    ring; at the updates after which the run was ``resumed`` are dotted lines.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator

    values = [y for curve in curves for _, y in curve.points if math.isfinite(y)]
    if not values:
        return None
    low, high, until = min(values), max(values), max(until, 1)
    log = log and not from_zero and low > 0 and high / low > LOG_SPAN
    # The salt keeps names inside the drawing apart from those of the page's other charts.
    with rc_context(STYLE | {"svg.hashsalt": title}):
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72))
        field = (LEFT / WIDTH, BOTTOM / HEIGHT, 1 - (LEFT + RIGHT) / WIDTH, 1 - (TOP + BOTTOM) / HEIGHT)
        axes = figure.add_axes(field, xlim=(0, until), xlabel="updates", yscale="log" if log else "linear")
        for update in resumed:
            axes.axvline(update, color=COLORS["quiet"], linewidth=1, linestyle=":")
        for curve in curves:
            x, y = zip(*curve.points, strict=True) if curve.points else ((), ())
            marker = "." if curve.dots and len(x) <= MOST_TITLES else ""
            width, alpha = (1.0, 0.35) if curve.faint else (1.8, 1.0)
            axes.plot(x, y, color=COLORS[f"c{curve.color}"], marker=marker, linewidth=width, alpha=alpha)
        if best is not None and math.isfinite(best[1]):
            axes.plot(*best, "o", markersize=11, fillstyle="none", color=COLORS["text"], clip_on=False)
        if from_zero:
            axes.set_ylim(bottom=min(low, 0.0))
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        few_powers = log and math.log10(high / low) < 2.5
        log_ticks = LogLocator(subs=(1, 2, 5) if few_powers else (1,), numticks=7)
        axes.yaxis.set_major_locator(log_ticks if log else MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: show(value)))
        axes.yaxis.set_minor_locator(NullLocator())
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return Chart(title=title, curves=curves, svg=_for_page(file.getvalue(), _titles(curves, until, show)), log=log)


def _for_page(svg: str, inside: str) -> str:
    """The drawing without what only a file of its own needs, in the page's colours, and with more inside."""
    svg = re.sub(r' (id="[\w.]+_\d+"|xmlns(:xlink)?="[^"]*")', "", svg[svg.index("<svg") :])
    for name, color in COLORS.items():
        svg = svg.replace(color, f"var(--{name})")
    return svg.replace("</svg>", f"{inside}</svg>")


def _titles(curves: Sequence[Curve], until: float, show: Callable[[float], str]) -> str:
    """Invisible strips that tell the values in their middle to whoever points at them."""
    tables = [(curve.name, dict(curve.points)) for curve in curves]
    # The curve on top is the one that people look at.
    updates = [x for x, _ in curves[-1].points if x <= until]
    step = max(math.ceil(len(updates) / MOST_TITLES), 1)
    chosen = updates[step // 2 :: step]
    middles = [LEFT + x / until * (WIDTH - LEFT - RIGHT) for x in chosen]
    edges = [LEFT, *((a + b) / 2 for a, b in pairwise(middles)), WIDTH - RIGHT]
    strips, height = [], HEIGHT - TOP - BOTTOM
    for x, (left, right) in zip(chosen, pairwise(edges), strict=True):
        lines = [f"after update {x:.0f}", *(f"{name}: {show(table[x])}" for name, table in tables if x in table)]
        strips.append(
            f'<rect class="hit" fill="none" x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" height="{height}">'
            f"<title>{escape(chr(10).join(lines))}</title></rect>"
        )
    return "".join(strips)


def running_median(points: Sequence[Point]) -> list[Point]:
    """Medians of a thirtieth of the values each, in which single outliers leave no trace, at about 300 places."""
    fine = [(x, y) for x, y in points if math.isfinite(y)]
    span, step = max(len(fine) // 30, 5), max(len(fine) // 300, 1)
    ends = range(len(fine), 0, -step)[::-1]
    return [(fine[end - 1][0], median(y for _, y in fine[max(end - span, 0) : end])) for end in ends]
