"""Records and their file, tables, and the file of results in this repository."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from bench_records import CONDITIONS, candidate, document, record
from records import FORMAT, NEEDED, Document, Growth, Record, Verdict, write_document
from report import figures_file, markdown, put_into

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "RESULTS.md"

DOCUMENT = TypeAdapter(Document)


def sections(text: str) -> dict[str, str]:
    """Sections of a Markdown file by name."""
    return dict(re.findall(r"<!-- results of (.+?) -->\n(.*?)\n<!-- end of \1 -->", text, flags=re.DOTALL))


def rows(text: str, title: str) -> list[dict[str, str]]:
    """Cells of one table by column."""
    lines = text.partition(f"### {title}\n\n")[2].partition("\n\n")[0].splitlines()
    columns, _, *cells = [line.strip("| ").split(" | ") for line in lines]
    return [dict(zip(columns, row, strict=True)) for row in cells]


WHOLE = document(
    record(candidate(way="fast", precision="bf16"), (0.123456789, 0.2), (0.3,), first=1.5, note="fast is openvino"),
    record(candidate(origin="official"), failure="it broke"),
    growth=(Growth(label="x", over="batch", exponent=1.0, r_squared=0.5),),
    verdicts=(
        Verdict(name="a", due=3.0, then=5.0, measured=4.0, spread=(3.0, 5.0), winners=("x", "y")),
        Verdict(name="b", due=3.0, reason="not in this run"),
    ),
)


def test_the_file_holds_all_figures_as_long_as_clocks_are_good(tmp_path: Path) -> None:
    write_document(WHOLE, tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["format"] == FORMAT
    assert content["records"][0]["rounds"] == [[0.123457, 0.2], [0.3]]
    content["records"][0]["rounds"][0][0] = 0.123456789
    assert DOCUMENT.validate_python(content) == WHOLE


@pytest.mark.parametrize("name", NEEDED)
def test_figures_without_their_conditions_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"lack {name}"):
        document(conditions={key: value for key, value in CONDITIONS.items() if key != name})


def test_rows_hold_median_quartiles_and_rate() -> None:
    text = markdown(document(record(candidate(), (0.1, 0.2, 0.3, 0.4, 0.5), batch=6, first=2.0)), "CPU")
    assert rows(text, "G") == [
        {
            "candidate": "hrformer_small, eager",
            "batch": "6",
            "size": "256x192",
            "median": "300 ms",
            "quartiles": "200 ms to 400 ms",
            "images/s": "20",
            "first call": "2 s",
            "ratio": "1.00",
        }
    ]


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (0.0123456, "start", "12.3 ms"),
        (2.5, "stages", "2.5 s"),
        (1802.4, "memory", "1802 MiB"),
        (3.81, "memory", "3.8 MiB"),
    ],
)
def test_values_are_shown_short(value: float, kind: str, text: str) -> None:
    (row,) = rows(markdown(document(record(candidate(), (value,), kind=kind)), "CPU"), "G")
    assert (row["median"], row["images/s"]) == (text, "")


@pytest.mark.parametrize(
    ("baseline", "ratios"), [("", ["4.00", "1.00"]), ("hrformer_small, fast", ["1.00", "0.25"])], ids=["first", "named"]
)
def test_ratios_are_against_the_first_that_is_not_ours_or_a_named_one(baseline: str, ratios: list[str]) -> None:
    records = (
        record(candidate(way="fast"), (1.0,), (1.0,)),
        record(candidate(origin="official"), (4.0,), (4.0,)),
    )
    text = markdown(document(*records, baseline=baseline), "CPU")
    assert [row["ratio"] for row in rows(text, "G")] == ratios
    assert f"less than {baseline or 'official hrformer_small, eager'}, median" in text


def test_failures_and_missed_targets_are_shown() -> None:
    verdicts = (
        Verdict(name="fast enough", due=3.0, measured=2.0, winners=("a", "b")),
        Verdict(name="soon enough", due=5.0, unit="s", measured=4.0),
        Verdict(name="later", due=5.0, reason="needs --peer official=PATH"),
    )
    failed = record(candidate(origin="official"), failure="it broke | badly")
    text = markdown(document(record(candidate(), (1.0,)), failed, verdicts=verdicts), "CPU")
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
    assert list(sections(path.read_text()).items()) == [("cpu", r"second \1 line"), ("gpu", "other")]
    assert "By hand." in path.read_text()


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
        # The second is what it was called up to 0.1.0.
        "command": r"```sh\n([A-Z_]+=\S+ )?(python benchmarks/run\.py|hrformer bench).*\n```",
    }
    return [name for name, pattern in wanted.items() if not re.search(pattern, section)]


def test_sections_say_machine_versions_and_date() -> None:
    text = markdown(document(record(candidate(), (1.0,))), "CPU")
    assert conditions_missing(text) == []
    for word in ("Machine", "Measured on", "Versions", "Commit", "Date", "sh\n"):
        assert conditions_missing(text.replace(word, "-")), word


def test_results_of_this_repository_are_those_of_their_files() -> None:
    text = RESULTS.read_text(encoding="utf-8")
    found, outside = sections(text), text
    assert found
    for name, section in found.items():
        kept = DOCUMENT.validate_json(figures_file(RESULTS, name).read_bytes())
        assert all(isinstance(one, Record) for one in kept.records)
        assert markdown(kept, section.splitlines()[0].removeprefix("## ")).strip() == section
        assert conditions_missing(section) == []
        outside = outside.replace(section, "")
    # Figures belong into sections that the command writes, not between them.
    assert not re.search(r"^\|.*\d+(\.\d+)? ?(ms|s|x|MiB)\b.*\|$", outside, re.MULTILINE)
