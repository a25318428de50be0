from __future__ import annotations

import json

from hrformer.data.inspection.report import Report, finding, grouped, spread


def test_findings_name_five_places_and_count_all() -> None:
    found = finding("error", "kind", "what", "fix", [f"{number}.jpg" for number in range(7)])
    assert (found.count, found.where) == (7, ("0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg"))
    assert found.places == "0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg and 2 more"
    assert finding("error", "kind", "what", "fix").places == ""


def test_messages_that_differ_in_numbers_and_names_are_one_group() -> None:
    reasons = [
        ("b.png", "no such file"),
        ("a.png", "3 of 9 pixels hold the id 11."),
        ("c.png", "17 of 20 pixels hold the id 12"),
    ]
    assert grouped(reasons) == [("3 of 9 pixels hold the id 11", ["a.png", "c.png"]), ("no such file", ["b.png"])]


def test_a_report_counts_its_errors() -> None:
    findings = (finding("error", "k", "w", "f", ["x"]), finding("warning", "k", "w", "f"))
    report = Report(data="d", task="pose", findings=findings, statistics={"train": {"items": 3}})
    read = json.loads(json.dumps(report.to_dict()))
    assert (read["errors"], read["warnings"], report.errors) == (1, 1, 1)
    assert read["findings"][0]["where"] == ["x"]


def test_spread() -> None:
    assert spread([3, 1, 2]) == {"smallest": 1, "median": 2, "largest": 3}
    assert spread([]) == {}
