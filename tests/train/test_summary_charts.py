from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest

from hrformer.train.summary_charts import (
    MOST_POINTS,
    MOST_TITLES,
    Series,
    count_text,
    line_chart,
    log_ticks,
    running_median,
    smoothed,
    ticks,
)


def chart(*points: tuple[float, float], until: float = 10, **options) -> ET.Element:
    """The SVG of a chart with one curve; fails if it is not well formed."""
    text = line_chart(
        "Loss & more", [Series(name="a <b>", points=points)], until=until, show="{:.3g}".format, **options
    )
    return ET.fromstring(re.search(r"<svg.*</svg>", text, re.DOTALL)[0])


def paths(svg: ET.Element) -> list[list[tuple[float, float]]]:
    """Points of each unbroken piece of the curve."""
    pieces = svg.find("path").get("d").split("M")[1:]
    return [[tuple(map(float, point.split())) for point in piece.split("L")] for piece in pieces]


def test_values_lie_where_the_ticks_say() -> None:
    svg = chart((0, 0.0), (4, 50.0), (10, 100.0), from_zero=True, tick="y{:.0f}".format)
    (curve,) = paths(svg)
    places = {text.text: (float(text.get("x")), float(text.get("y"))) for text in svg.iter("text")}
    assert [curve[0][1], curve[2][1]] == pytest.approx([places["y0"][1], places["y100"][1]], abs=0.1)
    assert [curve[0][0], curve[1][0]] == pytest.approx([places["0"][0], places["4"][0]], abs=0.1)
    assert curve[1][1] == pytest.approx((curve[0][1] + curve[2][1]) / 2, abs=0.1)


def test_gaps_stay_gaps() -> None:
    svg = chart((1, 1.0), (2, 2.0), (3, math.nan), (4, math.inf), (5, 1.0), (6, 3.0))
    assert [len(piece) for piece in paths(svg)] == [2, 2]


def test_wide_positive_ranges_get_a_logarithmic_axis() -> None:
    points = [(0, 1.0), (5, 0.1), (10, 0.01)]
    (curve,) = paths(chart(*points))
    assert curve[1][1] == pytest.approx((curve[0][1] + curve[2][1]) / 2, abs=0.1)
    (curve,) = paths(chart(*points, log=False))
    assert curve[1][1] > (curve[0][1] + curve[2][1]) / 2 + 20
    (curve,) = paths(chart((0, 1.0), (5, 0.1), (10, 0.0)))
    assert curve[1][1] > (curve[0][1] + curve[2][1]) / 2 + 20


@pytest.mark.parametrize("points", [[], [(1, math.nan)]])
def test_nothing_to_draw_is_no_figure(points: list) -> None:
    assert line_chart("x", [Series(name="a", points=points)], until=1, show=str) == ""


@pytest.mark.parametrize("points", [[(5, 0.0)], [(5, 3.0), (6, 3.0)], [(0, -1.0)], [(0, 1e-12), (1, 1e12)]])
def test_odd_ranges_are_drawn_inside_the_field(points: list) -> None:
    svg = chart(*points)
    for piece in paths(svg):
        assert all(0 <= x <= 440 and 0 <= y <= 250 for x, y in piece)
    assert len(list(svg.iter("text"))) > 2


def test_long_curves_are_thinned_but_keep_their_peak_and_end() -> None:
    points = [(x, 1.0 + x % 3) for x in range(10_000)]
    points[4321] = (4321, 25.0)
    (curve,) = paths(chart(*points, until=10_000))
    assert len(curve) <= MOST_POINTS + 2
    top = min(curve, key=lambda point: point[1])
    assert top[0] == pytest.approx(52 + 0.4321 * 376, abs=1)
    assert curve[-1][0] == pytest.approx(428, abs=0.2)


def test_titles_tell_the_numbers_under_the_pointer() -> None:
    svg = chart((1, 0.5), (2, math.nan), (3, 0.25))
    assert [title.text for title in svg.iter("title")] == [
        "after update 1\na <b>: 0.5",
        "after update 2\na <b>: nan",
        "after update 3\na <b>: 0.25",
    ]
    many = chart(*[(x, 1.0) for x in range(5000)], until=5000)
    assert 50 <= len(list(many.iter("title"))) <= MOST_TITLES


def test_marks_and_best_point() -> None:
    svg = chart((1, 1.0), (9, 2.0), marks=[5, 99], best=(9, 2.0))
    assert [line.get("x1") for line in svg.iter("line") if line.get("class") == "mark"] == ["240"]
    (ring,) = [circle for circle in svg.iter("circle") if circle.get("class") == "ring"]
    assert (float(ring.get("cx")), float(ring.get("cy"))) == paths(svg)[0][-1]


def test_smoothing_has_no_bias_and_leaves_gaps() -> None:
    assert smoothed([(1, 2.0), (2, 2.0)], 5) == [(1, 2.0), (2, 2.0)]
    values = [y for _, y in smoothed([(1, 1.0), (2, math.nan), (3, 3.0)], 3)]
    assert values[0] == 1.0
    assert math.isnan(values[1])
    assert values[2] == pytest.approx((0.5 * 1 + 3) / 1.5)


def test_running_median_ignores_an_outlier() -> None:
    points = [(1, 1.0), (2, 1.0), (3, 99.0), (4, math.inf), (5, 1.0)]
    assert [y for _, y in running_median(points, 5)] == [1.0] * 5


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0, 6000, [0, 2000, 4000, 6000]), (-3, 7, [-2, 0, 2, 4, 6])],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_logarithmic_ticks_are_round() -> None:
    assert log_ticks(0.09, 11) == pytest.approx([0.1, 0.2, 0.5, 1, 2, 5, 10])
    assert log_ticks(1e-4, 1e3) == pytest.approx([10.0**power for power in range(-4, 4)])


def test_counts_are_short() -> None:
    assert [count_text(value) for value in (0, 500, 1500, 20_000, 1_500_000)] == ["0", "500", "1500", "20k", "1.5M"]
