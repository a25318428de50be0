from __future__ import annotations

import json
import math
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from hrformer.data.classification_sets import open_classification
from hrformer.data.set_types import ClassificationSet
from hrformer.data.source_config import ClassificationSource
from hrformer.evaluate.protocols import Evaluation, Example
from hrformer.predict.predictors import load
from hrformer.train.config import ClassificationRun, LogConfig
from hrformer.train.journal import Journal
from hrformer.train.record import read_record
from hrformer.train.run_folder import write_versions
from hrformer.train.summary import (
    MOST_TITLES,
    Chart,
    Curve,
    line_chart,
    running_median,
    summarise,
    write_summary,
)
from hrformer.train.summary_pictures import ValidationPicture, draw_examples

pytest.importorskip("matplotlib", reason="needs matplotlib, from the extra 'train'")

VOID = frozenset({"meta", "img", "br"})
CLASSES = ("sky", "road", "car <&>")


class Page(HTMLParser):
    """Reads a page, checks that its elements are closed in order, and keeps what it refers to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href", "data", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            self.words.append(data)


def evaluation(value: float) -> Evaluation:
    rows = [{"name": name, "pixels": 100 * k, "iou": value * k / 2 if k else None} for k, name in enumerate(CLASSES)]
    scores = {"mean_iou": value, "pixel_accuracy": 0.9, "pixels": 300, "per_class": rows}
    interval = {"mean_iou": (value - 0.01, value + 0.02)}
    return Evaluation(task="segmentation", main="mean_iou", scores=scores, intervals=interval, items=7, seconds=2.0)


def make_run(out: Path, *, updates: int = 100, resume_at: int = 0, ends: bool = True) -> None:
    """A run that is validated every 20 updates and best at 80."""
    parts = [(0, resume_at + 7), (resume_at, updates)] if resume_at else [(0, updates)]
    for first, last in parts:
        with Journal(out, 100, 8, first_update=first, config={}) as journal:
            journal.start(model="hrformer_nano", train_items=50)
            for update in range(first + 1, last + 1):
                journal.tick()
                if update % 2 == 0:
                    losses = {"loss": 3 / update, "main": 2 / update, "auxiliary": 1 / update}
                    journal.log(update, update / 6, losses | {"lr": 1e-3, "grad_norm": 2.0})
                if update % 20 == 0:
                    score = 0.006 * update if update <= 80 else 0.4
                    journal.validation(update, update / 6, evaluation(score), best=update <= 80)
            if ends and last == updates:
                journal.end()


def make_config(out: Path) -> None:
    config = {"recipe": "camvid_nano", "seed": 3, "model": {"name": "hrformer_nano"}, "data": {"root": "sets/camvid"}}
    (out / "config.json").write_text(json.dumps(config))
    write_versions(out)


def test_page_of_a_finished_run(tmp_path: Path) -> None:
    make_run(tmp_path, resume_at=40)
    make_config(tmp_path)
    path = write_summary(tmp_path)
    assert path == tmp_path / "summary.html"
    page, text = Page(path), path.read_text(encoding="utf-8")
    assert "camvid_nano hrformer_nano · camvid · seed 3 · run directory" in page.text
    assert "finished as of" in page.text
    assert "best mean IoU 48.0 % after update 80; 95% interval 47.0 % to 50.0 %" in page.text
    assert "last mean IoU 40.0 % after update 100" in page.text
    assert "updates 100 of 100: 100%, epoch 16.67 time" in page.text
    assert "in 2 parts" in page.text
    for title in ("Validation scores", "Training loss", "Learning rate", "Gradient norm", "Training rate, images/s"):
        assert f"{title} " in page.text, title
    assert "Dotted: the run was taken up again." in page.text
    assert "mean IoU 48.0 % (47.0 % to 50.0 %) 40.0 % (39.0 % to 42.0 %)" in page.text
    assert "class IoU pixels sky – 0 road 24.0 % 100 car <&> 48.0 % 200" in page.text
    assert 'style="width: 48.0%"' in text
    assert "seed 3" in page.text
    assert "Worst examples" not in page.text


def test_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    make_run(tmp_path)
    text = write_summary(tmp_path).read_text(encoding="utf-8")
    assert Page(tmp_path / "summary.html").sources == []
    assert not re.search(r"https?:|url\((?!#)|@import|<script|<link", text)
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    charts = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(charts) == 5
    for chart in charts:
        assert chart.count("<title>") > 2
    # What charts refer to within the page is theirs alone.
    names = re.findall(r' id="([^"]+)"', text)
    assert len(names) == len(set(names))


def test_page_is_there_from_the_first_moment(tmp_path: Path) -> None:
    page = Page(write_summary(tmp_path / "empty"))
    assert "nothing is noted yet" in page.text
    assert "svg" not in page.tags


@pytest.mark.parametrize("absent", ["matplotlib", "jinja2"])
def test_run_is_told_what_its_page_does_without(absent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    make_run(tmp_path)
    path = write_summary(tmp_path)
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [f"{absent} is not installed: pip install 'hrformer[train]'" in line for line in lines].count(True) == 1
    assert path.exists() == (absent != "jinja2")
    if path.exists():
        page = Page(path)
        assert "Curves summary.html has no curves, since matplotlib is not installed" in page.text
        assert "svg" not in page.tags
        assert "class IoU pixels sky" in page.text


def test_running_run_with_a_half_written_line(tmp_path: Path) -> None:
    make_run(tmp_path, updates=50, ends=False)
    before = write_summary(tmp_path).read_text(encoding="utf-8")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "update": 52, "epo')
    (tmp_path / "config.json").write_text('{"recipe": "x')
    page = Page(write_summary(tmp_path))
    assert "running, or killed without a word as of" in page.text
    assert "updates 50 of 100: 50%" in page.text
    assert "best mean IoU 24.0 % after update 40" in page.text
    assert len(before.splitlines()) == len((tmp_path / "summary.html").read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"interrupted": "SIGTERM"}, "interrupted: SIGTERM as of"),
        ({"error": "NonFiniteLoss: <b>"}, "failed: NonFiniteLoss: <b> as of"),
    ],
)
def test_how_the_run_ended(tmp_path: Path, fields: dict[str, str], expected: str) -> None:
    with Journal(tmp_path, 100, 8, config={}) as journal:
        journal.start()
        journal.log(2, 0.1, {"loss": float("nan"), "lr": 1e-3})
        journal.end(**fields)
    assert expected in Page(write_summary(tmp_path)).text


def test_time_leaves_out_the_pause_and_what_was_cut_off(tmp_path: Path) -> None:
    def event(kind: str, update: int, minute: int, **fields) -> str:
        return json.dumps(
            {"event": kind, "update": update, "epoch": 0, "time": f"2026-01-01T10:{minute:02}:00+00:00"} | fields
        )

    lines = [event("start", 0, 0), event("train", 5, 10, loss=1), event("start", 5, 30, resumed=True)]
    lines += [event("train", 10, 35, loss=1), event("end", 10, 36, state="finished")]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    record = read_record(tmp_path)
    assert record.seconds == 60 * (10 + 6)
    assert (record.state, record.resumes, record.update) == ("finished", [5], 10)


def test_coco_figures_without_people_of_a_size_are_gaps(tmp_path: Path) -> None:
    with Journal(tmp_path, 4, 8, config={}) as journal:
        for update in (2, 4):
            scores = {"AP": 0.1 * update, "AP-M": -1.0, "per_joint": []}
            journal.validation(update, 1.0, Evaluation(task="pose", main="AP", scores=scores), best=True)
        journal.end()
    record = read_record(tmp_path)
    assert [y for _, y in record.scores("AP")] == pytest.approx([0.2, 0.4])
    assert all(np.isnan(y) for _, y in record.scores("AP-M"))
    assert "AP-M not defined" in Page(write_summary(tmp_path)).text


def test_long_tables_are_folded(tmp_path: Path) -> None:
    rows = [{"name": f"class {k}", "images": 50, "top1": 0.5} for k in range(1000)]
    scores = {"top1": 0.5, "per_class": rows}
    with Journal(tmp_path, 4, 8, config={}) as journal:
        journal.validation(2, 1.0, Evaluation(task="classification", main="top1", scores=scores), best=True)
    assert "1000 rows, one per class class top-1 accuracy images class 0 50.0 %" in Page(write_summary(tmp_path)).text


@pytest.fixture
def cifar(data_dir: Path) -> ClassificationSet:
    return open_classification(ClassificationSource(root=data_dir / "cifar10"), "val")


def drawn(source: ClassificationSet, *indices: int) -> list[ValidationPicture]:
    examples = [Example(index=i, file=source.file(i), score=0.125, prediction=3) for i in indices]
    return draw_examples(source, examples)


def test_pictures_lie_in_the_page_and_are_kept(tmp_path: Path, cifar: ClassificationSet) -> None:
    make_run(tmp_path)
    write_summary(tmp_path, pictures=drawn(cifar, 0, 300), worst=drawn(cifar, 5))
    first = Page(tmp_path / "summary.html")
    assert len(first.sources) == 3
    assert all(re.fullmatch(r"data:image/jpeg;base64,[A-Za-z0-9+/]+=*", source) for source in first.sources)
    assert f"12.5 % airplane, taken for cat {Path(cifar.file(0)).name}" in first.text
    assert f"12.5 % cat, recognised {Path(cifar.file(300)).name}" in first.text
    write_summary(tmp_path)
    assert Page(tmp_path / "summary.html").sources == first.sources
    write_summary(tmp_path, worst=[])
    assert Page(tmp_path / "summary.html").sources == first.sources[:2]
    (tmp_path / "pictures.json").write_text("{")
    write_summary(tmp_path)
    assert Page(tmp_path / "summary.html").sources == []


def test_summarise_shows_fixed_and_worst_examples(
    tmp_path: Path, cifar: ClassificationSet, small: dict[str, str]
) -> None:
    worst = tuple(Example(index=i, file=cifar.file(i), score=0.01 * i, prediction=9) for i in range(5))
    outcome = Evaluation(task="classification", main="top1", scores={"top1": 0.5}, worst=worst)
    config = ClassificationRun(log=LogConfig(pictures=3))
    model = load(small["classification"]).model
    for name in ("a", "b"):
        with Journal(tmp_path / name, 4, 8, config={}) as journal:
            journal.validation(4, 1.0, outcome, best=True)
        summarise(tmp_path / name, config, cifar, model, outcome)
    pages = [Page(tmp_path / name / "summary.html") for name in ("a", "b")]
    assert len(pages[0].sources) == 6
    assert pages[0].sources == pages[1].sources
    assert "2.0 % airplane, taken for truck" in pages[0].text
    assert "The number is the probability given to the true class." in pages[0].text
    summarise(tmp_path / "a", config, cifar, None, None)
    assert Page(tmp_path / "a" / "summary.html").sources == []


def chart(*points: tuple[float, float], until: float = 10, **options) -> Chart:
    """A chart with one curve."""
    found = line_chart("x", [Curve(name="a <b>", points=points)], until=until, show="{:.3g}".format, **options)
    assert found is not None
    return found


def pieces(drawn: Chart) -> list[list[tuple[float, float]]]:
    """Places of each unbroken piece of the curve."""
    (path,) = re.findall(r'<path d="([^"]*)"[^>]*clip-path[^>]*stroke: var\(--c0\)', drawn.svg)
    return [
        [tuple(map(float, point.split())) for point in piece.split("L")]  # type: ignore[misc]
        for piece in path.split("M")[1:]
    ]


def test_gaps_stay_gaps() -> None:
    drawn = chart((1, 1.0), (2, 2.0), (3, math.nan), (4, math.inf), (5, 1.0), (6, 3.0))
    assert [len(piece) for piece in pieces(drawn)] == [2, 2]


def test_wide_positive_ranges_get_a_logarithmic_axis() -> None:
    points = [(0, 1.0), (5, 0.1), (10, 0.01)]
    assert chart(*points).log
    assert not chart(*points, log=False).log
    assert not chart(*points, from_zero=True).log
    assert not chart((0, 1.0), (5, 0.1), (10, 0.0)).log


@pytest.mark.parametrize("points", [[], [(1, math.nan)]])
def test_nothing_to_draw_is_no_figure(points: list) -> None:
    assert line_chart("x", [Curve(name="a", points=points)], until=1, show=str) is None


@pytest.mark.parametrize("points", [[(5, 0.0)], [(5, 3.0), (6, 3.0)], [(0, -1.0)], [(0, 1e-12), (1, 1e12)]])
def test_odd_ranges_are_drawn_inside_the_field(points: list) -> None:
    drawn = chart(*points)
    assert all(0 <= x <= 440 and 0 <= y <= 240 for piece in pieces(drawn) for x, y in piece)
    assert drawn.svg.count("<text") > 2


def test_long_curves_stay_small_but_keep_their_peak_and_end() -> None:
    points = [(x, 1.0 + x % 3) for x in range(10_000)]
    points[4321] = (4321, 25.0)
    (curve,) = pieces(chart(*points, until=10_000))
    assert len(curve) < 2500
    assert min(curve, key=lambda place: place[1])[0] == pytest.approx(52 + 0.4321 * 376, abs=1)
    assert curve[-1][0] == pytest.approx(428, abs=1)


def test_titles_tell_the_numbers_under_the_pointer() -> None:
    drawn = chart((1, 0.5), (2, math.nan), (3, 0.25))
    assert re.findall(r"<title>(.*?)</title>", drawn.svg, re.DOTALL) == [
        "after update 1\na &lt;b&gt;: 0.5",
        "after update 2\na &lt;b&gt;: nan",
        "after update 3\na &lt;b&gt;: 0.25",
    ]
    many = chart(*[(x, 1.0) for x in range(5000)], until=5000)
    assert 50 <= many.svg.count("<title>") <= MOST_TITLES


def test_colours_are_those_of_the_page() -> None:
    drawn = chart((1, 1.0), (9, 2.0), resumed=[5], best=(9, 2.0))
    assert {"var(--c0)", "var(--text)", "var(--quiet)", "var(--line)"} == set(re.findall(r"var\(--\w+\)", drawn.svg))
    assert not re.search("#[0-9a-f]{6}", drawn.svg.replace("#000000", ""))


def test_running_median_ignores_what_stands_alone() -> None:
    points = [(1, 1.0), (2, 1.0), (3, 99.0), (4, math.inf), (5, 1.0)]
    assert running_median(points) == [(1, 1.0), (2, 1.0), (3, 1.0), (5, 1.0)]
    assert running_median([]) == []
    many = running_median([(x, float(x)) for x in range(10_000)])
    assert 250 < len(many) < 350
    assert many[-1] == (9999, pytest.approx(9999 - 333 / 2, abs=1))
