"""Labels of any form are written as COCO's, all of them or none, and never over others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tool_labels
from hrformer.__main__ import main
from hrformer.data.labels.convert import convert_labels
from hrformer.data.set_types import DataError
from tool_labels import Labelled, picture

EXPORTS = Path(__file__).parent / "exports"
ONE = Labelled("a.png", (64, 60), [({"nose": (20.0, 10.0, 2), "tail": (10.0, 30.0, 1)}, (5.0, 5.0, 30.0, 40.0))])


def test_names_lead_from_the_new_folder_to_the_pictures(tmp_path: Path) -> None:
    tool_labels.labelme(tmp_path / "set", [ONE])
    (before,) = convert_labels(tmp_path / "set", tmp_path / "early")
    assert json.loads(before.file.read_text())["images"][0]["file_name"] == "a.png"
    assert "1 of 1 picture not found, such as a.png" in before.notes[-1]
    picture(tmp_path / "set" / "a.png", (64, 60))
    (there,) = convert_labels(tmp_path / "set", tmp_path / "deep" / "out")
    content = json.loads(there.file.read_text())
    assert content["images"] == [{"id": 1, "file_name": "../../set/a.png", "width": 64, "height": 60}]
    (beside,) = convert_labels(tmp_path / "set", tmp_path / "set")
    assert json.loads(beside.file.read_text())["images"][0]["file_name"] == "a.png"


def test_people_without_a_box_get_one(tmp_path: Path) -> None:
    (written,) = convert_labels(EXPORTS / "cvat" / "video.xml", tmp_path)
    records = json.loads(written.file.read_text())["annotations"]
    assert all(one["bbox"] and one["area"] > 0 for one in records)
    tool_labels.labelme(tmp_path / "set", [ONE])
    (written,) = convert_labels(tmp_path / "set", tmp_path / "boxed")
    (person,) = json.loads(written.file.read_text())["annotations"]
    assert (person["bbox"], person["area"]) == ([5, 5, 30, 40], pytest.approx(0.53 * 1200))


def test_files_in_coco_form_are_written_again(tmp_path: Path) -> None:
    tool_labels.cvat(tmp_path / "val.xml", [ONE], ("nose", "tail"))
    (first,) = convert_labels(tmp_path / "val.xml", tmp_path / "one")
    assert first.file == tmp_path / "one/annotations/val.json"
    (second,) = convert_labels(first.file, tmp_path / "two")
    assert second.summary == first.summary
    assert json.loads(second.file.read_text()) == json.loads(first.file.read_text())


def test_other_labels_are_never_replaced(tmp_path: Path) -> None:
    names = ("nose", "tail")
    tool_labels.yolo(tmp_path / "set", {"train": [ONE], "val": [ONE]}, names)
    convert_labels(tmp_path / "set", tmp_path / "out")
    convert_labels(tmp_path / "set", tmp_path / "out")
    (tmp_path / "out/annotations/val.json").write_text("{}")
    (tmp_path / "out/annotations/train.json").unlink()
    with pytest.raises(ValueError, match=r"val\.json is there and holds other labels"):
        convert_labels(tmp_path / "set", tmp_path / "out")
    assert not (tmp_path / "out/annotations/train.json").exists()


def test_one_form_at_a_time(tmp_path: Path) -> None:
    tool_labels.labelme(tmp_path / "set", [ONE])
    tool_labels.cvat(tmp_path / "set" / "annotations.xml", [ONE], ("nose", "tail"))
    with pytest.raises(DataError, match=r"labels of several forms: .*annotations\.xml"):
        convert_labels(tmp_path / "set", tmp_path / "out")
    tool_labels.label_studio(tmp_path / "studio" / "train.json", [ONE])
    tool_labels.label_studio(tmp_path / "studio" / "more.json", [ONE])
    with pytest.raises(DataError, match=r"several labels of the train part"):
        convert_labels(tmp_path / "studio", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["convert-labels", str(EXPORTS / "labelme"), str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(
        f"wrote {out}/annotations/train.json: 2 pictures, 7 objects: 2 with joints (4 joints)"
    )
    assert "person (3 joints), dog, ball, box, grass" in printed.out
    assert "warning: labelme: left out: 1 x line\n" in printed.err
    for source, said in ((tmp_path / "no", "no such file or folder"), (out.parent, "no labels here")):
        (out / "annotations/train.json").unlink(missing_ok=True)
        assert main(["convert-labels", str(source), str(tmp_path / "other")]) == 2
        printed = capsys.readouterr()
        assert printed.err.count("\n") == 1
        assert said in printed.err
        assert "Traceback" not in printed.err
