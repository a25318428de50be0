"""One command per task on folders laid out as users have them, offline, then a prediction with the result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hrformer.__main__ import main
from hrformer.train.config import SegmentationRun
from hrformer.train.config_file import read_config

QUICK = (
    "--schedule.updates 4 --schedule.warmup-updates 1 --validate-updates 4 --runtime.cpu --runtime.workers 0 "
    "--log.pictures 2"
)


def run(line: str) -> int:
    return main(line.split())


def link(files: list[Path], folder: Path) -> None:
    folder.mkdir(parents=True)
    for file in files:
        (folder / file.name).symlink_to(file)


@pytest.mark.slow
def test_class_folders(data_dir: Path, tmp_path: Path) -> None:
    for split, count in (("train", 4), ("val", 2)):
        for name in ("cat", "ship"):
            link(sorted((data_dir / "cifar10" / split / name).glob("*.jpg"))[:count], tmp_path / "own" / split / name)
    out = tmp_path / "run"
    assert run(f"train finetune_classification --data.root {tmp_path}/own --out {out} {QUICK}") == 0
    # Cat is a class of the start weights, and keeps its row of their last layer; ship is none.
    assert "1 of the 2 classes are known to the file by name" in (out / "log.txt").read_text()
    picture = next((tmp_path / "own" / "val" / "cat").iterdir())
    assert run(f"predict classify {picture} --weights {out}/best.safetensors --out {tmp_path}/results") == 0
    (found,) = json.loads((tmp_path / "results" / "predictions.json").read_text())
    assert sorted(row["label"] for row in found["predictions"]) == ["cat", "ship"]


@pytest.mark.slow
def test_joints_of_any_names(data_dir: Path, tmp_path: Path) -> None:
    source, own = data_dir / "lspet", tmp_path / "own"
    # Head top, right wrist and left wrist of people stand in for a bird's parts.
    joints, names = (13, 6, 11), ["beak", "right_wing", "left_wing"]
    for split, count in (("train", 8), ("val", 3)):
        content = json.loads((source / "annotations" / f"person_keypoints_{split}.json").read_text())
        kept = [row for row in content["annotations"] if all(row["keypoints"][3 * j + 2] for j in joints)][:count]
        for row in kept:
            row["keypoints"] = [value for j in joints for value in row["keypoints"][3 * j : 3 * j + 3]]
            row["num_keypoints"] = 3
        numbers = {row["image_id"] for row in kept}
        content["images"] = [row for row in content["images"] if row["id"] in numbers]
        content["annotations"] = kept
        content["categories"] = [{"id": 1, "name": "bird", "keypoints": names, "skeleton": [[1, 2], [1, 3]]}]
        link([source / "images" / split / row["file_name"] for row in content["images"]], own / "images" / split)
        (own / "annotations").mkdir(exist_ok=True)
        (own / "annotations" / f"{split}.json").write_text(json.dumps(content))
    out = tmp_path / "run"
    options = (
        f"{QUICK} --batch.total 4 --model.init hrformer_tiny_people17 --model.frozen stem stage1 --augment.size 64 64"
    )
    assert run(f"train finetune_pose --data.root {own} --out {out} {options}") == 0
    picture = next((own / "images" / "val").iterdir())
    assert run(f"predict pose {picture} --weights {out}/best.safetensors --out {tmp_path}/results") == 0
    (found,) = json.loads((tmp_path / "results" / "predictions.json").read_text())
    assert len(found["keypoints"]) == 9


@pytest.mark.slow
def test_pictures_and_masks(data_dir: Path, tmp_path: Path) -> None:
    source, own = data_dir / "camvid", tmp_path / "own"
    for split, count in (("train", 6), ("val", 2)):
        for kind, ending in (("images", "jpg"), ("labels", "png")):
            link(sorted((source / kind / split).glob(f"*.{ending}"))[:count], own / kind / split)
    (own / "classes.txt").symlink_to(source / "classes.txt")
    out = tmp_path / "run"
    size = "--augment.size 96 96"
    assert run(f"train finetune_segmentation --data.root {own} --out {out} {size} {QUICK}") == 0
    config = read_config(out / "config.json")
    assert isinstance(config, SegmentationRun)
    assert (config.model.init, config.augment.short_side, config.evaluation.short_side) == (
        "hrformer_tiny_petspeople",
        96,
        96,
    )
    picture = next((own / "images" / "val").iterdir())
    assert run(f"predict segment {picture} --weights {out}/best.safetensors --out {tmp_path}/results") == 0
    assert (tmp_path / "results" / "masks" / f"{picture.stem}.png").exists()
