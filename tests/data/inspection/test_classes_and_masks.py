"""Classification and segmentation sets that are broken in one way each; each way has its message and its fix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from hrformer.data.classification_sets import open_classification
from hrformer.data.inspection.parts import Part, compare
from hrformer.data.inspection.report import Finding
from hrformer.data.label_ids import UnknownIds
from hrformer.data.segmentation_sets import open_segmentation
from hrformer.data.set_types import ClassificationSet
from hrformer.data.source_config import ClassificationSource, SegmentationSource, Split

Found = dict[str, Finding]
RANDOM = np.random.default_rng(0)


def picture(height: int = 8, width: int = 10) -> np.ndarray:
    return RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8)


def look(part: Part, limit: int | None = None) -> Found:
    part.look_through(limit=limit)
    return {one.kind: one for one in part.findings()}


@pytest.fixture
def classes(tmp_path: Path) -> Callable[..., Part]:
    """Writes class folders with so many pictures each, and opens them."""

    def write(counts: dict[str, int], split: Split = "train", crop: tuple[int, int] = (8, 8)) -> Part:
        for name, count in counts.items():
            folder = tmp_path / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                cv2.imwrite(str(folder / f"{number:02d}.png"), picture())
        source = ClassificationSource(root=tmp_path)
        return Part(open_classification(source, split), split, crop=crop)

    return write


@pytest.fixture
def masks(tmp_path: Path) -> Callable[..., Part]:
    """Writes masks with pictures beside them, and opens them; three classes."""

    def write(
        *arrays: np.ndarray, split: Split = "train", names: str = "0 sky,1 road,2 car", ignore: Any = (), **options: Any
    ) -> Part:
        (tmp_path / "classes.txt").write_text(names.replace(",", "\n"))
        for number, array in enumerate(arrays):
            for kind, pixels in (("images", picture()), ("labels", array)):
                folder = tmp_path / kind / split
                folder.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / f"{number}.png"), pixels)
        source = open_segmentation(SegmentationSource(root=tmp_path, test="test", ignore=ignore), split)
        return Part(source, split, **{"crop": (8, 8)} | options)

    return write


def mask(*rows: int) -> np.ndarray:
    """(8, 10), each row of one id."""
    return np.repeat(np.array(rows or (0, 1, 2, 0, 1, 2, 0, 1), np.uint8)[:, None], 10, axis=1)


def test_nothing_is_wrong_with_sound_sets(classes: Callable[..., Part], masks: Callable[..., Part]) -> None:
    part = classes({"cat": 3, "dog": 2})
    assert look(part) == {}
    numbers = part.statistics()
    assert (numbers["items"], numbers["pictures"], numbers["looked_at"]) == (5, 5, 5)
    assert numbers["width"] == {"smallest": 10, "median": 10, "largest": 10}
    assert numbers["classes"][0] == {"name": "cat", "pictures": 3, "share": 0.6}
    part = masks(mask(), mask(0, 1, 2, 2, 2, 255, 255, 255))
    assert look(part) == {}
    numbers = part.statistics()
    assert numbers["void"] == pytest.approx(3 / 16)
    assert [row["pictures"] for row in numbers["classes"]] == [2, 2, 2]
    assert numbers["classes"][2]["share"] == pytest.approx(5 / 13, abs=1e-6)


def test_unreadable_pictures(classes: Callable[..., Part], tmp_path: Path) -> None:
    part = classes({"cat": 4, "dog": 2})
    (tmp_path / "train/cat/01.png").write_bytes(b"")
    (tmp_path / "train/cat/02.png").unlink()
    (tmp_path / "train/dog/00.png").write_bytes(b"no picture")
    part.look_through()
    found = [one for one in part.findings() if one.kind == "unreadable-picture"]
    assert {one.what for one in found} == {
        "1 picture cannot be read: the file is empty",
        "1 picture cannot be read: no such file",
        "1 picture cannot be read: not a picture in a format known here",
    }
    assert {Path(one.where[0]).name for one in found} == {"00.png", "01.png", "02.png"}
    assert all(one.severity == "error" and one.fix.startswith("put a good file ") for one in found)


def test_small_pictures(classes: Callable[..., Part], masks: Callable[..., Part]) -> None:
    found = look(classes({"cat": 2, "dog": 2}, crop=(9, 9)))["small-picture"]
    assert found.severity == "warning"
    assert found.what == "4 of 4 pictures smaller than the training crop of 9 x 9"
    assert "--augment.size 8 9 fits all" in found.fix
    # What counts is the size after the short side was brought to its length.
    assert "small-picture" in look(masks(mask(), crop=(16, 16)))
    assert "small-picture" not in look(masks(mask(), crop=(16, 16), short_side=16))


def test_copies(classes: Callable[..., Part], tmp_path: Path) -> None:
    part, val = classes({"cat": 3, "dog": 2}), classes({"cat": 1, "dog": 1}, split="val")
    train = tmp_path / "train"
    (train / "cat/01.png").write_bytes((train / "cat/00.png").read_bytes())
    (train / "dog/01.png").write_bytes((train / "cat/00.png").read_bytes())
    (tmp_path / "val/dog/00.png").write_bytes((train / "dog/00.png").read_bytes())
    found = look(part)
    assert found["copies"].what == "2 pictures repeat another one, pixel for pixel"
    assert "counts twice" in found["copies"].fix
    assert found["contradiction"].what == "1 picture occurs again with another class"
    assert "(cat) = " in found["contradiction"].where[0]
    assert found["contradiction"].fix == "keep each picture in one class only"
    assert look(val) == {}
    (shared,) = compare(part, val)
    assert (shared.severity, shared.kind, shared.split) == ("warning", "shared-picture", "val")
    assert shared.where == (f"{tmp_path / 'val/dog/00.png'} = {train / 'dog/00.png'}",)
    assert shared.fix == "remove them from one of the two parts"


def test_class_counts(classes: Callable[..., Part]) -> None:
    train, val = classes({"cat": 12, "cow": 2, "dog": 1}), classes({"dog": 2}, split="val")
    found = look(val)
    assert set(found) == {"empty-class"}
    assert found["empty-class"].where == ("cat", "cow")
    assert found["empty-class"].what == "2 classes of 3 have no picture"
    assert "remove them from the list" in found["empty-class"].fix
    found = look(train)
    assert set(found) == {"imbalance"}
    assert found["imbalance"].where == ("dog",)
    assert "'cat' has 12 pictures, 'dog' has 1" in found["imbalance"].what
    assert "the score of each class" in found["imbalance"].fix


def test_a_single_class(classes: Callable[..., Part]) -> None:
    found = look(classes({"cat": 2}))["one-class"]
    assert (found.severity, found.what) == (
        "error",
        "all pictures have the class 'cat': there is nothing to tell apart",
    )
    assert "one folder per class" in found.fix


class Mislabelled(ClassificationSet):
    """A reader of somebody's own, whose labels count from 1."""

    name, classes = "own", ("cat", "dog")

    def __len__(self) -> int:
        return 4

    def file(self, index: int) -> str:
        return f"{index}.png"

    def pixels(self, index: int) -> np.ndarray:
        return picture()

    def label(self, index: int) -> int:
        return 1 + index % 2


def test_labels_out_of_range() -> None:
    found = look(Part(Mislabelled(), "train", crop=(8, 8)))["label-range"]
    assert found.severity == "error"
    assert found.what == "2 labels are no class; ids must lie in 0..1"
    assert found.places == "1.png (label 2), 3.png (label 2)"
    assert "ids count from 0" in found.fix


def test_parts_with_different_classes(classes: Callable[..., Part], tmp_path: Path) -> None:
    train, other = classes({"cat": 2, "dog": 2}), tmp_path / "other"
    (other / "val/dog").mkdir(parents=True)
    (other / "val/pig").mkdir()
    for name in ("dog", "pig"):
        cv2.imwrite(str(other / "val" / name / "0.png"), picture())
    val = Part(open_classification(ClassificationSource(root=other), "val"), "val", crop=(8, 8))
    look(train), look(val)
    (found,) = compare(train, val)
    assert (found.severity, found.kind) == ("error", "different-names")
    assert found.what == "the classes of the train part (2) and of the val part (2) differ"
    assert found.where == ("cat (only in train)", "pig (only in val)")
    assert "in the same order" in found.fix


def test_masks_that_cannot_be_used(masks: Callable[..., Part], tmp_path: Path) -> None:
    part = masks(mask(), mask(0, 1, 2, 3, 0, 0, 0, 7), mask(), mask()[:4], mask())
    (tmp_path / "labels/train/2.png").write_bytes(b"broken")
    part.look_through()
    found = {one.kind: one for one in part.findings()}
    assert set(found) == {"mask-ids", "mask-size", "unreadable-mask"}
    assert {one.severity for one in found.values()} == {"error"}
    assert found["mask-ids"].what == "1 mask holds ids that are no class: 3, 7; the classes' ids are 0..2"
    assert found["mask-ids"].where == (f"{tmp_path / 'labels/train/1.png'} (ids 3, 7)",)
    assert "or list ids that are no class: --data.ignore ID" in found["mask-ids"].fix
    assert found["mask-size"].where == (
        f"{tmp_path / 'labels/train/3.png'} (10 x 4, picture {tmp_path / 'images/train/3.png'} 10 x 8)",
    )
    assert "do not resize it" in found["mask-size"].fix
    assert found["unreadable-mask"].where == (str(tmp_path / "labels/train/2.png"),)
    assert found["unreadable-mask"].fix.startswith("put a good file ")


@pytest.mark.parametrize(
    ("rows", "options", "fix"),
    [
        ([(1, 2, 3, 1, 2, 3, 1, 255), (1, 1, 1, 2, 2, 2, 2, 2)], {}, "labels count from 1: 0 is in no mask, and 3 has"),
        ([(1, 2, 3, 1, 2, 3, 1, 255), (0, 1, 1, 2, 2, 2, 2, 2)], {}, "one id more than the 3 classes"),
        ([(0, 128, 255, 0, 0, 0, 0, 0), (0, 0, 0, 0, 0, 0, 0, 0)], {}, "0, 128, 255 look like grey levels, not ids"),
        ([(0, 64, 191, 0, 0, 0, 0, 0)], {}, "0, 64, 191 look like grey levels, not ids"),
        ([(0, 38, 75, 0, 0, 0, 0, 0)], {}, "0, 38, 75 look like grey levels, not ids"),
        # Forgotten lines and numbers of objects are not taken for anything else.
        ([(0, 1, 3, 4, 0, 0, 0, 0)], {}, "name all classes in data.classes"),
        ([(0, 7, 21, 33, 0, 0, 0, 0)], {}, "name all classes in data.classes"),
        (
            [(0, 1, 2, 3, 0, 0, 0, 0), (0, 1, 2, 2, 0, 0, 0, 0)],
            {"names": "0 background,1 cell"},
            "1..3 tell single objects of one class apart",
        ),
        ([(0, 1, 2, 255, 0, 0, 0, 0)], {"ignore": "none"}, "leave --data.ignore none out"),
        ([(0, 1, 2, 0, 0, 0, 0, 0)], {"names": "1 road,2 car"}, "add `0 background`"),
    ],
)
def test_what_unknown_ids_are(
    masks: Callable[..., Part], rows: list[tuple[int, ...]], options: dict[str, Any], fix: str
) -> None:
    found = look(masks(*(mask(*ids) for ids in rows), **options))
    assert found["mask-ids"].severity == "error"
    assert fix in found["mask-ids"].fix
    # Shares of classes would be those of other classes.
    assert not {"one-class", "empty-class"} & set(found)


def test_absent_classes_may_be_shifted_or_void(masks: Callable[..., Part]) -> None:
    found = look(masks(mask(1, 1, 1, 1, 2, 2, 2, 2)))["empty-class"]
    assert found.where == ("sky",)
    assert found.fix.endswith("do the ids in the masks count from 1?")
    found = look(masks(mask(0, 0, 0, 1, 1, 1, 255, 255)))["empty-class"]
    assert found.fix.endswith("was one of them saved as 255, which is void here (25% of the pixels)?")


def test_smoothed_masks(masks: Callable[..., Part]) -> None:
    found = look(masks(np.arange(80, dtype=np.uint8).reshape(8, 10)))
    assert "edges that were smoothed in resizing" in found["mask-ids"].fix


def test_the_reader_says_which_ids_it_does_not_know(masks: Callable[..., Part]) -> None:
    source = masks(mask(0, 1, 2, 0, 0, 0, 0, 0), names="1 road,2 car").source
    with pytest.raises(UnknownIds, match=r"hold the id 0, .*add the line `0 background` to .*classes\.txt") as caught:
        source.mask(0)
    assert (caught.value.unknown, caught.value.found, caught.value.listed) == ((0,), (0, 1, 2), (1, 2))


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_class_saved_as_void(masks: Callable[..., Part], split: Split) -> None:
    found = look(masks(mask(0, 0, 0, 0, 0, 0, 255, 255), split=split))["one-class"]
    assert found.severity == "error"
    assert "; 25% of the pixels are 255, which is void here" in found.what
    assert "save the class as its own id (1 where ids count from 0), or list `255 road` in data.classes" in found.fix
    assert found.fix.endswith("and give --data.ignore none")


def test_a_validation_part_of_one_class(masks: Callable[..., Part]) -> None:
    part = masks(mask(*[0] * 8), mask(*[0] * 8), split="val")
    found = look(part)["one-class"]
    assert found.severity == "error"
    assert found.what.endswith("nothing to tell it from; with nothing else in val, its score means nothing")
    assert found.fix.startswith("move pictures with 'road', 'car' to val, if train has them; else look at a mask")
    # Where not all masks were looked at, the others may show more.
    assert look(Part(part.source, "val", crop=(8, 8)), limit=1)["one-class"].severity == "warning"


@pytest.mark.parametrize(
    ("height", "width", "fix"),
    [
        (10, 8, "EXIF orientation"),
        (8, 9, "do not resize it"),
        (16, 20, "resize the mask to 10 x 8 by nearest neighbour only"),
    ],
)
def test_no_advice_distorts_a_mask(masks: Callable[..., Part], height: int, width: int, fix: str) -> None:
    array = np.zeros((height, width), np.uint8)
    array[0, 0] = 1
    found = look(masks(array))["mask-size"]
    assert fix in found.fix


def test_sizes_are_compared_without_decoding(masks: Callable[..., Part], tmp_path: Path) -> None:
    found = look(masks(mask(), mask(), mask(), mask()[:, :9]), limit=1)
    assert found["mask-size"].where == (
        f"{tmp_path / 'labels/train/3.png'} (9 x 8, picture {tmp_path / 'images/train/3.png'} 10 x 8)",
    )
    assert found["mask-size"].count == 1


def test_void_masks(masks: Callable[..., Part], tmp_path: Path) -> None:
    found = look(masks(mask(), mask(*[255] * 8), mask(0, 255, 255, 255, 255, 255, 255, 255)))
    assert found["void-mask"].severity == "warning"
    assert found["void-mask"].what == "1 of 3 masks without any label: all is void (255)"
    assert found["void-mask"].where == (str(tmp_path / "labels/train/1.png"),)
    assert found["void-mask"].fix == "label these pictures or take them out of the set"
    assert found["void-share"].what == "62% of the pixels have no label"
    assert "a class whose id is ignored" in found["void-share"].fix


def test_nothing_but_void(masks: Callable[..., Part]) -> None:
    found = look(masks(mask(*[255] * 8)))
    assert set(found) == {"void-mask"}
    assert (found["void-mask"].severity, found["void-mask"].fix) == (
        "error",
        "255 means void; save class ids 0..2 in the masks",
    )


def test_classes_in_masks(masks: Callable[..., Part]) -> None:
    found = look(masks(mask(0, 0, 0, 0, 1, 1, 1, 1)))
    assert found["empty-class"].where == ("car",)
    assert found["empty-class"].what == "1 of 3 classes nowhere to be seen in the 1 mask looked at"
    assert "remove them from the list of classes" in found["empty-class"].fix
    found = look(masks(mask(*[1] * 8)))
    assert found["one-class"].severity == "error"
    assert "the class 'road'" in found["one-class"].what
    assert "class ids 0..2, neither colours nor grey levels" in found["one-class"].fix


def test_rare_classes(masks: Callable[..., Part]) -> None:
    many = [mask() for _ in range(20)]
    for array in many:
        array[array == 2] = 1
    many[3][0, 0] = 2
    found = look(masks(*many))["imbalance"]
    assert found.severity == "warning"
    assert found.where == ("car (0.062%)",)
    assert "--loss.class-weights auto" in found.fix


def test_classes_that_only_validation_has(masks: Callable[..., Part]) -> None:
    train, val = masks(mask(0, 0, 0, 0, 1, 1, 1, 1)), masks(mask(), mask(), split="val")
    look(train), look(val)
    found = {one.kind: one for one in compare(train, val)}["unseen-class"]
    assert (found.severity, found.split, found.where) == ("warning", "val", ("car",))
    assert found.what == "1 class occurs in val, but not in train"
    assert "add such pictures" in found.fix


def test_unlabelled_test_parts_are_looked_at_too(masks: Callable[..., Part], tmp_path: Path) -> None:
    masks(mask(), mask(), split="test")
    for file in (tmp_path / "labels/test").iterdir():
        file.unlink()
    (tmp_path / "labels/test").rmdir()
    part = Part(open_segmentation(SegmentationSource(root=tmp_path, test="test"), "test"), "test", crop=(8, 8))
    assert look(part) == {}
    assert not part.labelled
    assert part.statistics()["looked_at"] == 2


def test_limit_looks_at_some_pictures_but_at_all_labels(classes: Callable[..., Part]) -> None:
    part = classes({"cat": 6, "dog": 6})
    seen: list[tuple[int, int]] = []
    part.look_through(limit=4, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert part.statistics()["looked_at"] == 4
    assert [row["pictures"] for row in part.statistics()["classes"]] == [6, 6]
    assert list(part.findings()) == []
