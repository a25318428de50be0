"""``hrformer inspect data`` on the shared sets and on small broken ones, run in this process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from hrformer.__main__ import main
from hrformer.cli.inspect import ROWS_SHOWN, print_report
from hrformer.data.inspection.parts import Part
from hrformer.data.inspection.report import Report


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a set of two classes: three training pictures of each, two for validation."""
    monkeypatch.chdir(tmp_path)
    pictures = iter(np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8))
    for split, count in (("train", 3), ("val", 2)):
        for name in ("cat", "dog"):
            folder = tmp_path / "set" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                cv2.imwrite(str(folder / f"{number}.png"), next(pictures))
    return tmp_path


def inspect(recipe: str, *options: str) -> tuple[int, dict]:
    code = main(["inspect", "data", recipe, "--out", "out", *options])
    return code, json.loads(Path("out/report.json").read_text())


CLASSES = ("--data.train", "train", "--data.val", "val", "--data.classes", "cat", "dog", "--data.root", "set")


def test_sound_set(folders: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, report = inspect("cifar10_5k_tiny", *CLASSES, "--batch.total", "4", "--samples", "5")
    said = capfd.readouterr()
    assert code == 0
    assert (report["data"], report["task"], report["findings"]) == ("CIFAR-10", "classification", [])
    assert report["statistics"]["val"]["classes"][1] == {"name": "dog", "pictures": 2, "share": 0.5}
    assert "train: 6 pictures, all looked at" in said.out
    assert (
        "nothing wrong was found\n0 errors, 0 warnings\nreport: out/report.json; samples: out/contact_sheet.jpg"
        in said.out
    )
    # Two rows of samples, and one of a mixed batch.
    assert 3 * 280 < cv2.imread("out/contact_sheet.jpg").shape[0] < 4 * 280
    assert "train pictures" in said.err
    # A second run without samples leaves no picture of the first one behind.
    inspect("cifar10_5k_tiny", *CLASSES, "--batch.total", "4", "--samples", "0")
    assert not Path("out/contact_sheet.jpg").exists()
    assert "samples" not in capfd.readouterr().out.splitlines()[-1]


def test_errors_come_with_their_fix(folders: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("set/train/cat/1.png").write_bytes(b"")
    Path("set/val/dog/0.png").write_bytes(Path("set/train/dog/0.png").read_bytes())
    code, report = inspect("cifar10_5k_tiny", *CLASSES)
    assert code == 1
    found = {one["kind"]: one for one in report["findings"]}
    # The broken picture is not tried again as a sample.
    assert [one["kind"] for one in report["findings"]] == ["unreadable-picture", "batch", "shared-picture"]
    assert found["unreadable-picture"]["where"] == ["set/train/cat/1.png"]
    assert found["batch"]["what"] == "one batch needs 128 items, the part has 6"
    assert found["batch"]["fix"] == "take smaller batches: --batch.total 6 at most"
    said = capfd.readouterr().out
    assert (
        "error: train: 1 picture cannot be read: the file is empty\n  where: set/train/cat/1.png\n  fix: put a good"
        in said
    )
    assert "warning: val: 1 picture of val can be seen in train too" in said
    assert "  fix: remove them from one of the two parts" in said


def test_what_skip_broken_leaves_out_is_no_error(folders: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("train/cat/0.png", "train/cat/1.png", "train/cat/2.png", "val/dog/0.png"):
        Path("set", name).write_bytes(b"")
    options = (*CLASSES, "--data.skip-broken", "--batch.total", "4", "--samples", "2")
    code, report = inspect("cifar10_5k_tiny", *options)
    # Only dogs are left to train on.
    assert code == 1
    assert [one["kind"] for one in report["findings"] if one["severity"] == "error"] == ["one-class"]
    shutil.copy("set/val/cat/0.png", "set/train/cat/0.png")
    code, report = inspect("cifar10_5k_tiny", *options)
    left_out = [one for one in report["findings"] if one["kind"] == "unreadable-picture"]
    assert code == 0
    assert [one["where"] for one in left_out] == [["set/train/cat/1.png", "set/train/cat/2.png"], ["set/val/dog/0.png"]]
    assert {(one["severity"], one["fix"].partition(":")[0]) for one in left_out} == {
        ("warning", "nothing if they may be missing")
    }
    for file in Path("set/val").glob("*/*"):
        file.write_bytes(b"")
    code, report = inspect("cifar10_5k_tiny", *options)
    assert code == 1
    assert report["findings"][0]["fix"] == "put good files in their place: nothing else is left of this part"


def test_no_data(folders: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, report = inspect("camvid_tiny")
    assert code == 1
    assert {one["split"] for one in report["findings"]} == {"train", "val"}
    assert {one["fix"] for one in report["findings"]} == {"say where the data lies: --data.root FOLDER"}
    code, report = inspect("cifar10_5k_tiny", *CLASSES[:-1], "elsewhere")
    assert code == 1
    assert "elsewhere: no such folder" in report["findings"][0]["what"]
    assert {one["fix"] for one in report["findings"]} == {""}
    assert report["statistics"] == {}


def test_camvid(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    code, report = inspect("camvid_tiny", "--data.root", str(data_dir), "--limit", "12", "--samples", "2")
    said = capfd.readouterr().out
    assert (code, report["findings"]) == (0, [])
    assert report["statistics"]["train"]["looked_at"] == 12
    assert report["statistics"]["train"]["pictures"] == 367
    assert "share of the labelled pixels" in said
    road = next(line for line in said.splitlines() if line.startswith("road"))
    assert road.count("%") == 2
    assert "████" in road


def test_people(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--split", "val", "--limit", "60", "--samples", "2", "--data.root", str(data_dir)]
    code, report = inspect("lspet_tiny", *options)
    assert (code, report["findings"]) == (0, [])
    assert list(report["statistics"]) == ["val"]
    assert report["statistics"]["val"]["annotations"] == 800
    assert report["statistics"]["val"]["people"] == 60
    wrong = ("--data.flip-pairs", "left_ankle", "right_wrist", "left_wrist", "right_ankle")
    code, report = inspect("lspet_tiny", *options, *wrong)
    assert code == 1
    assert [one["kind"] for one in report["findings"]] == ["flip-pair-names"]
    assert "leave data.flip_pairs empty" in report["findings"][0]["fix"]
    assert Path("out/contact_sheet.jpg").exists()


def test_one_file_for_everything(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    """CVAT's export of one task: its names hold Windows' folders, and nobody split it."""
    monkeypatch.chdir(tmp_path)
    content = json.loads((data_dir / "coco_tiny/annotations/person_keypoints.json").read_text())
    for image in content["images"]:
        image["file_name"] = f"photos\\{image['file_name']}"
    Path("annotations").mkdir()
    Path("annotations/person_keypoints_default.json").write_text(json.dumps(content))
    Path("images").symlink_to(data_dir / "coco_tiny/images", target_is_directory=True)
    options = ("--data.root", ".", "--batch.total", "2", "--samples", "0")
    code, report = inspect("finetune_pose", *options)
    assert code == 1
    assert [one["what"].partition("; ")[2] for one in report["findings"] if one["kind"] == "open"] == [
        "--data.val-share 0.2 keeps about a fifth of the pictures for validation. Or name a file in "
        "--data.val-annotations"
    ]
    capfd.readouterr()
    code, report = inspect("finetune_pose", *options, "--data.val-share", "0.3")
    said = capfd.readouterr().err.splitlines()
    assert code == 0
    assert said[0] == "annotations/person_keypoints_default.json: taken for the labels of the train part"
    assert said[1].endswith(f"such as {content['images'][0]['file_name']} at images/{coco_name(content)}")
    assert len([line for line in said if line.startswith("--data.val-share 0.3: ")]) == 1
    assert report["statistics"].keys() == {"train", "val"}


def shared_people(folder: Path, data_dir: Path, change: Callable[[dict, tuple[int, int]], object]) -> tuple[str, ...]:
    """Sixteen people of LSPET, each of them changed, in one file for both parts; the options for it."""
    content = json.loads((data_dir / "lspet/annotations/person_keypoints_train.json").read_text())
    content["images"], content["annotations"] = content["images"][:16], content["annotations"][:16]
    for image, person in zip(content["images"], content["annotations"], strict=True):
        change(person, (image["width"], image["height"]))
    (folder / "annotations.json").write_text(json.dumps(content))
    (folder / "images").symlink_to(data_dir / "lspet/images/train", target_is_directory=True)
    return ("--data.root", ".", "--data.val-share", "0.25")


def to_middle(person: dict, size: tuple[int, int]) -> None:
    x, y, width, height = person["bbox"]
    person["bbox"] = [x + width / 2, y + height / 2, width, height]


def to_shares(person: dict, size: tuple[int, int]) -> None:
    person["keypoints"] = [value / (*size, 1)[place % 3] for place, value in enumerate(person["keypoints"])]


def to_nobody(person: dict, size: tuple[int, int]) -> None:
    person["keypoints"] = [0] * len(person["keypoints"])


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (to_middle, "open", "fits as middle and size"),
        (to_shares, "joint-units", "13 of 13 people with all joints within 0..1"),
        (to_nobody, "no-joints", "16 of 16 people without any labelled joint"),
        (lambda person, size: person.update(image_id=10**6), "unknown-picture", "16 annotations of pictures that"),
        (lambda person, size: person.update(keypoints=["3,5"] * 42), "open", "decimal point: 3.5"),
    ],
)
def test_a_fault_of_one_file_is_told_once(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch, change: Any, kind: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, report = inspect("finetune_pose", *shared_people(tmp_path, data_dir, change), "--samples", "0")
    assert (code, [(one["kind"], one["split"]) for one in report["findings"]]) == (1, [(kind, "train")])
    assert said in report["findings"][0]["what"]


def test_training_tells_a_fault_of_one_file_once(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = shared_people(tmp_path, data_dir, to_shares)
    assert main(["train", "finetune_pose", *options, "--runtime.cpu", "--out", "run"]) == 2
    assert capfd.readouterr().err.count("multiply x by the picture's width and y by its height") == 1


def test_an_earlier_report_is_replaced_aloud(folders: Path, capfd: pytest.CaptureFixture[str]) -> None:
    inspect("cifar10_5k_tiny", *CLASSES, "--samples", "0")
    assert "replaced" not in capfd.readouterr().err
    inspect("cifar10_5k_tiny", *CLASSES, "--samples", "0")
    assert "the report in out is replaced; --out takes another folder\n" in capfd.readouterr().err


def test_the_readers_own_refusal_stays(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pictures under one id leave annotations without picture, which is not what is wrong."""
    monkeypatch.chdir(tmp_path)
    options = shared_people(tmp_path, data_dir, lambda person, size: None)
    content = json.loads((tmp_path / "annotations.json").read_text())
    content["images"][1]["id"] = content["images"][0]["id"]
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    _, report = inspect("finetune_pose", *options, "--samples", "0")
    (found,) = report["findings"]
    assert (found["kind"], "each of 'images' must have an id of its own, 1 " in found["what"]) == ("open", True)


def coco_name(content: dict) -> str:
    """Name of the first picture without its folder."""
    return str(content["images"][0]["file_name"]).rpartition("\\")[2]


def test_detections_are_tried(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--split", "val", "--samples", "0", "--data.root", str(data_dir / "coco_tiny")]
    options += ["--data.val-annotations", "annotations/person_keypoints.json", "--data.val-images", "images"]
    boxes = "annotations/person_detections.json"
    code, report = inspect("coco_small_256x192", *options, "--evaluation.detections", boxes)
    assert (code, [one["kind"] for one in report["findings"]]) == (0, ["no-joints"])
    code, report = inspect("coco_small_256x192", *options, "--evaluation.detections", "none.json")
    assert code == 1
    assert report["findings"][0]["kind"] == "detections"
    assert "none.json" in report["findings"][0]["what"]
    assert "leave it out to validate on labelled boxes" in report["findings"][0]["fix"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "name the recipe: hrformer inspect data RECIPE"),
        (["no_such_recipe"], "no recipe is called 'no_such_recipe'"),
        (["camvid_tiny", "--limit", "0"], "--limit must be at least 1"),
        (["camvid_tiny", "--samples", "-1"], "--samples must not be negative"),
    ],
)
def test_wrong_usage(options: list[str], message: str, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = ["--out", str(tmp_path)] if options else []
    assert main(["inspect", "data", *options, *out]) == 2
    assert message in capfd.readouterr().err


def test_interrupt(folders: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: Part, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Part, "look_through", stop)
    assert main(["inspect", "data", "cifar10_5k_tiny", *CLASSES, "--out", "out"]) == 130
    assert "interrupted" in capfd.readouterr().err
    assert not Path("out").exists()


def test_long_lists_are_cut_in_print(capfd: pytest.CaptureFixture[str]) -> None:
    classes = [{"name": f"class{number}", "pictures": 1, "share": 0.01} for number in range(100)]
    numbers = {"items": 100, "pictures": 100, "looked_at": 100, "classes": classes}
    print_report(Report(data="many", task="classification", statistics={"train": numbers}))
    said = capfd.readouterr().out
    assert f"… {100 - ROWS_SHOWN} more" in said
    assert "class0 " in said
    assert "class99" in said
    assert "class50" not in said
