from __future__ import annotations

import math
import re

import pytest

from hrformer.train.summary import MOST_TITLES, Chart, Curve, lacking, line_chart, running_median

pytest.importorskip("matplotlib", reason="needs matplotlib, from the extra 'train'")


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


@pytest.mark.parametrize(
    ("absent", "said"),
    [
        ("jinja2", "summary.html is not written, since jinja2 is not installed: pip install 'hrformer[train]'"),
        ("matplotlib", "summary.html has no curves, since matplotlib is not installed: pip install 'hrformer[train]'"),
        ("", ""),
    ],
)
def test_what_is_lacking_is_told(absent: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrformer.train.summary.find_spec", lambda name: None if name == absent else object())
    assert lacking() == said
