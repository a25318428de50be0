"""Tables, and the file of results in this repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench_records import candidate, document, record
from hrformer.benchmark.records import Verdict, read_document
from hrformer.benchmark.report import figures_file, markdown, put_into, sections, tables

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_ratios_are_against_the_first_that_is_not_ours() -> None:
    (table,) = tables(
        document(
            record(candidate(way="fast"), (1.0,), (1.0,)),
            record(candidate(origin="official"), (3.0,), (5.0,)),
        )
    )
    assert [row[-1] for row in table.rows] == ["4.00", "1.00"]
    assert "official hrformer_small, eager" in table.note


def test_ratios_against_a_named_candidate() -> None:
    records = (record(candidate(way="fast"), (1.0,)), record(candidate(origin="official"), (4.0,)))
    (table,) = tables(document(*records, baseline="hrformer_small, fast"))
    assert [row[-1] for row in table.rows] == ["1.00", "0.25"]


def test_rows_hold_median_quartiles_and_rate() -> None:
    (table,) = tables(document(record(candidate(), (0.1, 0.2, 0.3, 0.4, 0.5), batch=6, first=2.0)))
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["median"] == "300 ms"
    assert row["quartiles"] == "200 ms to 400 ms"
    assert row["images/s"] == "20"
    assert row["first call"] == "2 s"


def test_failures_and_missed_targets_are_shown() -> None:
    text = markdown(
        document(
            record(candidate(), (1.0,)),
            record(candidate(origin="official"), failure="it broke | badly"),
            verdicts=(
                Verdict(name="fast enough", due=3.0, measured=2.0, winners=("a", "b")),
                Verdict(name="soon enough", due=5.0, unit="s", measured=4.0),
                Verdict(name="later", due=5.0, reason="needs --peer official=PATH"),
            ),
        ),
        "CPU",
    )
    assert "failed: it broke \\| badly" in text
    assert "| fast enough | ≥ 3.00x | 2.00x | missed |" in text
    assert "| soon enough | ≤ 5 s | 4 s | met |" in text
    assert "| later | ≥ 5.00x |  | not measured |  | needs --peer official=PATH |" in text


def test_sections_are_replaced_in_place(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    put_into(path, "cpu", "first")
    put_into(path, "gpu", "other")
    path.write_text(path.read_text().replace("# Results", "# Results\n\nBy hand."))
    put_into(path, "cpu", r"second \1 line")
    assert sections(path.read_text()) == {"cpu": r"second \1 line", "gpu": "other"}
    assert "By hand." in path.read_text()
    assert path.read_text().index("second") < path.read_text().index("other")


def test_a_section_without_an_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text("<!-- results of cpu -->\nlost")
    with pytest.raises(ValueError, match="has no end"):
        put_into(path, "cpu", "x")


def conditions_missing(section: str) -> list[str]:
    """What a section of results does not say about where its figures come from."""
    wanted = {
        "machine": r"Machine: \S.*\d+ cores",
        "device and threads": r"Measured on: (cpu|cuda), \d+ threads",
        "versions": r"Versions: Python \d.*torch \d",
        "commit": r"Commit: (\w{7,}|unknown)",
        "date": r"Date: \d{4}-\d\d-\d\dT",
        "command": r"```sh\nhrformer bench .*\n```",
    }
    return [name for name, pattern in wanted.items() if not re.search(pattern, section)]


def test_sections_say_machine_versions_and_date() -> None:
    text = markdown(document(record(candidate(), (1.0,))), "CPU")
    assert conditions_missing(text) == []
    for word in ("Machine", "Measured on", "Versions", "Commit", "Date", "sh\n"):
        assert conditions_missing(text.replace(word, "-")), word


def test_results_of_this_repository_carry_their_conditions() -> None:
    text = (BENCHMARKS / "RESULTS.md").read_text(encoding="utf-8")
    found = sections(text)
    assert not any(conditions_missing(section) for section in found.values())
    outside = text
    for section in found.values():
        outside = outside.replace(section, "")
    # Figures belong into sections that the command writes, not between them.
    assert not re.search(r"^\|.*\d+(\.\d+)? ?(ms|s|x|MiB)\b.*\|$", outside, re.MULTILINE)


def test_results_of_this_repository_are_those_of_their_files() -> None:
    found = sections((BENCHMARKS / "RESULTS.md").read_text(encoding="utf-8"))
    assert found
    for name, section in found.items():
        kept = read_document(figures_file(BENCHMARKS / "RESULTS.md", name))
        title = section.splitlines()[0].removeprefix("## ")
        assert markdown(kept, title).strip() == section
