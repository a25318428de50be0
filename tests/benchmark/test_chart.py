"""The picture is well-formed and shows the figures."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from bench_records import candidate, document, record
from hrformer.benchmark.chart import draw, shown, swept_dimension

SVG = "{http://www.w3.org/2000/svg}"


def test_bars_are_as_long_as_their_medians() -> None:
    records = (record(candidate(way="fast"), (0.1,)), record(candidate(origin="official"), (0.4,)))
    root = ElementTree.fromstring(draw(document(*records), "CPU <&>"))
    bars = [float(one.attrib["width"]) for one in root.iter(f"{SVG}rect") if one.attrib.get("height") == "16"]
    assert bars[1] == pytest.approx(4 * bars[0], rel=0.01)
    texts = [one.text for one in root.iter(f"{SVG}text")]
    assert {"CPU <&>", "hrformer_small, fast", "official hrformer_small, eager", "100 ms, 10 /s"} <= set(texts)


def test_sweeps_become_curves_and_failures_are_left_out() -> None:
    swept = [record(candidate(way=way), (0.1 * n,), batch=n) for way in ("eager", "fast") for n in (1, 2, 4)]
    failed = record(candidate(origin="official"), failure="it broke")
    root = ElementTree.fromstring(draw(document(*swept, failed), "CPU"))
    assert len([one for one in root.iter(f"{SVG}path") if one.attrib["class"] == "curve"]) == 2
    assert len(list(root.iter(f"{SVG}circle"))) == 6


def test_what_is_swept_is_seen() -> None:
    assert swept_dimension([record(candidate(), (1.0,), batch=n) for n in (1, 2)]) == "batch"
    assert swept_dimension([record(candidate(), (1.0,), size=(n, n)) for n in (32, 64)]) == "pixels"
    assert swept_dimension([record(candidate(window=n), (1.0,)) for n in (7, 13)]) == "window"
    assert swept_dimension([record(candidate(), (1.0,)), record(candidate(way="fast"), (1.0,))]) == ""


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.0123456, "s", "12.3 ms"), (2.5, "s", "2.5 s"), (1802.4, "MiB", "1802 MiB"), (3.81, "MiB", "3.8 MiB")],
)
def test_values_are_shown_short(value: float, unit: str, text: str) -> None:
    assert shown(value, unit) == text
