"""The JSON file: written whole, read back, and refused when it is not one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench_records import CONDITIONS, candidate, document, record
from hrformer.benchmark.records import FORMAT, NEEDED, Growth, Verdict, read_document, write_document


def whole() -> object:
    return document(
        record(candidate(way="fast", precision="bf16"), (0.1, 0.2), (0.3,), first=1.5, note="fast is openvino"),
        record(candidate(origin="official"), failure="it broke"),
        growth=(Growth(label="x", over="batch", exponent=1.0, r_squared=0.5),),
        verdicts=(
            Verdict(name="a", due=3.0, then=5.0, measured=4.0, spread=(3.0, 5.0), winners=("x", "y")),
            Verdict(name="b", due=3.0, reason="not in this run"),
        ),
    )


def test_documents_come_back_as_they_were(tmp_path: Path) -> None:
    write_document(whole(), tmp_path / "r.json")
    assert read_document(tmp_path / "r.json") == whole()


def test_file_has_the_documented_fields(tmp_path: Path) -> None:
    write_document(whole(), tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["format"] == FORMAT
    assert set(content) == {
        *("format", "name", "command", "conditions", "records", "growth", "verdicts", "baseline"),
    }  # fmt: skip
    assert set(NEEDED) <= set(content["conditions"])
    for one in content["records"]:
        assert set(one) == {
            *("group", "kind", "candidate", "batch", "size", "part", "rounds", "first", "failure", "note"),
        }  # fmt: skip


def test_numbers_are_as_long_as_clocks_are_good(tmp_path: Path) -> None:
    write_document(document(record(candidate(), (0.123456789,))), tmp_path / "r.json")
    assert read_document(tmp_path / "r.json").records[0].rounds == ((0.123457,),)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 99}', '{"format": 1, "records": 3}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ValueError, match="holds no measurements"):
        read_document(tmp_path / "r.json")


@pytest.mark.parametrize("name", NEEDED)
def test_figures_without_their_conditions_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"lack {name}"):
        document(conditions={key: value for key, value in CONDITIONS.items() if key != name})


def test_a_record_has_values_or_a_reason() -> None:
    with pytest.raises(ValueError, match="either values or a reason"):
        record(candidate())
    with pytest.raises(ValueError, match="either values or a reason"):
        record(candidate(), (1.0,), failure="why")


def test_images_per_second() -> None:
    assert record(candidate(), (0.5,), batch=8).images_per_second == 16
    assert record(candidate(), (0.5,), kind="memory").images_per_second is None
