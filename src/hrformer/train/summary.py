"""The page of a run: ``summary.html``, one file without anything from outside, made from the run directory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path, PurePath
from statistics import median
from typing import Any

from hrformer.data.set_types import ImageSet
from hrformer.evaluate.protocols import Evaluation
from hrformer.files import write_file
from hrformer.models.model import VisionModel
from hrformer.train.config import AnyRun
from hrformer.train.progress import duration_text, label_of, number_text, share_text
from hrformer.train.summary_charts import Chart, Curve, Point, lacking, line_chart, running_median
from hrformer.train.summary_pictures import ValidationPicture, choose_items, draw_examples, predict_examples
from hrformer.train.summary_record import STATES, RunRecord, read_record
from hrformer.train.trackers import flat

FILE, PICTURES_FILE = "summary.html", "pictures.json"

MOST_CURVES = 4
"""Curves of validation scores, and of losses, in one chart."""

_OWN_SCORE = {
    "classification": "The number is the probability given to the true class.",
    "pose": "The number is the object keypoint similarity (OKS), over the labelled joints.",
    "segmentation": "The number is the mean IoU of the picture by itself.",
}

_VERBS = {"classification": "classify", "pose": "pose", "segmentation": "segment"}
"""What ``hrformer predict`` calls the tasks."""

_Pictures = dict[str, list[ValidationPicture]]


@cache
def _stored() -> Any:
    """How the pictures lie in their file; JSON has no NaN. A borrowed GPU may have no pydantic: then none are kept."""
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(_Pictures, config=ConfigDict(ser_json_inf_nan="strings"))


def summarise(
    out: Path, config: AnyRun, source: ImageSet, model: VisionModel | None, evaluation: Evaluation | None
) -> Path:
    """Write the page with new pictures: always the same ones of the validation set, and the worst of an evaluation.

    Args:
        out: run directory.
        config: of the run.
        source: the validation set.
        model: to show predictions of; None: without them.
        evaluation: whose worst examples to show; None: without them.

    Returns:
        The page's path.

    Raises:
        DataError: a picture cannot be read.
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
    """Write ``summary.html`` from what lies in a run directory, also while the run goes on.

    The pictures are kept in ``pictures.json``, so that the page can be written again without the model and the data.
    Nothing is written without jinja2.

    Args:
        out: run directory; ``metrics.jsonl``, ``config.json`` and ``versions.json`` are read, each if it is there.
        pictures: some of the validation set; None keeps those of the last call.
        worst: the worst of the validation set; None keeps those of the last call.

    Returns:
        The page's path.
    """
    kept = _kept_pictures(out)
    if pictures is not None or worst is not None:
        given = {"pictures": pictures, "worst": worst}
        kept |= {name: list(group) for name, group in given.items() if group is not None}
        if find_spec("pydantic") is not None:
            stored = _stored().dump_json(kept)
            write_file(out / PICTURES_FILE, lambda part: part.write_bytes(stored))
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
    return templates.get_template(FILE)


def _kept_pictures(out: Path) -> _Pictures:
    """Those written last; none where there is no such file, or it is not whole."""
    try:
        return _stored().validate_json((out / PICTURES_FILE).read_bytes())
    except (OSError, ValueError, ModuleNotFoundError):
        return {}


def _contents(out: Path, record: RunRecord, kept: _Pictures) -> dict[str, Any]:
    """What the template shows."""
    config, last, best, weights = record.config, record.last, record.best, out / "best.safetensors"
    name, recipe = out.resolve().name, str(config.get("recipe") or "")
    model = str(record.start.get("model") or flat(config).get("model.name") or "")
    root = PurePath(str(flat(config).get("data.root") or ".")).name
    about = [model, root, f"seed {config['seed']}" if "seed" in config else "", f"run directory {name}"]
    end = record.events[-1] if record.events else {}
    reason = end.get("interrupted") or end.get("error")
    one = not best or best["update"] == last["update"]
    scores = (best or last).get("scores", {})
    kinds = (("class", scores.get("per_class")), ("joint", scores.get("per_joint")))
    sittings = {
        _date(start["time"]): f"taken up again after update {start['update']}" if start.get("resumed") else "started"
        for start in record.of("start")
    }
    own = ("event", "update", "epoch", "time", "versions", "resumed")
    facts = {label_of(key): value for key, value in record.start.items() if key not in own}
    return {
        "record": record,
        "title": recipe or model or name,
        "name": name,
        "about": [part for part in about if part],
        "state": STATES[record.state] + (f": {reason}" if reason else ""),
        "end": end,
        "weights": str(weights) if weights.exists() and last else "",
        "verb": _VERBS.get(last.get("task", "")),
        "tiles": list(_tiles(record)),
        "lacking": lacking(),
        "charts": [chart for chart in _charts(record) if chart] if not lacking() else [],
        "columns": [("best and last", last)] if one else [("best", best), ("last", last)],
        "counts": {key: value for key, value in last.get("scores", {}).items() if isinstance(value, int)},
        "tables": [_item_table(kind, rows) for kind, rows in kinds if rows],
        "own_score": _OWN_SCORE.get(last.get("task", ""), ""),
        "pictures": kept.get("pictures", ()),
        "worst": kept.get("worst", ()),
        "facts": {
            "Run": facts | sittings,
            "Configuration": flat(config),
            "Versions and machine": record.versions or record.start.get("versions", {}),
        },
        "now": datetime.now(UTC).isoformat(),
    }


def _tiles(record: RunRecord) -> Iterator[tuple[str, str, str]]:
    """What it is, the number, and what belongs to it."""
    best, last = record.best, record.last
    if best:
        main, more = best["main"], f"after update {best['update']}"
        if interval := best.get("intervals", {}).get(main):
            more += f"; {best.get('confidence', 0.95):.0%} interval {' to '.join(map(share_text, interval))}"
        yield f"best {label_of(main)}", share_text(best["value"]), more
        if last["update"] != best["update"]:
            yield f"last {label_of(main)}", share_text(last["value"]), f"after update {last['update']}"
    if losses := running_median(record.values("loss")):
        update, value = losses[-1]
        yield "training loss", f"{value:.4g}", f"running median, after update {update}"
    share = f"{record.update / record.total:.0%}, " if record.total else ""
    yield "updates", f"{record.update}", f"of {record.total}: {share}epoch {record.epoch:.4g}"
    parts = len(record.of("start"))
    yield "time", duration_text(record.seconds), f"in {parts} parts" if parts > 1 else "validation included"
    if rates := [y for _, y in record.values("images_per_second") if math.isfinite(y)]:
        yield "training rate", f"{median(rates):.4g}", "images/s, median"


def _charts(record: RunRecord) -> Iterator[Chart | None]:
    chart = partial(line_chart, until=record.update, resumed=record.resumes)
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
    yield chart("Training loss", losses, show="{:.4g}".format)
    rates = Curve(name="learning rate", points=record.values("lr"))
    yield chart("Learning rate", [rates], show=partial(number_text, "lr"), from_zero=True)
    yield chart("Gradient norm", _with_median(record.values("grad_norm")), show="{:.4g}".format)
    speeds = _with_median(record.values("images_per_second"))
    yield chart("Training rate, images/s", speeds, show="{:.4g}".format, from_zero=True)


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
    if isinstance(value, float):
        return share_text(value)
    return "–" if value is None else str(value)


def _fact(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(one) for one in value) or "none"
    return "none" if value is None or value == "" else str(value)


def _date(text: str) -> str:
    """A time of the log for people: day and minute, UTC."""
    return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
