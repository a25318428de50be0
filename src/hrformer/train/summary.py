"""The page of a run: ``summary.html``, one file without anything from outside, made from the run directory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path, PurePath
from statistics import median
from typing import Any

from hrformer.data.sets import ImageSet
from hrformer.evaluate.protocols import Evaluation
from hrformer.files import write_file
from hrformer.models.model import VisionModel
from hrformer.train.config import AnyRun
from hrformer.train.progress import duration_text, label_of, number_text, share_text
from hrformer.train.record import Point, RunRecord, flat, read_json, read_record
from hrformer.train.summary_charts import Chart, Curve, lacking, line_chart, running_median
from hrformer.train.summary_pictures import ValidationPicture, choose_items, draw_examples, predict_examples

FILE, PICTURES_FILE = "summary.html", "pictures.json"
MOST_CURVES = 4  # of validation scores, and of losses, in one chart

_OWN_SCORE = {
    "classification": "The number is the probability given to the true class.",
    "pose": "The number is the object keypoint similarity (OKS), over the labelled joints.",
    "segmentation": "The number is the mean IoU of the picture by itself.",
}
_VERBS = {"classification": "classify", "pose": "pose", "segmentation": "segment"}  # of ``hrformer predict``


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


def write_summary(out: Path, **pictures: Sequence[ValidationPicture]) -> Path:
    """Write ``summary.html`` from what lies in a run directory, also while the run goes on; returns its path.

    ``pictures`` are some of the validation set, ``worst`` its worst ones. What is not given stays as in the last call:
    the pictures are kept in ``pictures.json``, so that the page can be written again without the model and the data.
    No page is written without jinja2.
    """
    kept = read_json(out / PICTURES_FILE) | {name: [asdict(one) for one in group] for name, group in pictures.items()}
    if pictures:
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
