"""``hrformer convert-results``."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import pytest

from hrformer.__main__ import main
from hrformer.formats.write import SCALED, WRITERS, ResultsFormat
from random_tracks import two_people

NAMES = {"coco": "r.json", "coco-tracks": "t.json", "openpose": "op", "deeplabcut": "d.csv", "csv": "l.csv"}


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    two_people().save(tmp_path / "clip.parquet")
    return tmp_path / "clip.parquet"


@pytest.mark.parametrize("to", [*WRITERS, *SCALED])
def test_every_form_is_written_and_told_in_one_line(
    to: ResultsFormat, parquet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if to == "c3d":
        pytest.importorskip("ezc3d")
    out = tmp_path / NAMES.get(to, to)
    assert main(["convert-results", str(parquet), str(out), "--to", to]) == 0
    assert out.exists()
    told = capsys.readouterr().out.splitlines()
    assert told == [f"6 frames, 2 tracks of 17 joints as {to}: {out}"]


def test_a_folder_of_pictures_is_read_at_its_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    joints = [1.0] * 51
    (tmp_path / "in").mkdir()
    pictures = [{"id": i, "file_name": f"{i}.jpg", "width": 8, "height": 6} for i in (4, 5)]
    (tmp_path / "in" / "images.json").write_text(json.dumps({"run": {"task": "pose"}, "images": pictures}))
    (tmp_path / "in" / "predictions.json").write_text(json.dumps([{"image_id": 5, "keypoints": joints}]))
    command = ["convert-results", str(tmp_path / "in"), str(tmp_path / "out.csv"), "--to", "csv", "--rate", "4"]
    assert main(command) == 0
    with (tmp_path / "out.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["frame"], row["time"]) for row in rows] == [("0", "0")] + [("1", "0.25")] * 17
    capsys.readouterr()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "csv", "--scale", "0.1"], "scale is for trc and c3d; csv is in pixels"),
        (["--to", "trc", "--scale", "-1"], "scale must be a positive number of metres per pixel, got -1.0"),
        (["--to", "csv", "--rate", "30"], "--rate is for a folder of pictures"),
        (["--to", "deeplabcut"], "DeepLabCut's files end in .csv or .h5"),
    ],
)
def test_what_does_not_fit_is_one_line_and_writes_nothing(
    options: list[str], message: str, parquet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert-results", str(parquet), str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["clip.parquet"]


def test_a_file_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert-results", str(tmp_path / "no.parquet"), str(tmp_path / "out.csv"), "--to", "csv"]) == 2
    assert "no.parquet: no such file" in capsys.readouterr().err


def test_the_page_shows_what_the_commands_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ezc3d")
    pytest.importorskip("tables")
    page = (Path(__file__).resolve().parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")
    blocks = re.findall(
        r"^```(python|sh|text)\n(.*?)^```$", page.partition("## Results out")[2], re.MULTILINE | re.DOTALL
    )
    (_, code), (_, lines), (_, shown), *_ = blocks
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    for line in lines.splitlines():
        assert main(shlex.split(line)[1:]) == 0
    assert capsys.readouterr().out == shown
