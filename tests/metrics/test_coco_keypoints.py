"""COCO's keypoint figures against the goldens and against pycocotools."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from hrformer.geometry.skeletons import COCO17, LSPET14
from hrformer.metrics.coco_keypoints import FIGURES, CocoKeypoints

pytest.importorskip("faster_coco_eval", reason="needs faster-coco-eval, from the extra 'train'")


@pytest.fixture(scope="module")
def tiny(data_dir: Path) -> dict:
    return json.loads((data_dir / "coco_tiny" / "annotations" / "person_keypoints.json").read_text())


def crowded(skeleton=COCO17, images: int = 12, seed: int = 0) -> tuple[dict, list[dict]]:
    """Random people of all sizes, crowds and people without joints among them; over 20 results in a picture, ties."""
    rng = np.random.default_rng(seed)
    count = skeleton.num_keypoints
    annotations, results = [], []
    for image in range(1, images + 1):
        for _ in range(rng.integers(0, 6)):
            corner, size = rng.uniform(0, 300, 2), rng.uniform(15, 250, 2)
            joints = np.column_stack([corner + rng.random((count, 2)) * size, rng.integers(0, 3, count)])
            kind = rng.random()
            joints[:, 2] = 0 if kind < 0.1 else joints[:, 2]
            number = int((joints[:, 2] > 0).sum())
            row = {"image_id": image, "category_id": 1, "id": len(annotations) + 1, "iscrowd": int(0.1 <= kind < 0.2)}
            box = [*corner.tolist(), *size.tolist()]
            row |= {"area": float(size.prod() * 0.5), "bbox": box, "num_keypoints": number}
            annotations.append(row | {"keypoints": joints.ravel().tolist()})
            for _ in range(rng.integers(0, 12)):
                moved = joints + np.column_stack([rng.normal(0, rng.uniform(0, 0.08) * size, (count, 2)), joints[:, 2]])
                score = float(np.round(rng.random(), 1))  # many ties
                row = {"image_id": image, "category_id": 1, "keypoints": moved.ravel().tolist(), "score": score}
                results.append(row)
    rng.shuffle(results)
    pictures = [{"id": image, "width": 640, "height": 640} for image in range(1, images + 1)]
    return {"images": pictures, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}, results


def collected(labels: dict, results: Iterable[dict], sigmas=COCO17.sigmas, **options) -> CocoKeypoints:
    metric = CocoKeypoints(labels, sigmas, **options)
    rows = [{"category_id": 1, **row} for row in results]
    metric.update(rows, range(len(rows)))
    return metric


def by_pycocotools(annotations: dict, results: list[dict], sigmas: tuple[float, ...]) -> dict[str, float]:
    coco = pytest.importorskip("pycocotools.coco", reason="needs pycocotools, from the extra 'dev'")
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = copy.deepcopy(annotations)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(FIGURES, evaluation.stats.tolist(), strict=True))


@pytest.mark.parametrize("case", ["perfect", "jitter_5px", "jitter_8px_dropped", "jitter_20px_dropped"])
def test_matches_the_goldens(tiny: dict, parity_dir: Path, case: str) -> None:
    folder = parity_dir / "protocol"
    golden = json.loads((folder / "ap.json").read_text())
    assert tuple(golden["order"]) == FIGURES
    scores = collected(tiny, json.loads((folder / f"ap_{case}.json").read_text())).compute()
    assert {key: scores[key] for key in FIGURES} == pytest.approx(golden["figures"][case], abs=1e-9)


@pytest.mark.parametrize("boxes", [False, True])
@pytest.mark.parametrize(("skeleton", "seed"), [(COCO17, 0), (COCO17, 4), (LSPET14, 2)])
def test_pycocotools_agrees(skeleton, seed: int, boxes: bool) -> None:
    annotations, results = crowded(skeleton, seed=seed)
    if boxes:
        results = [{**row, "bbox": [0, 0, 50 + 10 * i, 40]} for i, row in enumerate(results)]
    per_image = np.bincount([row["image_id"] for row in results])
    assert per_image.max() > 20
    before = copy.deepcopy((annotations, results))
    want = by_pycocotools(annotations, results, skeleton.sigmas)
    metric = collected(annotations, results, skeleton.sigmas)
    assert {key: metric.compute()[key] for key in FIGURES} == pytest.approx(want, abs=1e-9)
    assert 0.1 < want["AP"] < 0.9
    assert (annotations, results) == before
    # The matching that tables and intervals rest on is COCO's too.
    matches = metric.evaluate().weighted(np.ones(len(annotations["images"]), int))
    assert matches == pytest.approx({key: want[key] for key in matches}, abs=1e-12)


def test_labels_of_lspet_as_predictions_are_perfect(data_dir: Path) -> None:
    labels = json.loads((data_dir / "lspet" / "annotations" / "person_keypoints_val.json").read_text())
    ids = [image["id"] for image in labels["images"]][:60]
    people = [{**row, "score": 1.0} for row in labels["annotations"] if row["image_id"] in ids]
    metric = collected(labels, people, LSPET14.sigmas, joint_names=LSPET14.keypoints, image_ids=ids)
    scores = metric.compute()
    assert scores["AP"] == scores["AR"] == 1
    assert scores["images"] == scores["people"] == 60
    assert {(row["found"], row["similarity"], row["distance"]) for row in scores["per_joint"]} == {(1.0, 1.0, 0.0)}
    everything = collected(labels, metric.results(), LSPET14.sigmas)
    assert everything.compute()["AR"] == pytest.approx(60 / 800)  # pictures without a result count


def test_shards_and_order_of_arrival_change_nothing() -> None:
    annotations, results = crowded()
    whole = collected(annotations, results)
    shards = [CocoKeypoints(annotations, COCO17.sigmas) for _ in range(2)]
    places = np.random.default_rng(0).permutation(len(results)).tolist()
    for shard, part in zip(shards, (places[::2], places[1::2] + places[:4]), strict=True):  # four twice, as padding is
        for place in part:
            shard.update([results[place]], [place])
    shards[0].merge(shards[1].state())
    assert shards[0].results() == whole.results()
    assert shards[0].compute() == whole.compute()
    whole.reset()
    assert whole.results() == []


def test_suppression_drops_who_was_found_twice() -> None:
    annotations, _ = crowded(images=1, seed=1)
    person = next(row for row in annotations["annotations"] if row["num_keypoints"] and not row["iscrowd"])
    far = (np.array(person["keypoints"]).reshape(-1, 3) + np.array([500, 0, 0])).ravel().tolist()
    row = {"image_id": 1, "area": person["area"], "keypoints": person["keypoints"], "score": 0.5}
    rows = [row, {**row, "score": 0.7}, {**row, "keypoints": far, "score": 0.1}]
    metric = collected(annotations, rows, nms_threshold=0.9)
    assert [kept["score"] for kept in metric.results()] == [0.7, 0.1]
    assert set(metric.results()[0]) == {"image_id", "category_id", "keypoints", "score"}
    with pytest.raises(ValueError, match="area that is not finite"):
        metric.update([{"image_id": 1, "category_id": 1, "keypoints": far, "score": 0.1}], [3])


def test_joint_table_counts_people_nobody_found() -> None:
    joints = np.array([[10, 10, 2], [30, 30, 1], [0, 0, 0]], dtype=np.float64)
    person = {"category_id": 1, "iscrowd": 0, "area": 400.0, "bbox": [0, 0, 40, 40], "num_keypoints": 2}
    person["keypoints"] = joints.ravel().tolist()
    people = [{**person, "id": i, "image_id": i} for i in (1, 2)]
    annotations = {"images": [{"id": 1}, {"id": 2}], "annotations": people, "categories": [{"id": 1}]}
    moved = joints + np.array([[0, 0, 0], [4, 3, 0], [9, 9, 0]])  # joint b is 5 pixels off: a quarter of sqrt(area)
    results = [{"image_id": 1, "keypoints": moved, "score": 0.9}]
    metric = collected(annotations, results, (0.1, 0.1, 0.1), joint_names=("a", "b", "c"))
    similarity = float(np.exp(-25 / (2 * 0.2**2 * 400)))
    assert similarity < 0.5
    assert metric.compute()["per_joint"] == [
        {"name": "a", "labelled": 2, "found": 0.5, "similarity": 0.5, "distance": 0.0},
        {"name": "b", "labelled": 2, "found": 0.0, "similarity": pytest.approx(similarity / 2), "distance": 0.25},
        {"name": "c", "labelled": 0, "found": None, "similarity": None, "distance": None},
    ]


def test_nobody_found_and_nobody_labelled(tiny: dict) -> None:
    scores = CocoKeypoints(tiny, COCO17.sigmas).compute()
    assert {scores[key] for key in FIGURES} == {0.0}
    unlabelled = collected(
        {**tiny, "annotations": []}, [{"image_id": 785, "keypoints": np.ones((17, 3)), "score": 1.0}]
    )
    assert {unlabelled.compute()[key] for key in FIGURES} == {-1.0}


def test_interval_encloses_the_figure_and_is_repeatable() -> None:
    annotations, results = crowded(images=40, seed=3)
    results = [{**row, "score": row["score"] + 1e-6 * i} for i, row in enumerate(results)]  # no ties
    found = collected(annotations, results).evaluate()
    intervals = found.intervals(200)
    assert set(intervals) == {"AP", "AP50", "AP75", "AR", "AR50", "AR75"}
    low, high = intervals["AP"]
    assert low < found.figures["AP"] < high < low + 0.5
    assert found.intervals(200) == intervals
    assert found.intervals(200, seed=1) != intervals
    # A picture drawn twice counts as two pictures would.
    again = [{**row, "image_id": 99} for row in annotations["annotations"] if row["image_id"] == 1]
    assert again
    twice = {**annotations, "images": [*annotations["images"], {"id": 99}]}
    twice["annotations"] = [*annotations["annotations"], *again]
    more = [*results, *({**row, "image_id": 99} for row in results if row["image_id"] == 1)]
    drawn = found.weighted([2] + [1] * 39)
    want = collected(twice, more).compute()
    assert drawn == pytest.approx({key: want[key] for key in drawn}, abs=1e-12)
    assert want["AP"] != found.figures["AP"]
    lonely = collected({**annotations, "images": [{"id": 1}], "annotations": []}, [])
    assert lonely.evaluate().intervals(10) == {}


def test_mistakes_are_named(tiny: dict) -> None:
    metric = CocoKeypoints(tiny, COCO17.sigmas)
    row = {"image_id": 785, "category_id": 1, "keypoints": [1.0] * 51, "score": 0.5}
    for wrong, match in [
        ({"image_id": 1}, "image 1, which is not among those evaluated: 785"),
        ({"category_id": 2}, "category 2, which is not among those evaluated: 1$"),
        ({"category_id": None}, "category None, which is not among"),
        ({"keypoints": [1.0] * 50}, "50 numbers, not 3 x 17"),
        ({"score": float("nan")}, "not finite"),
        ({"keypoints": [float("inf")] * 51}, "not finite"),
    ]:
        with pytest.raises(ValueError, match=match):
            metric.update([{**row, **wrong}], [0])
    with pytest.raises(ValueError, match="cannot merge"):
        metric.merge(CocoKeypoints({**tiny, "annotations": []}, LSPET14.sigmas).state())
    with pytest.raises(ValueError, match="51 keypoint numbers, not 3 x 14"):
        CocoKeypoints(tiny, LSPET14.sigmas)
    with pytest.raises(ValueError, match="such as 5"):
        CocoKeypoints(tiny, COCO17.sigmas, image_ids=[5])
    with pytest.raises(ValueError, match="no picture to evaluate"):
        CocoKeypoints(tiny, COCO17.sigmas, image_ids=[]).compute()


@pytest.mark.parametrize("far", [2**53, 2**70])
def test_ids_of_any_size(far: int) -> None:
    annotations, results = crowded(seed=4)
    want = collected(annotations, results).compute()
    # Numbers that floats or 64 bits would mix up, in the same order.
    far_away = {
        "images": [{"id": row["id"] + far} for row in annotations["images"]],
        "categories": [{"id": far, "name": "person"}],
        "annotations": [
            {**row, "image_id": row["image_id"] + far, "category_id": far} for row in annotations["annotations"]
        ],
    }
    moved = [{**row, "image_id": row["image_id"] + far, "category_id": far} for row in results]
    metric = collected(far_away, moved)
    assert metric.compute() == want
    assert metric.results() == moved


def test_the_missing_package_is_named(tiny: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ImportError, match=r"pip install 'hrformer\[train\]'"):
        CocoKeypoints(tiny, COCO17.sigmas).compute()
