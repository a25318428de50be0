from __future__ import annotations

import json

from hrformer.data.inspection.report import Finding, Places, Reasons, Report, sorted_findings, spread
from hrformer.wording import counted


def finding(severity: str, count: int = 0, where: tuple[str, ...] = ()) -> Finding:
    return Finding(severity=severity, kind="k", split="train", what="w", fix="f", where=where, count=count)


def test_places_name_five_and_count_all() -> None:
    places = Places(f"{number}.jpg" for number in range(7))
    found = places.finding("error", "kind", "val", "what", "fix")
    assert (found.count, found.where) == (7, ("0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg"))
    assert found.places == "0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg and 2 more"
    assert finding("error").places == ""
    assert not Places()


def test_reasons_group_messages_that_differ_in_numbers_and_names() -> None:
    reasons = Reasons()
    reasons.add("a.png", "3 of 9 pixels hold the id 11")
    reasons.add("b.png", "no such file")
    reasons.add("c.png", "17 of 20 pixels hold the id 12")
    assert [(reason, places.first) for reason, places in reasons] == [
        ("3 of 9 pixels hold the id 11", ["a.png", "c.png"]),
        ("no such file", ["b.png"]),
    ]


def test_errors_come_first_and_are_counted() -> None:
    findings = sorted_findings([finding("warning"), finding("error", 1, ("x",)), finding("warning", 2)])
    assert [one.severity for one in findings] == ["error", "warning", "warning"]
    assert [one.count for one in findings] == [1, 0, 2]
    report = Report(data="d", task="pose", findings=findings, statistics={"train": {"items": 3}})
    read = json.loads(json.dumps(report.to_dict()))
    assert (read["errors"], read["warnings"], report.errors) == (1, 2, 1)
    assert read["findings"][0]["where"] == ["x"]


def test_words() -> None:
    assert (counted(1, "mask"), counted(2, "mask"), counted(0, "box", "boxes")) == ("1 mask", "2 masks", "0 boxes")
    assert spread([3, 1, 2]) == {"smallest": 1, "median": 2, "largest": 3}
    assert spread([]) == {}
