from __future__ import annotations

import pickle

import numpy as np
import pytest

from hrformer.data import label_ids
from hrformer.data.class_names import ADE20K, CITYSCAPES, COCO_STUFF, KNOWN_SETS, PASCAL_CONTEXT, voc_palette
from hrformer.data.label_ids import COCO_STUFF_IDS, PASCAL_CONTEXT_IDS, label_table, server_ids, to_server_ids
from hrformer.data.set_types import DataError

TABLES = label_ids.PUBLISHED_TABLES


def converted(table: label_ids.LabelTable, values: list[int], dtype: type = np.uint8) -> list[int]:
    return table.convert(np.array([values], dtype), "mask.png")[0].tolist()


def test_cityscapes_label_ids() -> None:
    table = TABLES["cityscapes"]()
    assert converted(table, [7, 8, 11, 17, 19, 26, 28, 31, 33]) == [0, 1, 2, 5, 6, 13, 15, 16, 18]
    assert converted(table, [0, 1, 4, 6, 9, 10, 14, 16, 18, 29, 30, 255]) == [255] * 12
    with pytest.raises(DataError, match=r"mask.png: 2 of \d+ pixels hold the ids 34, 200, .* label ids 0..33. Take"):
        converted(table, [7, 34, 200])


def test_coco_stuff_ids() -> None:
    table = TABLES["coco_stuff_10k"]()
    # 182 is wood, which an evaluator of the reference code loses.
    assert converted(table, [0, 1, 11, 13, 25, 27, 90, 92, 182]) == [255, 0, 10, 11, 23, 24, 79, 80, 170]
    shifted = TABLES["coco_stuff_164k"]()
    assert converted(shifted, [255, 0, 10, 12, 24, 26, 89, 91, 181]) == [255, 0, 10, 11, 23, 24, 79, 80, 170]
    with pytest.raises(DataError, match=r"the id 12, .*coco_stuff_164k"):
        converted(table, [1, 12])
    with pytest.raises(DataError, match=r"the id 182, .*coco_stuff_10k"):
        converted(shifted, [1, 182])


def test_pascal_context_ids() -> None:
    full = label_ids.pascal_context_full()
    assert converted(full, [2, 9, 255, 284, 458, 0, 1, 3, 459], np.uint16) == [0, 1, 255, 36, 58, 255, 255, 255, 255]
    with pytest.raises(DataError, match="the id 460"):
        converted(full, [2, 460], np.uint16)
    assert converted(label_ids.one_based(59), [0, 1, 59, 255]) == [255, 0, 58, 255]


def test_zero_of_ade20k_is_no_class() -> None:
    table = label_ids.one_based(150)
    assert converted(table, [0, 1, 13, 150]) == [255, 0, 12, 149]
    with pytest.raises(DataError, match=r"the id 151, but the ids here are 0 for none, 1..150"):
        converted(table, [151])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_all_ids_of_a_table(dtype: type) -> None:
    table = label_table((5, 2, 9), (0, 7), meaning="some", advice="Do something.")
    assert converted(table, [5, 2, 9, 0, 7, 255], dtype) == [0, 1, 2, 255, 255, 255]
    unknown = sorted(set(range(255)) - {5, 2, 9, 0, 7})
    for number in unknown:
        with pytest.raises(DataError, match=rf"hold the id {number}, but"):
            converted(table, [5, number], dtype)
    with pytest.raises(DataError, match="the ids 1, 3, 4, 6, 8, 10, 11, 12 and 242 more"):
        converted(table, unknown, dtype)


def test_table_goes_to_another_process() -> None:
    assert converted(pickle.loads(pickle.dumps(label_ids.train_ids(3))), [0, 2, 255]) == [0, 2, 255]


@pytest.mark.parametrize(
    ("ids", "message"),
    [((), "1 to 255 classes, got 0"), ((1, 1), "an id of its own"), ((1, 65536), "0..65535, got"), ((-1,), "got")],
)
def test_tables_that_cannot_be(ids: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        label_table(ids, (), meaning="", advice="")


@pytest.mark.parametrize("dataset", list(TABLES))
def test_server_ids_are_the_inverse_of_reading(dataset: str) -> None:
    count = len(KNOWN_SETS[dataset].classes)
    classes = np.arange(count, dtype=np.uint8)[None]
    written = to_server_ids(dataset, classes)
    assert written.dtype == np.uint8
    assert np.array_equal(TABLES[dataset]().convert(written, ""), classes)
    nothing = to_server_ids(dataset, np.full((1, 1), 255, np.uint8))
    assert TABLES[dataset]().convert(nothing, "").item() == 255
    assert np.array_equal(server_ids(dataset)[:count], written[0])
    with pytest.raises(ValueError, match=rf"has the classes 0..{count - 1}; the mask holds the id {count}"):
        to_server_ids(dataset, np.full((1, 1), count, np.uint8))


def test_server_ids_of_known_classes() -> None:
    assert server_ids("cityscapes")[[0, 13, 18, 255]].tolist() == [7, 26, 33, 0]
    assert server_ids("ade20k")[[0, 149, 255]].tolist() == [1, 150, 0]
    assert server_ids("coco_stuff_10k")[[11, 170, 255]].tolist() == [13, 182, 0]
    assert server_ids("coco_stuff_164k")[[11, 170, 255]].tolist() == [12, 181, 255]
    with pytest.raises(ValueError, match="known for 'camvid'; known: cityscapes"):
        server_ids("camvid")


def test_names_stand_where_the_ids_put_them() -> None:
    assert [len(names) for names in (CITYSCAPES, PASCAL_CONTEXT, COCO_STUFF, ADE20K)] == [19, 59, 171, 150]
    for names in (CITYSCAPES, PASCAL_CONTEXT, COCO_STUFF, ADE20K):
        assert len(set(names)) == len(names)
    context = dict(zip(PASCAL_CONTEXT_IDS, PASCAL_CONTEXT, strict=True))
    assert list(PASCAL_CONTEXT) == sorted(PASCAL_CONTEXT)
    assert [
        context[i] for i in (2, 80, 284, 308, 427, 458)
    ] == "aeroplane cloth person pottedplant tvmonitor wood".split()
    stuff = dict(zip(COCO_STUFF_IDS, COCO_STUFF, strict=True))
    expected = {1: "person", 13: "stop sign", 27: "backpack", 44: "bottle", 67: "dining table", 90: "toothbrush"}
    expected |= {92: "banner", 110: "desk-stuff", 133: "mirror-stuff", 157: "sky-other", 169: "tree", 182: "wood"}
    assert {number: stuff[number] for number in expected} == expected
    ade = {1: "wall", 13: "person", 21: "car", 81: "bus", 90: "television receiver", 128: "bicycle", 150: "flag"}
    assert {number: ADE20K[number - 1] for number in ade} == ade


def test_voc_colours() -> None:
    # From the devkit's pictures: background, aeroplane, person, tvmonitor, and the border's 255.
    palette = voc_palette(256)
    assert [palette[number] for number in (0, 1, 15, 20)] == [(0, 0, 0), (128, 0, 0), (192, 128, 128), (0, 64, 128)]
    assert palette[255] == (224, 224, 192)
