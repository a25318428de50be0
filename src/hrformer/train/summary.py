"""The page of a run: ``summary.html``, one file without anything from outside, made from the run directory.

Its curves are SVG drawn by matplotlib, in the page's colours, light or dark.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache, partial
from html import escape
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path, PurePath
from statistics import median
from typing import Any

from hrformer.data.set_types import ImageSet
from hrformer.evaluate.protocols import Evaluation
from hrformer.files import write_file
from hrformer.models.model import VisionModel
from hrformer.train.config import AnyRun
from hrformer.train.progress import duration_text, label_of, number_text, share_text
from hrformer.train.record import Point, RunRecord, flat, read_json, read_record
from hrformer.train.summary_pictures import ValidationPicture, choose_items, draw_examples, predict_examples

FILE, PICTURES_FILE = "summary.html", "pictures.json"
MOST_CURVES = 4  # of validation scores, and of losses, in one chart

_OWN_SCORE = {
    "classification": "The number is the probability given to the true class.",
    "pose": "The number is the object keypoint similarity (OKS), over the labelled joints.",
    "segmentation": "The number is the mean IoU of the picture by itself.",
}
_VERBS = {"classification": "classify", "pose": "pose", "segmentation": "segment"}  # of ``hrformer predict``

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


def summarise(
    out: Path, config: AnyRun, source: ImageSet, model: VisionModel | None, evaluation: Evaluation | None
) -> Path:
    """Write the page with new pictures of the validation set, ``source``; returns its path.

    There are predictions of the model, always for the same pictures, and the worst of the evaluation; none of either
    without it.
    """
    examples, count = [], config.log.pictures
    if model is not None and count:
        # The same pictures in all runs, whatever their seeds, so that pages can be laid side by side.
        examples = predict_examples(model, source, choose_items(source, count, seed=0), config.evaluation)
    worst = evaluation.worst[:count] if evaluation is not None else ()
    return write_summary(out, pictures=draw_examples(source, examples), worst=draw_examples(source, worst))


def write_summary(
    out: Path,
    *,
    pictures: Sequence[ValidationPicture] | None = None,
    worst: Sequence[ValidationPicture] | None = None,
) -> Path:
    """Write ``summary.html`` from what lies in a run directory, also while the run goes on; returns its path.

    Pictures of the validation set, and its worst ones, stay those of the last call where None is given: they are kept
    in ``pictures.json``, so that the page can be written again without the model and the data. No page is written
    without jinja2.
    """
    groups = {"pictures": pictures, "worst": worst}
    given = {name: [asdict(one) for one in group] for name, group in groups.items() if group is not None}
    kept = read_json(out / PICTURES_FILE) | given
    if given:
        stored = json.dumps(kept, allow_nan=False)
        write_file(out / PICTURES_FILE, lambda part: part.write_text(stored, encoding="utf-8"))
    if find_spec("jinja2") is not None:
        text = _template().render(_contents(out, read_record(out), kept))
        write_file(out / FILE, lambda part: part.write_text(text, encoding="utf-8"))
    return out / FILE


@cache
def _template() -> Any:
    """The page's, which lies beside this file as its style does."""
    from jinja2 import Environment, FileSystemLoader

    beside = FileSystemLoader(Path(__file__).parent)
    templates = Environment(loader=beside, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    templates.filters |= {"label": label_of, "cell": _cell, "share": share_text, "date": _date, "fact": _fact}
    templates.filters["name"] = lambda file: PurePath(file).name
    return templates.get_template(FILE)


def _contents(out: Path, record: RunRecord, kept: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows."""
    settings, last, best, weights = flat(record.config), record.last, record.best, out / "best.safetensors"
    name, recipe = out.resolve().name, str(settings.get("recipe") or "")
    model = str(record.start.get("model") or settings.get("model.name") or "")
    root = PurePath(str(settings.get("data.root") or ".")).name
    about = [model, root, f"seed {settings['seed']}" if "seed" in settings else "", f"run directory {name}"]
    end = record.events[-1] if record.events else {}
    reason = end.get("interrupted") or end.get("error")
    state = record.state if record.state != "running" else "running, or killed without a word"
    scores, several = (best or last).get("scores", {}), bool(best) and best["update"] != last["update"]
    sittings = {
        _date(start["time"]): f"taken up again after update {start['update']}" if start.get("resumed") else "started"
        for start in record.starts
    }
    own = ("event", "update", "epoch", "time", "versions", "resumed")
    facts = {label_of(key): value for key, value in record.start.items() if key not in own}
    return {
        "record": record,
        "title": recipe or model or name,
        "name": name,
        "about": [part for part in about if part],
        "state": f"{state}: {reason}" if reason else state,
        "end": end,
        "weights": str(weights) if weights.exists() and last else "",
        "verb": _VERBS.get(last.get("task", "")),
        "tiles": list(_tiles(record)),
        "lacking": lacking(),
        "charts": [chart for chart in _charts(record) if chart] if not lacking() else [],
        "columns": [("best", best), ("last", last)] if several else [("best and last", last)],
        "counts": {key: value for key, value in last.get("scores", {}).items() if isinstance(value, int)},
        "tables": [
            _item_table(kind, scores[f"per_{kind}"]) for kind in ("class", "joint") if scores.get(f"per_{kind}")
        ],
        "own_score": _OWN_SCORE.get(last.get("task", ""), ""),
        "pictures": kept.get("pictures", ()),
        "worst": kept.get("worst", ()),
        "facts": {
            "Run": facts | sittings,
            "Configuration": settings,
            "Versions and machine": record.versions or record.start.get("versions", {}),
        },
        "now": datetime.now(UTC).isoformat(),
    }


def _tiles(record: RunRecord) -> Iterator[tuple[str, str, str]]:
    """What it is, the number, and what belongs to it."""
    best, last, total = record.best, record.last, record.start.get("updates") or record.update
    if best:
        main, more = best["main"], f"after update {best['update']}"
        if interval := best.get("intervals", {}).get(main):
            more += f"; {best.get('confidence', 0.95):.0%} interval {' to '.join(map(share_text, interval))}"
        yield f"best {label_of(main)}", share_text(best["value"]), more
        if last["update"] != best["update"]:
            yield f"last {label_of(main)}", share_text(last["value"]), f"after update {last['update']}"
    if losses := running_median(record.values("loss")):
        yield "training loss", f"{losses[-1][1]:.4g}", f"running median, after update {losses[-1][0]}"
    share = f"{record.update / total:.0%}, " if total else ""
    epoch = max((event["epoch"] for event in record.events), default=0.0)
    yield "updates", f"{record.update}", f"of {total}: {share}epoch {epoch:.4g}"
    parts = len(record.starts)
    yield "time", duration_text(record.seconds), f"in {parts} parts" if parts > 1 else "validation included"
    if rates := [y for _, y in record.values("images_per_second") if math.isfinite(y)]:
        yield "training rate", f"{median(rates):.4g}", "images/s, median"


def _charts(record: RunRecord) -> Iterator[Chart | None]:
    chart, number = partial(line_chart, until=record.update, resumed=record.resumes), "{:.4g}".format
    scores = [name for name in record.score_names if any(0 <= y <= 1 for _, y in record.scores(name))]
    scored = [
        Curve(name=label_of(name), points=record.scores(name), color=color, dots=color == 0)
        for color, name in enumerate(scores[:MOST_CURVES])
    ]
    best = (record.best["update"], record.best["value"]) if record.best else None
    yield chart("Validation scores", scored[::-1], show=lambda y: f"{100 * y:.3g} %", log=False, best=best)
    losses = _with_median(record.values("loss"))
    for color, name in enumerate(record.losses[1:MOST_CURVES], start=1):
        losses.append(Curve(name=label_of(name), points=running_median(record.values(name)), color=color))
    yield chart("Training loss", losses, show=number)
    rates = Curve(name="learning rate", points=record.values("lr"))
    yield chart("Learning rate", [rates], show=partial(number_text, "lr"), from_zero=True)
    yield chart("Gradient norm", _with_median(record.values("grad_norm")), show=number)
    speeds = _with_median(record.values("images_per_second"))
    yield chart("Training rate, images/s", speeds, show=number, from_zero=True)


def _with_median(points: Sequence[Point]) -> list[Curve]:
    middle = running_median(points)
    return [Curve(name="as logged", points=points, faint=True), Curve(name="running median", points=middle)]


def _item_table(kind: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A row per class or joint; the first share stands first and has a bar."""
    columns = [name for name in rows[0] if name != "name"]
    # A distance is no score: a long bar would look good.
    shares = [c for c in columns if c != "distance" and any(isinstance(row.get(c), float) for row in rows)]
    columns.sort(key=lambda column: column not in shares[:1])
    return {"kind": kind, "columns": columns, "bar": shares[0] if shares else "", "rows": rows}


def _cell(value: Any) -> str:
    """A score or count of a table."""
    return share_text(value) if isinstance(value, float) else "–" if value is None else str(value)


def _fact(value: Any) -> str:
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return "none" if value is None or value == "" else str(value)


def _date(text: str) -> str:
    """A time of the log for people: day and minute, UTC."""
    return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


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
