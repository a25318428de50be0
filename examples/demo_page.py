"""The demo's page: plain HTML with its style inside, no scripts, nothing from the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from demo_photos import EXPECT, Photograph, caption, numbers
from hrformer.data.draw import LEFT, MIDDLE, RIGHT, color_of
from hrformer.predict.results import Keypoints, Result, Segmentation

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #fbfaf8; --text: #22211f; --quiet: #68655f; --line: #dedad2; --bar: #4f7fb5;
}
@media (prefers-color-scheme: dark) {
  :root { --ground: #191a1c; --text: #e6e4e0; --quiet: #a19e96; --line: #35363a; --bar: #6f9fd4; }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--ground); color: var(--text) }
body { font: 1rem/1.55 Charter, "Iowan Old Style", Georgia, serif }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .5rem }
h2 { font-size: 1.45rem; margin: 3.5rem 0 .25rem; padding-top: 1.5rem; border-top: 1px solid var(--line) }
h3 { font-size: 1.1rem; margin: 2rem 0 .25rem; overflow-wrap: anywhere }
p { margin: .5rem 0; max-width: 44rem; overflow-wrap: anywhere }
a { color: inherit }
nav a { margin-right: 1.1rem }
nav, dl, figcaption, .legend, table, summary, footer li { font: .85rem/1.5 system-ui, sans-serif }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .75rem 0 1.25rem }
dd { margin: 0; overflow-wrap: anywhere }
figure { margin: 0 }
figure img { display: block; width: 100%; height: auto; border-radius: 4px }
dl, figcaption, .quiet, summary { color: var(--quiet) }
figcaption { margin-top: .35rem }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.25rem }
.row { margin: 1rem 0 }
.small { grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)) }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .5rem 0; padding: 0; list-style: none }
.legend i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em }
table { border-collapse: collapse; margin: .5rem 0 }
td { padding: .1rem .8rem .1rem 0 }
td:nth-child(2) { text-align: right; font-variant-numeric: tabular-nums }
td:nth-child(3) { width: 14rem; padding: 0 }
td i { display: block; height: .6rem; border-radius: 2px; background: var(--bar) }
summary { cursor: pointer }
"""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One model on one photograph, with the files that show it.

    Attributes:
        photograph: the input.
        task: which model.
        result: what it said.
        seconds: from picture to result.
        original: the photograph's picture file, relative to the page.
        picture: the drawn result's, relative to the page.
        json: the file with the result's numbers, relative to the page.
    """

    photograph: Photograph
    task: str
    result: Result
    seconds: float
    original: str
    picture: str
    json: str


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What the page says about one model.

    Attributes:
        name: of the weights.
        facts: title -> text, such as "Trained on".
        file: the whole card, relative to the page; empty without one.
    """

    name: str
    facts: Mapping[str, str]
    file: str


def page(
    predictions: Sequence[Prediction], cards: Mapping[str, ModelCard], about: str, unreadable: Mapping[str, str]
) -> str:
    """The whole page.

    Args:
        predictions: in any order.
        cards: by task.
        about: a line on when, where and how long.
        unreadable: picture named on the command line -> what was wrong with it.
    """
    own = [p for p in predictions if p.photograph.own]
    shown = {task: [p for p in predictions if p.task == task and p not in own] for task in cards}
    links = [(task, task.capitalize()) for task in shown]
    links += [("own", "Your pictures")] if own or unreadable else []
    links += [("sources", "Sources")]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>hrformer: predictions</title><style>{STYLE}</style></head><body><main>",
            "<header><h1>hrformer: three tasks on photographs</h1>",
            "<p>Predictions of the three small models that come with the package, on photographs from elsewhere. Each "
            "learnt from one small data set on two processor cores, so published weights are far better. The captions "
            "say what is right and what is not.</p>",
            f'<p class="quiet">{escape(about)}</p>',
            '<figure><img src="pictures/overview.jpg" alt="All photographs with predictions"></figure>',
            "<nav>" + " ".join(f'<a href="#{target}">{text}</a>' for target, text in links) + "</nav></header>",
            *(_task_section(task, group, cards[task]) for task, group in shown.items()),
            _own_section(own, unreadable) if own or unreadable else "",
            _sources(predictions),
            "</main></body></html>\n",
        ]
    )


def _task_section(task: str, predictions: Sequence[Prediction], card: ModelCard) -> str:
    facts = "".join(f"<dt>{escape(title)}</dt><dd>{escape(text)}</dd>" for title, text in card.facts.items())
    if card.file:
        facts += f'<dt>Model card</dt><dd><a href="{card.file}">{escape(card.name)}</a></dd>'
    figures = "".join(f"<div>{_noted_figure(p)}{_details(p)}</div>" for p in predictions)
    return (
        f'<section><h2 id="{task}">{task.capitalize()}</h2><p>{EXPECT[task]}</p><dl>{facts}</dl>'
        f'<div class="row small">{figures}</div>{_legend(predictions[0])}</section>'
    )


def _own_section(predictions: Sequence[Prediction], unreadable: Mapping[str, str]) -> str:
    parts = ['<section><h2 id="own">Your pictures</h2>']
    for name in dict.fromkeys(p.photograph.name for p in predictions):
        group = [p for p in predictions if p.photograph.name == name]
        parts.append(f'<h3>{escape(group[0].photograph.title)}</h3><div class="row">{_original(group[0])}')
        parts += [_noted_figure(p) for p in group]
        parts.append("</div>")
    parts += [f"<p>Could not be read: {escape(name)}: {escape(why)}</p>" for name, why in unreadable.items()]
    return "\n".join([*parts, "</section>"])


def _sources(predictions: Sequence[Prediction]) -> str:
    photographs = {p.photograph.name: p.photograph for p in predictions if not p.photograph.own}
    rows = "".join(f'<li><a href="{escape(p.link)}">{escape(p.credit)}</a></li>' for p in photographs.values())
    return f'<footer><h2 id="sources">Sources of the photographs</h2><ul>{rows}</ul></footer>'


def _original(prediction: Prediction) -> str:
    photograph = prediction.photograph
    height, width = photograph.pixels.shape[:2]
    return (
        f'<figure><img src="{prediction.original}" alt="{escape(photograph.title)}, as it is">'
        f"<figcaption>Photograph, {width} x {height}</figcaption></figure>"
    )


def _figure(prediction: Prediction, note: str = "") -> str:
    title = f"{prediction.task.capitalize()}, {prediction.seconds * 1000:.0f} ms"
    return (
        f'<figure><img src="{prediction.picture}" alt="{escape(prediction.photograph.title)}, {prediction.task}">'
        f'<figcaption>{title}, <a href="{prediction.json}">numbers</a>{note}</figcaption></figure>'
    )


def _noted_figure(prediction: Prediction) -> str:
    return _figure(prediction, f"<br>{escape(caption(prediction.photograph, prediction.result))}")


def _legend(prediction: Prediction) -> str:
    result = prediction.result
    if isinstance(result, Keypoints):
        entries = [("their left side", LEFT), ("their right side", RIGHT), ("neither", MIDDLE)]
    elif isinstance(result, Segmentation):
        entries = [(result.name_of(k), color_of(k, result.palette)) for k in range(len(result.class_names))]
    else:
        return ""
    items = "".join(f'<li><i style="background: rgb{color}"></i>{escape(name)}</li>' for name, color in entries)
    return f'<ul class="legend">{items}</ul>'


def _details(prediction: Prediction) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{value:.1%}</td>"
        f'<td><i style="width: {100 * min(1.0, max(0.0, value)):.1f}%"></i></td></tr>'
        for name, value in numbers(prediction.result)
    )
    title = {"pose": "Joint scores", "segmentation": "Share of the picture", "classification": "Probabilities"}
    return f"<details><summary>{title[prediction.task]}</summary><table>{rows}</table></details>"
