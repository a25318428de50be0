"""The picture is well-formed and shows the figures."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench_records import candidate, document, record
from chart import draw

pytest.importorskip("matplotlib", reason="needs matplotlib")


def texts(path: Path) -> set[str]:
    root = ElementTree.parse(path).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    return {"".join(one.itertext()) for one in root.iter("{http://www.w3.org/2000/svg}text")}


def test_bars_have_names_and_figures(tmp_path: Path) -> None:
    records = (record(candidate(way="fast"), (0.1,)), record(candidate(origin="official"), (0.4,)))
    failed = record(candidate(origin="mmpose"), failure="it broke")
    draw(document(*records, failed), "CPU <&>", tmp_path / "chart.svg")
    found = texts(tmp_path / "chart.svg")
    assert {"CPU <&>", "hrformer_small, fast", "official hrformer_small, eager", "100 ms, 10 /s"} <= found
    assert "mmpose hrformer_small, eager" not in found


@pytest.mark.parametrize(("over", "points"), [("batch", (1, 2)), ("pixels", (32, 64)), ("window", (7, 13))])
def test_sweeps_become_curves(over: str, points: tuple[int, int], tmp_path: Path) -> None:
    swept = []
    for n in points:
        fields = {"batch": n} if over == "batch" else {"size": (n, n)} if over == "pixels" else {}
        one = candidate(window=n) if over == "window" else candidate()
        swept.append(record(one, (0.1 * n,), **fields))
    draw(document(*swept), "CPU", tmp_path / "chart.svg")
    ticks = {str(n * n if over == "pixels" else n) for n in points}
    assert {over, "hrformer_small, eager", *ticks} <= texts(tmp_path / "chart.svg")


def test_a_run_that_has_nothing_yet_is_drawn(tmp_path: Path) -> None:
    draw(document(record(candidate(), failure="it broke")), "CPU", tmp_path / "chart.svg")
    assert "CPU" in texts(tmp_path / "chart.svg")
