"""Files for test servers."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from hrformer.data.pose_sets import CocoPeople
from hrformer.data.segmentation_sets import open_segmentation
from hrformer.data.set_types import ClassificationSet, SegmentationSet
from hrformer.data.source_config import SegmentationSource
from hrformer.data.views import chosen
from hrformer.evaluate.evaluate import export_predictions, result_names, write_classes, write_coco_results, write_mask
from hrformer.evaluate.files import read_class_file
from hrformer.evaluate.protocols import ClassificationProtocol, PoseProtocol, SegmentationProtocol
from hrformer.models.model import VisionModel
from hrformer.predict.classify import ClassificationPredictor
from hrformer.predict.segment import SegmentationPredictor


@pytest.mark.parametrize("world_size", [1, 2])
def test_people(world_size: int, poser: VisionModel, athletes: CocoPeople, tmp_path: Path, threads) -> None:
    protocol = PoseProtocol(flip=False, batch_size=3)
    done = []
    (path, *_) = threads(world_size).run(
        lambda own: export_predictions(
            poser, athletes, protocol, tmp_path, limit=6, processes=own, progress=lambda *count: done.append(count)
        )
    )
    rows = json.loads(path.read_text())
    assert path == tmp_path / "keypoints.json"
    assert [row["image_id"] for row in rows] == [athletes.person(index).image_id for index in range(6)]
    assert {len(row["keypoints"]) for row in rows} == {42}
    assert done[-1] == (6, 6)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["keypoints.json"]


@pytest.mark.parametrize("world_size", [1, 2])
def test_masks(world_size: int, segmenter: VisionModel, streets: SegmentationSet, tmp_path: Path, threads) -> None:
    protocol = SegmentationProtocol(short_side=60)
    threads(world_size).run(
        lambda own: export_predictions(segmenter, streets, protocol, tmp_path, limit=3, processes=own)
    )
    predictor = SegmentationPredictor(segmenter, device="cpu")
    for index in range(3):
        file = tmp_path / "masks" / f"{Path(streets.file(index)).stem}.png"
        stored = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(stored, predictor(streets.file(index), short_side=60).mask)
    assert len(list((tmp_path / "masks").iterdir())) == 3


def test_set_without_labels(segmenter: VisionModel, data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "test").symlink_to(data_dir / "camvid" / "images" / "val")
    (tmp_path / "classes.txt").symlink_to(data_dir / "camvid" / "classes.txt")
    hidden = open_segmentation(SegmentationSource(root=tmp_path, test="test"), "test")
    assert not hidden.labelled
    out = export_predictions(
        segmenter, hidden, SegmentationProtocol(short_side=60), tmp_path / "out", dataset="cityscapes", limit=1
    )
    (file,) = out.iterdir()
    # Label ids of the server: 7 is road, the first of the class numbers.
    assert set(np.unique(cv2.imread(str(file), cv2.IMREAD_UNCHANGED))) <= {7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23}


@pytest.mark.parametrize("world_size", [1, 2])
def test_classes(world_size: int, classifier: VisionModel, pictures: ClassificationSet, tmp_path, threads) -> None:
    source = chosen(pictures, range(0, 1000, 150))
    files = [Path(source.file(index)) for index in range(len(source))]
    ids = [100 + number for number in range(10)]
    threads(world_size).run(
        lambda own: export_predictions(
            classifier, source, ClassificationProtocol(batch_size=2), tmp_path, ids=ids, processes=own
        )
    )
    lines = (tmp_path / "classes.txt").read_text().splitlines()
    results = ClassificationPredictor(classifier, device="cpu")(files)
    expected = [" ".join(str(100 + number) for number in result.class_ids) for result in results]
    assert lines == expected
    table = (tmp_path / "classes.csv").read_text().splitlines()
    assert table[0] == "file,class_id_1,class_id_2,class_id_3,class_id_4,class_id_5"
    assert table[1] == f"{files[0]},{','.join(map(str, results[0].class_ids))}"


def test_coco_results_are_rounded_and_hold_four_fields(tmp_path: Path) -> None:
    row = {"image_id": 3, "category_id": 1, "keypoints": [1.23456, 2.0, 0.12345678], "score": 1 / 3, "bbox": [0] * 4}
    write_coco_results(tmp_path / "r.json", [row])
    (stored,) = json.loads((tmp_path / "r.json").read_text())
    assert stored == {"image_id": 3, "category_id": 1, "keypoints": [1.235, 2.0, 0.123457], "score": 1 / 3}
    with pytest.raises(ValueError, match="Out of range"):
        write_coco_results(tmp_path / "r.json", [{**row, "score": float("nan")}])
    assert json.loads((tmp_path / "r.json").read_text()) == [stored]


def test_server_masks(tmp_path: Path) -> None:
    def stored(mask: np.ndarray, dataset: str = "") -> list:
        write_mask(tmp_path / "a.png", mask, dataset)
        return cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED).tolist()

    mask = np.arange(4, dtype=np.int32).reshape(2, 2)
    assert stored(mask, "ade20k") == [[1, 2], [3, 4]]
    assert stored(mask + 300) == [[300, 301], [302, 303]]
    with pytest.raises(ValueError, match="no result ids are known"):
        write_mask(tmp_path / "b.png", mask, "camvid")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_names_of_results() -> None:
    class Named(ClassificationSet):
        name, classes = "named", ("a",)

        def __init__(self, *files: str) -> None:
            self.files = files

        def __len__(self) -> int:
            return len(self.files)

        def file(self, index: int) -> str:
            return self.files[index]

        def pixels(self, index: int) -> np.ndarray:
            raise AssertionError

        def label(self, index: int) -> int:
            return 0

    assert result_names(Named("v/a.jpg", "w/b.png"), 2) == ["a", "b"]
    assert result_names(Named("v/a.jpg", "w/a.jpg"), 2) == ["v_a", "w_a"]
    assert result_names(Named("v/a.jpg", "w/a.jpg"), 1) == ["a"]
    with pytest.raises(ValueError, match=r"v/a\.jpg and v/A\.png would have one name"):
        result_names(Named("v/a.jpg", "v/A.png"), 2)


def test_tables_of_classes(tmp_path: Path) -> None:
    names, rows = ["a, b.jpg", "é.jpg"], [[2, 0], [1, 2]]
    write_classes(tmp_path, names, rows)
    assert list(read_class_file(tmp_path / "classes.csv", ("cat", "dog", "owl"))) == list(zip(names, rows, strict=True))
    assert (tmp_path / "classes.txt").read_text() == "2 0\n1 2\n"
    write_classes(tmp_path, names, rows, ids=[11, 12, 13])
    assert (tmp_path / "classes.txt").read_text() == "13 11\n12 13\n"
    with pytest.raises(ValueError, match="server ids for 2 classes, but class 2"):
        write_classes(tmp_path, ["a"], [[2, 0]], ids=[11, 12])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classes.csv", "classes.txt"]
