"""``benchmarks/run.py`` as ``make bench`` and users call it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter

from records import Document
from run import main, repeatable

SMALL = ["--model", "hrformer_nano", "--size", "32", "32", "--rounds", "2", "--seconds", "0"]


def test_a_run_from_end_to_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    results, out = tmp_path / "RESULTS.md", tmp_path / "out"
    command = [*SMALL, "--paths", "fast-triton", "eager", "--device", "cpu", "--baselines", "hrnet_w18"]
    assert main([*command, "--batch", "1", "2", "--out", str(out), "--results", str(results)]) == 1
    printed = capfd.readouterr()
    for word in ("hrnet_w18, eager", "images/s", "Machine:", "failed: backend 'triton' runs on CUDA"):
        assert word in " ".join(printed.out.split())
    assert "1 of 2: forward, pose 32x32, batch 1" in printed.err
    document = TypeAdapter(Document).validate_json((out / "results.json").read_bytes())
    assert document.command.startswith("python benchmarks/run.py --model hrformer_nano --size 32 32")
    assert [(one.candidate.label, one.batch, bool(one.failure)) for one in document.records] == [
        (label, batch, label.endswith("triton"))
        for batch in (1, 2)
        for label in ("hrformer_nano, fast-triton", "hrformer_nano, eager", "hrnet_w18, eager")
    ]
    assert (out / "results.md").read_text() in results.read_text().replace("\n<!-- end", "\n\n<!-- end")
    assert (tmp_path / "results" / "custom.json").read_text() == (out / "results.json").read_text()
    assert {path.name for path in out.iterdir()} - {"chart.svg"} == {"results.json", "results.md"}


def test_the_fast_path_is_measured(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs openvino")
    assert main([*SMALL, "--paths", "fast-openvino", "--out", str(tmp_path)]) == 0
    document = TypeAdapter(Document).validate_json((tmp_path / "results.json").read_bytes())
    assert [record.note for record in document.records] == ["fast-openvino is openvino"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "resnet50"], "--model resnet50: no model of ours"),
        (["--peer", "official=/nowhere"], "no checkout of https://github.com/HRNet/HRFormer"),
        (["--peer", "mmpose=/nowhere", "--peer", "official=/nowhere"], "--peer mmpose="),
        (["--peer", "elsewhere"], "--peer wants official=PATH or mmpose=PATH"),
        (["--baselines", "resnet50"], "no baseline named 'resnet50'"),
        (["--baselines", "deit_b"], "deit_b is a classifier of timm, and the task is pose"),
        (["--only", "nothing"], "no group is called like 'nothing'"),
        (["--baseline", "nobody"], "--baseline 'nobody' is none of the candidates"),
        (["--rounds", "0"], "rounds must be at least 1"),
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
    assert main(["--paths", "eager", *options]) == 2
    said = capfd.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_the_command_is_kept_without_folders_of_this_machine(tmp_path: Path) -> None:
    typed = ["--peer", f"official={tmp_path}", "--out", str(tmp_path / "out"), "--picture", "a.jpg"]
    assert repeatable(typed) == "python benchmarks/run.py --peer official=PATH --out out --picture a.jpg"


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--preset", "--peer", "--sweep", "--kind", "--baselines", "--results", "--threads"):
        assert option in text
