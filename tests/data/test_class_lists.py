"""Lists of classes, of masks and of pictures, in the files that people and tools write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrformer.data.class_lists import classes_of_ids, listed_classes
from hrformer.data.segmentation_sets import open_segmentation
from hrformer.data.set_types import DataError, SegmentationSet
from hrformer.data.source_config import SegmentationSource
from mask_trees import mask_of, write_mask, write_text, write_two_pairs


def opened(root: Path, **options: object) -> SegmentationSet:
    return open_segmentation(SegmentationSource(root=root, **options), "train")  # type: ignore[arg-type]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_two_pairs(tmp_path)


def test_names_given_outright_skip_ignored_ids(tree: Path) -> None:
    write_mask(tree / "labels/train/b.png", [0, 1, 2, 3, 255])
    source = opened(tree, classes=("road", "car", "sky"), ignore=(0,))
    assert source.classes == ("road", "car", "sky")
    assert source.mask(1).flatten()[:5].tolist() == [255, 0, 1, 2, 255]


def test_ids_in_the_file_may_be_any(tree: Path) -> None:
    write_text(tree / "labels.txt", "\ufeff7: road\n33\tbicycle 119 11 32\n4,static thing\n255 void 0 0 0\n300 far\n")
    write_mask(tree / "labels/train/b.png", [4, 7, 33, 255, 300, 301], np.uint16)
    source = opened(tree, classes="labels.txt")
    assert source.classes == ("static thing", "road", "bicycle", "far")
    assert source.palette == ()
    with pytest.raises(DataError, match=r"the id 301, .*labels.txt: 4, 7, 33, 300 for classes"):
        source.mask(1)
    source = opened(tree, classes="labels.txt", ignore=(301, 33))
    assert source.classes == ("static thing", "road", "far")
    assert source.mask(1).flatten()[:6].tolist() == [0, 1, 255, 255, 2, 255]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 a\nroad\n", r"list\.txt:2: expected 'id name' or 'id name R G B', got 'road'"),
        ("0 a\n0 b\n", r"list\.txt:2: an id occurs once"),
        ("0 a 1 2 256\n", "colours are 0..255"),
        ("0 a\n1 a\n", "more than once: a"),
        ("# nothing\n", "1 to 255 classes, got 0"),
        ("\n".join(f"{n} c{n}" for n in range(300)), "1 to 255 classes, got 299"),
    ],
)
def test_class_files_that_cannot_be(tree: Path, text: str, message: str) -> None:
    write_text(tree / "list.txt", text)
    with pytest.raises(DataError, match=message):
        opened(tree, classes="list.txt")


@pytest.mark.parametrize("text", ["0 background\n255 road\n", "0 background\n1 car\n255: lane\n"])
def test_255_is_no_class_unless_asked_for(tree: Path, text: str) -> None:
    write_text(tree / "classes.txt", text)
    with pytest.raises(
        DataError,
        match=r"classes\.txt: the line '255 \w+' names a class, but 255 is void here.* Save the class as [12] in the "
        r"masks .*SegmentationSource\.ignore none",
    ):
        opened(tree)
    write_mask(tree / "labels/train/b.png", [0, 255, 0, 0])
    source = opened(tree, ignore="none")
    assert source.classes[-1] in ("road", "lane")
    last = len(source.classes) - 1
    assert source.mask(1).flatten()[:4].tolist() == [0, last, 0, 0]
    # Whoever lists 255 as void has said so.
    if last > 1:
        assert opened(tree, ignore=(255,)).classes == ("background", "car")


def test_255_unlisted_is_unknown_where_nothing_is_void(tree: Path) -> None:
    with pytest.raises(DataError, match=r"hold the id 255, .*0\.\.2 for classes; no id is void"):
        opened(tree, ignore="none").mask(1)
    with pytest.raises(DataError, match="must be ids such as 0 255, or none, got 'all'"):
        opened(tree, ignore="all")


@pytest.mark.parametrize("name", ["void", "Unlabelled", "don't care", "ignore_region", "Border"])
def test_lines_that_call_255_void(tree: Path, name: str) -> None:
    write_text(tree / "classes.txt", f"0 sky\n1 road\n2 car\n255 {name}\n")
    assert opened(tree).classes == ("sky", "road", "car")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 thing\n", r"only, 'thing' \(id 0\), .*list `0 background` and `1 thing`.*`255 background` and set .* none"),
        ("1 thing\n", r"only, 'thing' \(id 1\), .*add `0 background`"),
        ("1 thing\n255 void\n", r"there is one class only"),
    ],
)
def test_one_class_has_nothing_to_tell_it_from(tree: Path, text: str, message: str) -> None:
    write_text(tree / "classes.txt", text)
    with pytest.raises(DataError, match=message):
        opened(tree)
    with pytest.raises(DataError, match="there is one class only"):
        opened(tree, classes=("thing",))
    write_text(tree / "classes.txt", "0 background\n1 thing\n255 void\n")
    with pytest.raises(DataError, match=r"only one class is left, 'thing' .* take 0 out of SegmentationSource\.ignore"):
        opened(tree, ignore=(0,))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "classes.txt",
            "background,road\n",
            r"classes\.txt:1: each class needs a line of its own, got 'background,road'",
        ),
        ("labels.txt", "sky\nroad\n", r"If labels\.txt there is the list: SegmentationSource\.classes labels\.txt"),
        ("obj.names", "sky\nroad\n", r"If obj\.names there is the list: SegmentationSource\.classes obj\.names"),
        ("classes.json", "[]", r"classes\.json there is not read: write its names into classes\.txt, one per line"),
    ],
)
def test_lists_of_other_forms_are_named(tree: Path, name: str, text: str, message: str) -> None:
    (tree / "classes.txt").unlink()
    (tree / name).write_text(text)
    with pytest.raises(DataError, match=message):
        opened(tree)


def test_names_alone_as_labelme_writes_them(tree: Path) -> None:
    (tree / "classes.txt").unlink()
    for text in ("_background_\nroad\ntraffic light\n", "__ignore__\n_background_\nroad\ntraffic light\n"):
        write_text(tree / "class_names.txt", text)
        source = opened(tree)
        assert source.classes == ("_background_", "road", "traffic light")
        assert source.mask(1).flatten()[:4].tolist() == [0, 1, 2, 255]


def test_no_names_at_all(tree: Path) -> None:
    with pytest.raises(DataError, match="1 to 255 classes, got 0"):
        opened(tree, classes=())


def test_colour_masks(tree: Path) -> None:
    write_text(tree / "classes.txt", "0 sky 128 128 128\n1 road 128 64 128\n2 car 64 0 128\n255 void 0 0 0\n")
    lookup = np.zeros((256, 3), np.uint8)
    lookup[:3] = [(128, 128, 128), (128, 64, 128), (64, 0, 128)]
    expected = mask_of([0, 1, 2, 255, 1])
    for name in ("b", "a/c"):
        Image.fromarray(lookup[expected]).save(tree / "labels/train" / f"{name}.png")
    source = opened(tree, palette_masks=True)
    assert source.classes == ("sky", "road", "car")
    assert source.palette == ((128, 128, 128), (128, 64, 128), (64, 0, 128))
    assert np.array_equal(source.mask(1), expected)
    with pytest.raises(DataError, match=r"set SegmentationSource\.palette_masks and"):
        opened(tree).mask(1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 sky 1 2 3\n1 road\n", "need a colour for every class, .*without one: road"),
        ("0 sky 1 2 3\n1 road 1 2 3\n", r"two classes have the colour \(1, 2, 3\)"),
    ],
)
def test_colours_must_tell_classes_apart(tree: Path, text: str, message: str) -> None:
    write_text(tree / "classes.txt", text)
    with pytest.raises(DataError, match=message):
        opened(tree, palette_masks=True)


def test_cifar_classes(data_dir: Path) -> None:
    names = listed_classes(data_dir / "cifar10", ())
    assert (names[0], names[9], len(names)) == ("airplane", "truck", 10)
    assert listed_classes(data_dir / "cifar10", ["a", "b"]) == ("a", "b")
    assert listed_classes(data_dir, ()) == ()


def test_ids_give_the_order_and_names_may_have_spaces(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_text("\ufeff# id name\n1\ttraffic light\n\n0  car\n", encoding="utf-8")
    assert listed_classes(tmp_path, ()) == ("car", "traffic light")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat\ndog\n", r"classes\.txt:1: expected 'id name' such as '0 cat', got 'cat'"),
        ("0 cat\n0 dog\n", r"classes\.txt:2: an id occurs once"),
        ("0 cat\n2 dog\n", r"without a gap, got \[0, 2\]"),
        ("0 cat\n1 cat\n", "two classes have the same name"),
        ("# nothing\n", "without a gap"),
    ],
)
def test_odd_class_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        listed_classes(tmp_path, ())


def test_numbers_stand_for_missing_names() -> None:
    labels = np.array([0, 2, 1])
    assert classes_of_ids(labels, (), "x") == ("0", "1", "2")
    assert classes_of_ids(labels, ("a", "b", "c", "d"), "x") == ("a", "b", "c", "d")
    with pytest.raises(DataError, match="x: item 1 has the label 2, but there are only 2 class names"):
        classes_of_ids(labels, ("a", "b"), "x")
    with pytest.raises(DataError, match="item 2 has the label -1; labels count from 0"):
        classes_of_ids(np.array([0, 2, -1]), (), "x")
    with pytest.raises(DataError, match="holds no pictures"):
        classes_of_ids(np.array([], dtype=np.int64), (), "x")
