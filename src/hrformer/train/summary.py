"""The page of a run: ``summary.html``, one file without anything from outside, made from the run directory."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path, PurePath
from typing import Any

from hrformer.data.sets import ImageSet
from hrformer.evaluate.protocols import Evaluation
from hrformer.files import write_file
from hrformer.models.model import VisionModel
from hrformer.train.config import AnyRun
from hrformer.train.progress import duration_text, label_of, number_text, share_text
from hrformer.train.summary_charts import Series, line_chart, running_median, smoothed
from hrformer.train.summary_pictures import ValidationPicture, choose, draw_examples, predict_examples
from hrformer.train.summary_record import STATES, RunRecord, number, read_record
from hrformer.train.summary_store import store_pictures, stored_pictures
from hrformer.train.summary_tables import date_text, fact_section, score_section

FILE = "summary.html"

MOST_CURVES = 4
"""Curves of validation scores in one chart."""

_STYLE = Path(__file__).with_name("summary.css")
_OWN_SCORE = {
    "classification": "the probability given to the true class",
    "pose": "the object keypoint similarity (OKS), over the labelled joints",
    "segmentation": "the mean IoU of the picture by itself",
}


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
    # The same pictures in all runs, whatever their seeds, so that pages can be laid side by side.
    chosen = choose(source, config.log.pictures, seed=0) if model is not None else []
    examples = predict_examples(model, source, chosen, config.evaluation) if model is not None and chosen else []
    worst = evaluation.worst[: config.log.pictures] if evaluation is not None else ()
    return write_summary(out, pictures=draw_examples(source, examples), worst=draw_examples(source, worst))


def write_summary(
    out: Path,
    *,
    pictures: Sequence[ValidationPicture] | None = None,
    worst: Sequence[ValidationPicture] | None = None,
) -> Path:
    """Write ``summary.html`` from what lies in a run directory, also while the run goes on.

    Args:
        out: run directory; ``metrics.jsonl``, ``config.json`` and ``versions.json`` are read, each if it is there.
        pictures: some of the validation set; None keeps those of the last call.
        worst: the worst of the validation set; None keeps those of the last call.

    Returns:
        The page's path.
    """
    groups: dict[str, Sequence[ValidationPicture]] = dict(stored_pictures(out))
    given = {name: group for name, group in (("pictures", pictures), ("worst", worst)) if group is not None}
    if given:
        groups |= given
        store_pictures(out, groups)
    text = summary_page(read_record(out), out.resolve().name, groups.get("pictures", ()), groups.get("worst", ()))
    write_file(out / FILE, lambda part: part.write_text(text, encoding="utf-8"))
    return out / FILE


def summary_page(
    record: RunRecord, name: str, pictures: Sequence[ValidationPicture], worst: Sequence[ValidationPicture]
) -> str:
    """The page's HTML.

    Args:
        record: of the run.
        name: of the run directory.
        pictures: some of the validation set.
        worst: its worst.
    """
    title = str(record.config.get("recipe") or "") or _model(record) or name
    own = _OWN_SCORE.get(str(record.last.get("task")), "")
    about = f" The number is {own}." if own else ""
    return "\n".join(
        filter(
            None,
            [
                "<!doctype html>",
                '<html lang="en"><head><meta charset="utf-8">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                f"<title>{escape(title)}: {escape(name)}</title>",
                f"<style>{_STYLE.read_text(encoding='utf-8')}</style></head><body><main>",
                _head(record, title, name),
                _charts(record),
                score_section(record),
                _gallery("Validation pictures", f"Always the same items of the validation set.{about}", pictures),
                _gallery("Worst examples", f"The items with the lowest score of their own, worst first.{about}", worst),
                fact_section(record),
                "</main></body></html>\n",
            ],
        )
    )


def _head(record: RunRecord, title: str, name: str) -> str:
    config, state = record.config, record.state
    root = PurePath(str(_under(config, "data", "root") or ".")).name
    about = [_model(record), root, f"seed {config['seed']}" if "seed" in config else "", f"run directory {name}"]
    last = record.events[-1] if record.events else {}
    reason = str(last.get("interrupted") or last.get("error") or "") if state in ("interrupted", "failed") else ""
    said = STATES[state] + (f": {reason}" if reason else "")
    when = f"as of {date_text(last.get('time'))}" if last else "nothing is noted yet"
    tiles = "".join(
        f"<div><span>{escape(label)}</span><b>{escape(value)}</b><span>{escape(more)}</span></div>"
        for label, value, more in _tiles(record)
    )
    return (
        f'<header><h1>{escape(title)}</h1><p class="quiet">{escape(" · ".join(filter(None, about)))}</p>'
        f'<p><span class="state {state}">{escape(said)}</span> <span class="quiet small">{escape(when)}</span></p>'
        f'<div class="tiles">{tiles}</div></header>'
    )


def _tiles(record: RunRecord) -> Iterable[tuple[str, str, str]]:
    """What it is, the number, and what belongs to it."""
    best, last = record.best, record.last
    if best:
        main, value = str(best["main"]), number(best["value"])
        more = f"after update {best['update']}"
        interval = best.get("intervals", {}).get(main)
        if interval:
            level = number(best.get("confidence", 0.95))
            more += f"; {level:.0%} interval {' to '.join(share_text(number(end)) for end in interval)}"
        yield f"best {label_of(main)}", share_text(value), more
        if last["update"] != best["update"]:
            yield f"last {label_of(main)}", share_text(number(last["value"])), f"after update {last['update']}"
    losses = record.values("loss")
    if losses:
        update, value = smoothed(losses, _span(losses))[-1]
        yield "training loss", f"{value:.4g}", f"smoothed, after update {update:.0f}"
    share = f"{record.update / record.total:.0%}, " if record.total else ""
    yield "updates", f"{record.update}", f"of {record.total}: {share}epoch {record.epoch:.4g}"
    parts = len(record.of("start"))
    yield "time", duration_text(record.seconds), f"in {parts} parts" if parts > 1 else "validation included"
    if math.isfinite(record.rate):
        yield "training rate", f"{record.rate:.4g}", "images/s, median"


def _charts(record: RunRecord) -> str:
    raw, losses = record.values("loss"), record.losses
    curves = [Series(name="as logged", points=raw, faint=True)] if raw else []
    for color, name in enumerate(losses[:MOST_CURVES]):
        points = record.values(name)
        label = f"{label_of(name)}, smoothed" if len(losses) == 1 else label_of(name)
        curves.append(Series(name=label, points=smoothed(points, _span(points)), color=color))
    scores = [name for name in record.score_names() if any(0 <= y <= 1 for _, y in record.scores(name))]
    scored = [
        Series(name=label_of(name), points=record.scores(name), color=color, dots=color == 0)
        for color, name in enumerate(scores[:MOST_CURVES])
    ]
    best = (int(record.best["update"]), number(record.best["value"])) if record.best else None
    chart = partial(line_chart, until=record.update, marks=record.resumes)
    norms, rates, speeds = (record.values(name) for name in ("grad_norm", "lr", "images_per_second"))
    figures = [
        chart("Validation scores", scored[::-1], show=share_text, tick=_percent, log=False, best=best),
        chart("Training loss", curves, show="{:.4g}".format),
        chart(
            "Learning rate",
            [Series(name="learning rate", points=rates)],
            show=partial(number_text, "lr"),
            from_zero=True,
        ),
        chart("Gradient norm", _with_median(norms), show="{:.4g}".format),
        chart("Training rate, images/s", _with_median(speeds), show="{:.4g}".format, from_zero=True),
    ]
    shown = "".join(figures)
    again = '<p class="quiet small">Dotted: the run was taken up again.</p>' if record.resumes else ""
    return f'<section><h2>Curves</h2>{again}<div class="charts">{shown}</div></section>' if shown else ""


def _percent(value: float) -> str:
    return f"{100 * value:.3g}%"


def _with_median(points: Sequence[tuple[float, float]]) -> list[Series]:
    return [
        Series(name="as logged", points=points, faint=True),
        Series(name="running median", points=running_median(points, _span(points))),
    ]


def _span(points: Sequence[Any]) -> int:
    """Points to smooth over: a thirtieth of them."""
    return max(len(points) // 30, 5)


def _gallery(title: str, about: str, pictures: Sequence[ValidationPicture]) -> str:
    if not pictures:
        return ""
    legend = dict(entry for picture in pictures for entry in picture.legend)
    entries = "".join(
        f'<li><i style="background: rgb{color}"></i>{escape(name)}</li>' for name, color in legend.items()
    )
    most = max(len(picture.panels) for picture in pictures)
    size = "of1" if most == 1 else "of2" if most == 2 else "of4"
    return (
        f'<section><h2>{title}</h2><p class="quiet small">{escape(about)}</p>'
        + (f'<ul class="legend">{entries}</ul>' if entries else "")
        + f'<div class="items {size}">{"".join(_item(picture) for picture in pictures)}</div></section>'
    )


def _item(picture: ValidationPicture) -> str:
    panels = []
    for panel in picture.panels:
        data = base64.b64encode(panel.jpeg).decode()
        words = escape(f"{picture.name}, {panel.title or picture.text}")
        title = f"<span>{escape(panel.title)}</span>" if panel.title else ""
        width, height = panel.size
        image = f'<img src="data:image/jpeg;base64,{data}" width="{width}" height="{height}" alt="{words}">'
        panels.append(f"<div>{image}{title}</div>")
    score = f"<b>{share_text(picture.score)}</b> " if math.isfinite(picture.score) else ""
    text = f"{escape(picture.text)}<br>" if picture.text else ""
    caption = f'{score}{text}<span title="{escape(picture.file)}">{escape(picture.name)}</span>'
    return f'<figure><div class="panels">{"".join(panels)}</div><figcaption>{caption}</figcaption></figure>'


def _model(record: RunRecord) -> str:
    return str(record.start.get("model") or _under(record.config, "model", "name") or "")


def _under(values: Mapping[str, Any], *names: str) -> Any:
    """What lies at the end of a path through nested mappings; None where it breaks off."""
    found: Any = values
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
