"""``hrformer bench`` as users call it."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hrformer.benchmark.records import read_document
from hrformer.benchmark.report import sections
from hrformer.cli import main
from hrformer.cli.bench import repeatable

SMALL = ["bench", "--model", "hrformer_nano", "--size", "32", "32", "--rounds", "2", "--seconds", "0"]


def test_a_run_from_end_to_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "RESULTS.md"
    command = [*SMALL, "--paths", "eager", "--baselines", "hrnet_w18", "--batch", "1", "2", "--out"]
    assert main([*command, str(tmp_path / "out"), "--results", str(results)]) == 0
    printed = capfd.readouterr().out
    assert "hrnet_w18, eager" in printed
    assert "images/s" in printed
    assert "Machine:" in printed
    document = read_document(tmp_path / "out" / "results.json")
    assert document.command.startswith("hrformer bench --model hrformer_nano --size 32 32")
    assert [(record.candidate.model, record.batch) for record in document.records] == [
        ("hrformer_nano", 1),
        ("hrnet_w18", 1),
        ("hrformer_nano", 2),
        ("hrnet_w18", 2),
    ]
    assert sections(results.read_text())["custom"] == (tmp_path / "out" / "results.md").read_text().strip()
    assert ElementTree.parse(tmp_path / "out" / "chart.svg").getroot().tag.endswith("svg")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["chart.svg", "results.json", "results.md"]


def test_the_fast_path_is_measured(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs openvino")
    assert main([*SMALL, "--paths", "fast-openvino", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "results.json").read_text())
    assert [record["note"] for record in content["records"]] == ["fast-openvino is openvino"]


def test_candidates_that_fail_give_exit_code_1(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--paths", "fast-triton", "eager", "--device", "cpu", "--out", str(tmp_path)]) == 1
    failed, measured = read_document(tmp_path / "results.json").records
    assert "runs on CUDA" in failed.failure
    assert measured.rounds
    assert "failed: backend 'triton' runs on CUDA" in " ".join(capfd.readouterr().out.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "resnet50"], "--model resnet50: no model of ours"),
        (["--peer", "official=/nowhere"], "no checkout of https://github.com/HRNet/HRFormer"),
        (["--peer", "elsewhere"], "--peer wants official=PATH or mmpose=PATH"),
        (["--baselines", "resnet50"], "no baseline named 'resnet50'"),
        (["--baselines", "deit_b"], "deit_b is a classifier of timm, and the task is pose"),
        (["--only", "nothing"], "no group is called like 'nothing'"),
        (["--baseline", "nobody"], "--baseline 'nobody' is none of the candidates"),
        (["--rounds", "0"], "rounds and most_calls must be at least 1"),
        (["--batch", "0"], "batch and size must be above 0"),
        (["--sweep", "batch", "--sweep-values", "2"], "two or more different points"),
        (["--sweep", "batch", "--kind", "memory"], "--sweep needs --kind forward or train"),
        (["--kind", "train", "--paths", "fast"], "--kind train: none of the candidates"),
        (["--kind", "stages", "--picture", "nowhere.jpg"], "nowhere.jpg: no such file"),
        (["--preset", "cpu", "--device", "cuda"], "--preset cpu runs on cpu, not on cuda"),
    ],
)
def test_mistakes_are_one_line(
    options: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "--paths", "eager", *options]) == 2
    said = capfd.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_the_command_is_kept_without_folders_of_this_machine(tmp_path: Path) -> None:
    typed = ["bench", "--peer", f"official={tmp_path}", "--out", str(tmp_path / "out"), "--picture", "a.jpg"]
    assert repeatable(typed) == "hrformer bench --peer official=PATH --out out --picture a.jpg"


def test_both_peers_are_taken(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--peer", "mmpose=/nowhere", "--peer", "official=/nowhere"]) == 2
    assert "--peer mmpose=" in capfd.readouterr().err


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--preset", "--peer", "--sweep", "--kind", "--baselines", "--results", "--threads"):
        assert option in text
