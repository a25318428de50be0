"""Small sets as users have them (``shared/cases``): what inspecting them and training on them says.

Each set stands for a kind of fault that labelling tools and cameras make; the tests of the readers have the rest.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from hrformer.__main__ import main
from training import WEIGHTS

POSE = (
    *("train", "finetune_pose", "--model.name", "hrformer_nano"),
    *("--model.init", str(WEIGHTS / "hrformer_nano_lspet.safetensors")),
    *("--augment.size", "64", "64"),
)
MASKS = (
    *("train", "finetune_segmentation", "--model.name", "hrformer_nano"),
    *("--model.init", str(WEIGHTS / "hrformer_nano_camvid.safetensors")),
    *("--augment.size", "64", "64", "--augment.short-side", "64", "--evaluation.short-side", "64"),
)
SHORT = (
    *("--schedule.updates", "2", "--schedule.warmup-epochs", "0", "--schedule.warmup-updates", "0"),
    *("--batch.total", "4", "--runtime.cpu", "--runtime.workers", "0", "--log.trackers"),
)


@pytest.fixture(scope="session")
def cases(shared_dir: Path) -> ModuleType:
    """``make_cases.py`` of the shared folder."""
    path = shared_dir / "cases" / "make_cases.py"
    if not path.is_file():
        pytest.skip("needs shared/cases/make_cases.py")
    module = ModuleType("make_cases")
    module.__file__ = str(path)
    # Not imported, so that no compiled copy is left beside it.
    exec(compile(path.read_text(), path, "exec"), module.__dict__)
    return module


class Set:
    """One set, and what the commands say about it."""

    def __init__(self, cases: ModuleType, name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        cases.main(folder, name)
        capsys.readouterr()
        self.name, self.root, self.out, self._capsys = name, folder / name, folder / "run", capsys
        self._pose = name in cases.POSE or name == "people_20"

    def inspect(self, *options: str) -> tuple[int, str]:
        """Exit code and everything printed."""
        recipe = "finetune_pose" if self._pose else "finetune_segmentation"
        return self._run(
            ["inspect", "data", recipe, "--data.root", str(self.root), "--out", str(self.out.parent / "look"), *options]
        )

    def train(self, *options: str) -> tuple[int, str]:
        """Exit code and everything printed by two updates and a validation."""
        command = [*(POSE if self._pose else MASKS), *SHORT, "--data.root", str(self.root), "--out", str(self.out)]
        return self._run([*command, *options])

    def _run(self, command: list[str]) -> tuple[int, str]:
        code = main(command)
        captured = self._capsys.readouterr()
        text = " ".join((captured.out + captured.err).split())
        assert "Traceback" not in text
        return code, text

    def both(self, *options: str) -> str:
        """What inspecting and training say, which both refuse the set and leave no run behind."""
        code, seen = self.inspect(*options)
        assert code != 0, seen
        code, trained = self.train(*options)
        assert code != 0, trained
        assert not (self.out / "checkpoints").exists()
        return f"{seen}\n{trained}"


@pytest.fixture
def make(cases: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> type[Set]:
    """Builds a set by name."""
    return lambda name: Set(cases, name, tmp_path, capsys)  # type: ignore[return-value]


def _scores(one: Set) -> dict[str, float]:
    lines = [json.loads(line) for line in (one.out / "metrics.jsonl").read_text().splitlines()]
    return next(line for line in reversed(lines) if line["event"] == "validation")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_area", "area"),
        ("cars_beside_people", ""),
        ("num_keypoints_zero", "num_keypoints"),
        ("half_area_zero", "area"),
        ("one_joint", ""),
        ("two_joints", ""),
        ("null_joints", ""),
        ("float_sizes_and_category", ""),
        ("phone_pictures_labelled_as_stored", "EXIF orientation"),
        ("coco_polygons", ""),
    ],
)
@pytest.mark.slow
def test_what_tools_write_is_trained_on(make: type[Set], name: str, said: str) -> None:
    one = make(name)
    for code, text in (one.inspect(), one.train()):
        assert code == 0, text
        assert said in text
    score = _scores(one)
    assert 0 <= score["value"] <= 1
    assert (one.out / "best.safetensors").is_file()


@pytest.mark.parametrize("exif", ["apply", "ignore"])
def test_orientation_of_phone_pictures_is_an_option(make: type[Set], exif: str) -> None:
    code, text = make("phone_pictures_labelled_as_stored").train("--data.exif", exif)
    assert code == 0, text


def test_categories_with_different_joints_are_chosen_by_name(make: type[Set]) -> None:
    one = make("two_kinds_of_joints")
    text = one.both()
    assert text.count("--data.category") >= 2
    assert "person" in text
    assert "cup" in text
    code, text = one.train("--data.category", "person")
    assert code == 0, text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("white_road_declared", ("255", "--data.ignore none")),
        ("white_road", ("255", "void")),
        ("one_class_rest_void", ("void",)),
        ("one_class_named_only", ("add", "0 background")),
        ("counted_from_one", ("count from 1",)),
    ],
)
def test_masks_that_mean_something_else_are_refused_alike(make: type[Set], name: str, said: tuple[str, ...]) -> None:
    one = make(name)
    for text in one.both().splitlines():
        for words in said:
            assert words in text


def test_white_road_trains_as_an_ordinary_id(make: type[Set]) -> None:
    code, text = make("white_road_declared").train("--data.ignore", "none")
    assert code == 0, text


@pytest.mark.parametrize("name", ["half_a_picture_in_val", "half_a_mask_in_val", "half_a_picture_in_train"])
def test_broken_files_are_named_and_left_out_if_told(make: type[Set], name: str) -> None:
    one = make(name)
    part = name.rsplit("_", 1)[1]
    kind = "labels" if "mask" in name else "images"
    files = sorted((one.root / kind / part).iterdir())
    broken = files[9] if part == "train" else files[-1]
    for text in one.both().splitlines():
        assert broken.name in text
        assert "--data.skip-broken" in text
    code, text = one.train("--data.skip-broken")
    assert code == 0, text
    assert broken.name in text
    assert _scores(one)["items"] == (4 if part == "train" else 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least"),
    [("people_20", 0.0), ("streets_20", 0.0), ("bird_of_six_joints", 0.15)],
    ids=lambda value: str(value),
)
def test_the_bare_command_makes_start_weights_better(make: type[Set], name: str, least: float) -> None:
    """As a process of its own, which is stopped as soon as it has shown it."""
    one = make(name)
    recipe = "finetune_segmentation" if name == "streets_20" else "finetune_pose"
    command = ["train", recipe, "--data.root", str(one.root), "--out", str(one.out)]
    log, scores = one.root.parent / "log", one.out / "metrics.jsonl"
    with log.open("w") as stream:
        process = subprocess.Popen([sys.executable, "-m", "hrformer", *command], stdout=stream, stderr=stream)
        while not _better(scores, least) and process.poll() is None:
            time.sleep(1)
        process.send_signal(signal.SIGTERM)
        process.wait()
    assert _better(scores, least), log.read_text()


def _better(file: Path, least: float) -> bool:
    """Whether a validation scored above the first, which is that of the start weights, and above ``least``."""
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    before, *after = [row["value"] for row in rows if row["event"] == "validation"] or [0.0]
    return max(after, default=0.0) > max(before, least)


def test_perfect_predictions_of_people_without_area_get_everything(make: type[Set]) -> None:
    one = make("half_area_zero")
    labels = json.loads((one.root / "annotations/val.json").read_text())
    found = [
        {"image_id": a["image_id"], "category_id": 1, "keypoints": a["keypoints"], "score": 1.0}
        for a in labels["annotations"]
    ]
    (one.root / "found.json").write_text(json.dumps(found))
    code, text = one._run(
        [
            "eval",
            "finetune_pose",
            "--data.root",
            str(one.root),
            "--predictions",
            str(one.root / "found.json"),
            "--out",
            str(one.out),
        ]
    )
    assert code == 0, text
    assert re.search(r"\bAP\b\D*100\.0 ?%", text), text


def test_several_roots_are_one_set(make: type[Set], cases: ModuleType) -> None:
    one, other = make("two_joints"), make("one_joint")
    cases.make_pose(one.root.parent / "more", cases.two_joints, train=5, val=2)
    command = [*POSE, *SHORT, "--data.root", str(one.root), str(one.root.parent / "more"), "--out", str(one.out)]
    code, text = one._run(command)
    assert code == 0, text
    start = json.loads((one.out / "metrics.jsonl").read_text().splitlines()[0])
    assert (start["train_items"], start["val_items"]) == (21, 6)
    code, text = one._run([*command[:-1], str(one.out) + "2", "--data.more-roots", str(other.root)])
    assert code != 0
    assert "joints" in text
