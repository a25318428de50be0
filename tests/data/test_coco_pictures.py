"""Pictures are found under whatever names tools write, and never mistaken for others."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from hrformer.data.coco_pictures import find_pictures, picture_folders, plain_name
from hrformer.data.set_types import DataError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def find(root: Path, *names: str) -> list[str]:
    found = find_pictures(names, [root / "images/val", root / "images", root], root, root / "val.json")
    return [Path(path).relative_to(root).as_posix() for path in found]


@pytest.mark.parametrize(
    "name",
    [
        *("a b.jpg", "val/a b.jpg", "images/val/a b.jpg", "./a b.jpg", "val\\a b.jpg", "images\\1\\a b.jpg"),
        *("C:\\Users\\me\\Pictures\\a b.jpg", "/Users/me/labels/a b.jpg", "a%20b.jpg", "a b.JPG", "a b", "A B.Jpg"),
        *("a b.png", "1a2b3c4d-a b.jpg", "images/1a2b-a b.jpg", "/data/upload/3/1a2b3c4d-a%20b.jpg", "../up/a b.jpg"),
        "http://localhost:8080/data/upload/3/1a2b3c4d-a%20b.jpg?token=7",
        *(
            "/data/local-files/?d=mine/a%20b.jpg",
            "https://me.org/data/local-files/?d=mine%2Fa b.jpg",
            "s3://b/c/a b.jpg",
        ),
    ],
)
def test_names_of_tools(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "images/val/a b.jpg", "images/val/b.jpg", "images/train/c.jpg")
    assert find(tmp_path, name) == ["images/val/a b.jpg"]


def test_what_stands_there_comes_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["a%20b.jpg", "1a2b3c4d-a.jpg", "x/a.jpg", "a.jpg", "deep/er/a.png", "weird\\a.jpg"]
    touch(tmp_path, *(f"images/val/{name}" for name in (*names, "a b.jpg")), "images/a.jpg")
    with caplog.at_level(logging.INFO, "hrformer"):
        assert find(tmp_path, *names) == [f"images/val/{name}" for name in names]
    assert not caplog.records
    outside = tmp_path / "outside.jpg"
    touch(tmp_path, "outside.jpg")
    assert find_pictures([str(outside)], [tmp_path / "images"], tmp_path / "images", tmp_path) == [str(outside)]


def test_roboflows_marks_are_read_over_in_files_alone(tmp_path: Path) -> None:
    """Of one picture Roboflow exports several versions, which are not each other."""
    a, b = (f"x_jpg.rf.{mark * 2}.jpg" for mark in ("0123456789abcdef", "fedcba9876543210"))
    touch(tmp_path, f"images/val/{a}", "images/val/y.jpg", "images/val/y_jpg.rf.0123456789abcdef.jpg")
    assert find(tmp_path, "x.jpg", "D:\\y.jpg") == [f"images/val/{a}", "images/val/y.jpg"]
    with pytest.raises(DataError, match=r"lacks 1 of the 1 pictures .* \(3 in all\)"):
        find(tmp_path, b)
    touch(tmp_path, f"images/val/{b}")
    with pytest.raises(DataError, match=r"picture x\.jpg, which could be any of "):
        find(tmp_path, "x.jpg")


def test_pictures_anywhere_below_the_root(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "photos/monday/cam1/1.jpg", "photos/monday/cam2/1.jpg", "photos/2.jpg", ".cache/2.jpg")
    with caplog.at_level(logging.INFO, "hrformer"):
        assert find(tmp_path, "D:\\cam2\\1.jpg", "2.jpg") == ["photos/monday/cam2/1.jpg", "photos/2.jpg"]
    assert "val.json: 2 of its 2 pictures are not where it says" in caplog.text
    with pytest.raises(DataError, match=r"val\.json lists the picture 1\.jpg, which could be any of .*cam1/1\.jpg, "):
        find(tmp_path, "1.jpg")


def test_two_names_never_become_one_picture(tmp_path: Path) -> None:
    touch(tmp_path, "images/1.jpg", "images/2021-05.jpg", "images/05.jpg")
    with pytest.raises(DataError, match=r"cam1/1\.jpg and cam2/1\.jpg, of which only one is here: both would be"):
        find(tmp_path, "cam1/1.jpg", "cam2/1.jpg")
    assert find(tmp_path, "1.jpg", "./1.jpg") == ["images/1.jpg"] * 2
    with pytest.raises(DataError, match="lacks 1 of the 2 pictures"):
        find(tmp_path, "2020-05.jpg", "05.jpg")


def test_missing_pictures_and_what_is_there(tmp_path: Path) -> None:
    touch(tmp_path, "images/val/a.jpg", "images/val/notes.txt")
    message = r"lacks 2 of the 3 pictures of .*val\.json, such as b\.jpg, .*pictures \(1 in all\), such as .*/a\.jpg"
    with pytest.raises(DataError, match=message):
        find(tmp_path, "a.jpg", "b.jpg", "")
    touch(tmp_path, "masks/b.png")
    with pytest.raises(DataError, match=message):
        find(tmp_path, "a.jpg", "b.jpg", "")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(DataError, match=r"1 pictures.*PoseSource\.val_images"):
        find(tmp_path, "b.jpg")


def test_a_root_one_folder_too_deep(tmp_path: Path) -> None:
    touch(tmp_path, "images/val/a.jpg", "annotations/val.json", "other/b.jpg")
    root = tmp_path / "annotations"
    with pytest.raises(DataError, match=rf"no pictures; it is in {tmp_path}, which PoseSource\.root should be; fetch"):
        find_pictures(["val/a.jpg"], [root], root, root / "val.json")
    touch(tmp_path, "images of others/c.jpg", "other/images/b.jpg")
    with pytest.raises(DataError, match="no pictures; fetch"):
        find_pictures(["b.jpg"], [root], root, root / "val.json")


def test_plain_names() -> None:
    assert plain_name(" ./x//y\\z.jpg ") == "x/y/z.jpg"
    assert plain_name("100%.jpg") == "100%.jpg"


def test_folders_of_masks_hold_no_pictures(tmp_path: Path) -> None:
    for folder in ("images/train", "images/val", "masks/train", "labels", "other"):
        (tmp_path / folder).mkdir(parents=True)
    found = picture_folders(tmp_path, [tmp_path / "elsewhere"], "train", tmp_path / "labels/train.json")
    names = [one.relative_to(tmp_path).as_posix() for one in found]
    assert names == ["elsewhere", ".", "labels", "images/train", "images", "other"]


def test_missing_pictures_may_be_left_to_whoever_reads_them(tmp_path: Path) -> None:
    touch(tmp_path, "images/val/a.jpg")
    folders, file = [tmp_path / "images/val", tmp_path], tmp_path / "val.json"
    with pytest.raises(DataError, match=r"lacks 1 of the 2 pictures .* leave them out with PoseSource\.skip_broken"):
        find_pictures(["a.jpg", "b.jpg"], folders, tmp_path, file)
    paths = find_pictures(["a.jpg", "b.jpg"], folders, tmp_path, file, skip_broken=True)
    assert paths == [str(tmp_path / "images/val" / name) for name in ("a.jpg", "b.jpg")]
    with pytest.raises(DataError, match="lacks 2 of the 2 pictures"):
        find_pictures(["b.jpg", "c.jpg"], folders, tmp_path, file, skip_broken=True)


def test_pictures_of_phones_are_named_with_the_remedy(tmp_path: Path) -> None:
    touch(tmp_path, "images/val/IMG_1.HEIC", "images/val/IMG_2.jpg")
    with pytest.raises(DataError, match=r"IMG_1\.HEIC: HEIC is not read here; save such pictures as JPEG"):
        find(tmp_path, "IMG_1.jpg", "IMG_2.jpg")
    # Converted, but the labels still name what the phone wrote.
    assert find(tmp_path, "IMG_2.HEIC") == ["images/val/IMG_2.jpg"]
