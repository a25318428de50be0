"""The folder that ``hrformer predict pose`` wrote, as tracks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrformer.cli.output import OutputFolder
from hrformer.formats.pictures import pictures_of, read_pictures
from hrformer.formats.write import write_results
from hrformer.geometry.skeletons import COCO17, Skeleton
from hrformer.predict.results import Keypoints

HAND = Skeleton(name="hand", keypoints=("wrist", "tip"), flip_pairs=(), edges=((0, 1),), sigmas=(0.1, 0.1))


def found(path: str, people: int, skeleton: Skeleton = COCO17, size: tuple[int, int] = (60, 80)) -> Keypoints:
    joints = np.random.default_rng(people).uniform(0, 1, (people, len(skeleton.keypoints), 3)).astype(np.float32)
    return Keypoints(
        image=np.zeros((*size, 3), np.uint8),
        keypoints=joints,
        scores=np.ones(people),
        boxes=np.zeros((people, 4)),
        box_scores=np.ones(people),
        names=skeleton.keypoints,
        skeleton=skeleton,
        path=path,
    )


def predicted(folder: Path, results: list[Keypoints], task: str = "pose") -> Path:
    output = OutputFolder(folder, {"task": task, "weights": "w"}, pictures=False, resume=False)
    output.plan([str(one.path) for one in results])
    for one in results:
        output.add(one)
    output.flush()
    return folder


def test_pictures_are_frames_and_people_are_counted(tmp_path: Path) -> None:
    results = [found("b/7.jpg", 2), found("a/x.png", 1), found("c/y.png", 0), found("d/z.png", 3)]
    tracks = read_pictures(predicted(tmp_path / "out", results), rate=2)
    assert tracks.frames.tolist() == [0, 1, 1, 3, 3, 3]
    assert tracks.tracks.tolist() == [1, 1, 2, 1, 2, 3]
    assert tracks.times.tolist() == [0, 0.5, 1, 1.5]
    joints = np.concatenate([results[place].keypoints for place in (1, 0, 3)])
    np.testing.assert_allclose(tracks.keypoints, joints, atol=5.1e-4)
    assert (tracks.source.name, tracks.source.size, tracks.source.skeleton) == ("out", (80, 60), COCO17)
    assert [(one.file_name, one.id) for one in pictures_of(tracks)] == [
        ("x.png", 1),
        ("7.jpg", 7),
        ("y.png", 2),
        ("z.png", 3),
    ]


def test_coco_files_keep_ids_names_and_sizes_of_the_pictures(tmp_path: Path) -> None:
    folder = predicted(tmp_path / "out", [found("b/7.jpg", 2), found("a/x.png", 1, size=(30, 40))])
    tracks = read_pictures(folder)
    tracks.save(tmp_path / "tracks.parquet")
    write_results(tracks, tmp_path / "labels.json", to="coco-tracks")
    write_results(tracks, tmp_path / "results.json", to="coco")
    labels = json.loads((tmp_path / "labels.json").read_text())
    assert [(one["id"], one["file_name"], one["width"]) for one in labels["images"]] == [
        (1, "x.png", 40),
        (7, "7.jpg", 80),
    ]
    ours, theirs = (json.loads(file.read_text()) for file in (tmp_path / "results.json", folder / "predictions.json"))
    for one, other in zip(ours, theirs, strict=True):
        assert one["image_id"] == other["image_id"]
        np.testing.assert_allclose(one["keypoints"], other["keypoints"], atol=1e-6)
    with pytest.raises(ValueError, match="30 to 60 pixels high"):
        write_results(tracks, tmp_path / "trc", to="trc")


def test_joints_are_named_by_the_folder_else_by_their_number(tmp_path: Path) -> None:
    folder = predicted(tmp_path / "hand", [found("a.png", 1, HAND)])
    tracks = read_pictures(folder)
    assert (tracks.source.names, tracks.source.skeleton) == (HAND.keypoints, HAND)
    again = OutputFolder(folder, {"task": "pose", "weights": "w"}, pictures=False, resume=True)
    again.flush()
    assert read_pictures(folder).source.skeleton == HAND
    forget(folder)
    with pytest.raises(ValueError, match="does not name its 2 joints"):
        read_pictures(folder)
    forget(predicted(tmp_path / "people", [found("a.png", 1)]))
    assert read_pictures(tmp_path / "people").source.skeleton == COCO17


def forget(folder: Path) -> None:
    """As folders were before they named the joints."""
    change(folder / "images.json", lambda index: index.pop("joints"))


def change(file: Path, how: Any) -> None:
    content = json.loads(file.read_text())
    how(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("file", "how", "message"),
    [
        ("images.json", lambda index: index["run"].update(task="segmentation"), "the task segmentation"),
        ("images.json", lambda index: index["images"][0].pop("id"), r"images\.json is not as"),
        ("images.json", lambda index: index.pop("run"), r"images\.json is not as"),
        ("predictions.json", lambda records: records[1].update(image_id=99), r"record 1 needs image_id"),
        ("predictions.json", lambda records: records[1]["keypoints"].pop(), r"record 1: keypoints must be finite"),
        ("predictions.json", lambda records: records[0].update(keypoints="x"), r"record 0 needs image_id"),
    ],
)
def test_damaged_folders_are_refused_by_file_and_record(tmp_path: Path, file: str, how: Any, message: str) -> None:
    folder = predicted(tmp_path, [found("a.png", 2)])
    change(folder / file, how)
    with pytest.raises(ValueError, match=message):
        read_pictures(folder)


def test_what_is_no_folder_of_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"images\.json: no such file"):
        read_pictures(tmp_path)
    (tmp_path / "clip.parquet").touch()
    with pytest.raises(FileNotFoundError, match=r"name a file of tracks in it: clip\.parquet"):
        read_pictures(tmp_path)
    (tmp_path / "images.json").write_text("{")
    with pytest.raises(ValueError, match=r"images\.json is no JSON"):
        read_pictures(tmp_path)
    for rate in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="pictures per second"):
            read_pictures(tmp_path, rate)
