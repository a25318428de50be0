"""``hrformer train`` and ``hrformer eval``, run in this process on a few real pictures of each shared set."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hrformer.cli.main
from hrformer.__main__ import main
from hrformer.checkpoints.checkpoint import save_checkpoint
from hrformer.checkpoints.registry import bundled_folder
from hrformer.cli.runs import option_names
from hrformer.cli.train import run_folder
from hrformer.files import sha256_of
from hrformer.geometry.skeletons import COCO17
from hrformer.recipes.catalogue import list_recipes
from hrformer.train.config_file import write_config
from hrformer.train.loop import RunResult
from hrformer.zoo import create_model
from parity import assert_near

PEOPLE = "hrformer_tiny_people17"


@pytest.fixture(scope="session")
def small_sets(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the recipes of small sets expect, with a few pictures of each."""
    root = tmp_path_factory.mktemp("small_sets")
    for split, count in (("train", 4), ("val", 2)):
        for folder in sorted((data_dir / "cifar10" / split).iterdir()):
            _link(sorted(folder.iterdir())[:count], root / "cifar10" / split / folder.name)
        for kind in ("images", "labels"):
            files = sorted((data_dir / "camvid" / kind / split).iterdir())
            _link(files[:count], root / "camvid" / kind / split)
    _link([data_dir / "camvid" / "classes.txt"], root / "camvid")
    for split in ("train", "val"):
        pictures = sorted((data_dir / "petspeople/images" / split).iterdir())[:3]
        _link(pictures, root / "petspeople/images" / split)
        masks = [data_dir / "petspeople/labels" / split / f"{file.stem}.png" for file in pictures]
        _link(masks, root / "petspeople/labels" / split)
    _link([data_dir / "petspeople" / "classes.txt"], root / "petspeople")
    for name, first in (("lspet", 0), ("people17", -6)):
        source, target = data_dir / name, root / name
        (target / "annotations").mkdir(parents=True)
        (target / "images").symlink_to(source / "images")
        for split in ("train", "val"):
            file = f"annotations/person_keypoints_{split}.json"
            content = json.loads((source / file).read_text())
            content["annotations"] = content["annotations"][first:][:6]
            kept = {row["image_id"] for row in content["annotations"]}
            content["images"] = [row for row in content["images"] if row["id"] in kept]
            (target / file).write_text(json.dumps(content))
    return root


def _link(files: list[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        (folder / file.name).symlink_to(file)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What reaches the two commands, which then do nothing."""
    commands: list[Any] = []

    def remember(command: Any) -> int:
        commands.append(command)
        return 0

    monkeypatch.setattr(hrformer.cli.main, "run_train", remember)
    monkeypatch.setattr(hrformer.cli.main, "run_evaluate", remember)
    return commands


def scores(folder: str) -> dict[str, Any]:
    return json.loads(Path(folder, "scores.json").read_text())


def test_fields_of_a_recipe_can_be_changed(parsed: list[Any]) -> None:
    line = "train coco_small_256x192 --data.root /sets/coco --optim.lr 1e-4 --augment.size 64 48 --runtime.cpu --out o"
    assert main(line.split()) == 0
    (command,) = parsed
    config = command.config
    assert (config.recipe, command.options.out, command.options.resume) == ("coco_small_256x192", Path("o"), False)
    assert (config.data.root, config.optim.lr, config.augment.size) == (Path("/sets/coco"), 1e-4, (64, 48))
    assert (config.runtime.cpu, config.optim.weight_decay, config.augment.sigma) == (True, 0.01, 2.0)


@pytest.mark.parametrize(
    ("typed", "schedule", "validation"),
    [
        ("", (0, 150, 0, 15), (0, 150)),
        ("--schedule.epochs 2", (2, 0, 0, 15), (0, 150)),
        ("--schedule.updates 9 --schedule.warmup-updates 0", (0, 9, 0, 0), (0, 150)),
        ("--schedule.epochs 2 --schedule.warmup-epochs 1", (2, 0, 1, 0), (0, 150)),
        ("--validate-epochs 0.5", (0, 150, 0, 15), (0.5, 0)),
    ],
)
def test_the_typed_unit_of_length_wins(typed: str, schedule: tuple, validation: tuple, parsed: list[Any]) -> None:
    assert main(["train", "smoke_classification", *typed.split()]) == 0
    config = parsed[0].config
    found = config.schedule
    assert (found.epochs, found.updates, found.warmup_epochs, found.warmup_updates) == schedule
    assert (config.validate_epochs, config.validate_updates) == validation


def test_runs_from_files_and_folders(here: Path, parsed: list[Any]) -> None:
    assert main("train lspet_tiny --optim.lr 0.5 --data.root people".split()) == 0
    config = parsed[0].config
    write_config(config, here / "runs" / "mine" / "config.json")
    write_config(config, here / "other.json")
    for line in ("train runs/mine --resume", "train runs/mine/config.json", "train other.json --optim.lr 0.25 --out x"):
        assert main(line.split()) == 0
    assert [command.config.optim.lr for command in parsed] == [0.5, 0.5, 0.5, 0.25]
    assert parsed[1].config == config
    assert [command.folder for command in parsed] == [None, Path("runs/mine"), Path("runs/mine"), None]
    folders = [str(run_folder(command)) for command in parsed]
    assert folders == ["runs/lspet_tiny", "runs/mine", "runs/lspet_tiny", "x"]


def test_eval_lets_only_data_and_protocol_be_changed(parsed: list[Any], capfd) -> None:
    line = "eval ade20k_small --weights w.pth --data.root d --evaluation.scales 0.75 1 1.25 --evaluation.flip"
    assert main([*line.split(), "--bootstrap", "1000"]) == 0
    protocol = parsed[0].config.evaluation
    assert (protocol.scales, protocol.flip, protocol.short_side) == ((0.75, 1.0, 1.25), True, 520)
    assert parsed[0].options.bootstrap == 1000
    assert main("eval ade20k_small --optim.lr 3".split()) == 2
    assert "--optim.lr" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train smoke_pos", "no recipe is called 'smoke_pos'. Close matches: smoke_pose"),
        ("train nothing.json", "nothing.json: No such file or directory"),
        ("train empty", "empty is neither a recipe nor the directory of a run: it holds no config.json"),
        ("train bad.json", "bad.json: unknown field optim.lrr; did you mean optim.lr?"),
        ("train runs/none --resume", "runs/none: no such folder; a run is a folder"),
        ("train --out x", "name the recipe first: hrformer train RECIPE"),
        ("train smoke_pose --schedule.updates 0", "give schedule.epochs or schedule.updates"),
        ("train smoke_pose --augment.size 65 64", "augment.size must be multiples of 4"),
        ("train smoke_pose --optim.lr 0", "optim.lr must be a rate above 0, got 0.0"),
        ("train smoke_pose --optim.lrr 1", "--optim.lr FLOAT"),
        ("train smoke_pose --optim.lr fast", "Error parsing --optim.lr"),
        ("train smoke_pose --optim.name adamv", "Expected one of ('adamw', 'adam', 'sgd')"),
        ("train smoke_pose", "person_keypoints_train.json: no such file"),
        ("train smoke_pose", "there is no --data.root, so the data was looked for in the current folder"),
        ("train smoke_pose", "--data.train-annotations is lspet/annotations/person_keypoints_train.json, relative to"),
        (
            "train smoke_pose --data.root away --model.name hrformer_nan",
            "away: no such folder; --data.root is the folder",
        ),
        ("train smoke_pose --data.root SETS/lspet", "SETS, the folder that holds lspet/annotations"),
        (
            "train smoke_segmentation --data.root SETS/camvid",
            "--data.root should be SETS, the folder that holds camvid/",
        ),
        (
            "train smoke_segmentation --data.root SETS/lspet",
            "looked for the folder camvid/images/train, found annotations/",
        ),
        (
            "train smoke_classification --data.root SETS/cifar10",
            "--data.root should be SETS, the folder that holds cifar",
        ),
        ("train smoke_segmentation --data.root SETS --data.classes names.txt", "SETS/names.txt: no such file"),
        ("eval", "name the recipe first: hrformer eval RECIPE"),
        ("eval smoke_pose", "give --weights, a file or a name from `hrformer models`"),
        ("eval empty_run", "only the directory of a run that has validated once holds its own, best.safetensors"),
        ("eval smoke_pose --weights no_such", "no weights are called 'no_such'"),
        ("eval smoke_pose --weights no.pth", "no weight file no.pth"),
        ("eval smoke_pose --weights hrformer_tiny_people17", "there is no --data.root"),
        ("eval smoke_pose --weights x --limit 0", "--limit must be at least 1, got 0"),
        ("eval smoke_pose --weights x --bootstrap -1", "--bootstrap must be at least 0, got -1"),
        ("eval smoke_pose --weights x --predictions y", "leave out --weights"),
        ("eval smoke_pose --weights x --server-ids", "it needs --predictions"),
        ("eval smoke_segmentation --predictions empty --server-ids --data.root SETS", "has no test server"),
        ("eval smoke_segmentation --predictions empty --data.root SETS", "2 of 2 pictures have no mask"),
        ("eval smoke_pose --weights hrformer_tiny_petspeople --data.root SETS", "needs a model for pose"),
        ("eval lspet_tiny --evaluation.detections b.json --evaluation.score pck", "PCK compares each labelled person"),
    ],
)
def test_errors_are_one_message_with_exit_code_2(line: str, message: str, here: Path, request, capfd) -> None:
    (here / "empty").mkdir()
    (here / "bad.json").write_text('{"task": "pose", "optim": {"lrr": 1}}')
    (here / "empty_run").mkdir()
    (here / "empty_run" / "config.json").write_text(
        '{"task": "pose", "schedule": {"epochs": 1}, "evaluation": {"score": "pck"}}'
    )
    if "SETS" in line:
        sets = str(request.getfixturevalue("small_sets"))
        line, message = line.replace("SETS", sets), message.replace("SETS", sets)
    assert main(shlex.split(line)) == 2
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert message in " ".join(said.replace("│", " ").split())


def test_warnings_name_options(small_sets: Path, here: Path, capfd) -> None:
    root = here / "own"
    for split in ("train", "val"):
        content = json.loads((small_sets / f"people17/annotations/person_keypoints_{split}.json").read_text())
        for category in content["categories"]:
            # With a name of its own it is no skeleton that the package knows.
            category["keypoints"][-1] = "crown"
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / f"annotations/{split}.json").write_text(json.dumps(content))
    (root / "images").symlink_to(small_sets / "people17/images")
    line = f"eval finetune_pose --data.root {root} --weights {PEOPLE} --limit 1 --device cpu --workers 0"
    assert main(line.split()) == 0
    said = capfd.readouterr().err
    assert "Set --data.flip-pairs if this is wrong" in said
    assert "PoseSource" not in said


def test_field_names_become_options() -> None:
    text = "set PoseSource.val_images or SegmentationSource.root, or PoseSource.skeleton"
    expected = "set --data.val-images or --data.root, or data.skeleton in a JSON file of the run"
    assert option_names(text) == expected


def test_recipes_are_listed(capfd) -> None:
    assert main(["train"]) == 0
    shown = capfd.readouterr().out
    assert all(f" {name} " in shown for name in list_recipes())
    assert "mIoU 48.7 single-scale" in " ".join(shown.replace("│", " ").split())


def test_help_shows_the_recipe_and_its_values(capfd) -> None:
    assert main(["train", "coco_base_384x288", "--help"]) == 0
    shown = capfd.readouterr().out
    assert "AP 77.2, AR 82.0" in shown
    assert "--model.drop-path-rate" in shown
    assert "(default: 0.3)" in shown
    assert ":`" not in shown
    assert main(["eval", "--help"]) == 0
    assert "--bootstrap" in capfd.readouterr().out


@pytest.mark.parametrize("interrupted", ["", "SIGTERM"])
def test_what_train_says_at_the_end(interrupted: str, here: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    def stopped(config: Any, out: Path, *, resume: bool) -> RunResult:
        assert not resume
        return RunResult(out=out, main="top1", best=0.5, best_update=3, update=7, interrupted=interrupted)

    monkeypatch.setattr("hrformer.cli.train.train", stopped)
    assert main(["train", "smoke_classification", "--out", "my runs/x"]) == (130 if interrupted else 0)
    said = capfd.readouterr()
    if interrupted:
        assert "stopped by SIGTERM after 7 updates" in said.err
        resume = shlex.split(said.err.split("to go on: ")[1])
        assert resume == ["hrformer", "train", "my runs/x", "--resume"]
    else:
        assert "best top-1 accuracy 50.0 %, after 3 updates" in said.out
        assert "weights: my runs/x/best.safetensors" in said.out


def test_other_processes_are_silent_but_for_errors(here: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main(["train"]) == 0
    assert capfd.readouterr().out == ""
    assert main(["train", "smoke_pos"]) == 2
    assert capfd.readouterr().err.startswith("process 1: error: no recipe is called")


def test_train_evaluate_and_resume(small_sets: Path, here: Path, capfd) -> None:
    length = ["--schedule.updates", "4", "--schedule.warmup-updates", "1", "--validate-updates", "2"]
    line = ["train", "smoke_classification", "--data.root", str(small_sets), "--batch.total", "8", *length]
    assert main(line) == 0
    assert "weights: runs/smoke_classification/best.safetensors" in capfd.readouterr().out
    run = Path("runs/smoke_classification")
    assert json.loads((run / "config.json").read_text())["batch"]["total"] == 8
    events = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["update"] for row in events if row["event"] == "validation"] == [2, 4]
    assert main(line) == 2
    assert "holds a run already: go on with --resume, or choose another --out" in capfd.readouterr().err
    assert main(["train", str(run), "--resume"]) == 0
    capfd.readouterr()

    assert main(["eval", str(run), "--workers", "0", "--bootstrap", "20", "--worst", "2"]) == 0
    shown = capfd.readouterr().out
    assert "top-1 accuracy" in shown
    assert "airplane" in shown
    assert shown.count("worst: ") == 2
    found = scores("evaluation")
    assert found["scores"]["top1"] == max(row["scores"]["top1"] for row in events if row["event"] == "validation")
    assert found["sha256"] == sha256_of(run / "best.safetensors")
    assert (found["recipe"], found["split"], found["items"]) == ("smoke_classification", "val", 20)
    low, high = found["intervals"]["top1"]
    assert low <= found["scores"]["top1"] <= high
    assert found["protocol"] == {"batch_size": 64, "flip": False}
    assert found["data"]["root"] == str(small_sets)
    assert {"torch", "date", "cpu"} <= found["versions"].keys()
    assert len(found["worst"]) == 2


def test_pose_and_its_predictions_in_a_file(data_dir: Path, here: Path) -> None:
    model = create_model("hrformer_nano", "pose", num_keypoints=COCO17.num_keypoints)
    weights = str(save_checkpoint(model, here / "nano.safetensors"))
    places = ["--data.val-annotations", "annotations/person_keypoints.json", "--data.val-images", "images"]
    boxes = ["--evaluation.detections", "annotations/person_detections.json", "--evaluation.box-threshold", "0.9"]
    line = ["eval", "coco_small_256x192", "--data.root", str(data_dir / "coco_tiny"), *places]
    model_line = [*line, *boxes, "--weights", weights, "--workers", "0", "--evaluation.no-flip"]
    assert main([*model_line, "--out", "a"]) == 0
    assert main([*model_line, "--out", "b", "--submit"]) == 0
    assert not Path("b/scores.json").exists()
    rows = json.loads(Path("b/keypoints.json").read_text())
    assert {len(row["keypoints"]) for row in rows} == {51}
    assert main([*line, "--predictions", "b/keypoints.json", "--out", "c"]) == 0
    a, c = scores("a")["scores"], scores("c")["scores"]
    assert a["AP"] == pytest.approx(c["AP"], abs=1e-9)
    assert scores("a")["protocol"]["detections"] == "annotations/person_detections.json"
    assert scores("c")["predictions"] == "b/keypoints.json"


def test_masks_in_files_score_like_the_model_that_made_them(small_sets: Path, here: Path) -> None:
    line = ["eval", "petspeople_tiny", "--data.root", str(small_sets)]
    model_line = [*line, "--weights", "hrformer_tiny_petspeople", "--workers", "0", "--split", "val"]
    assert main([*model_line, "--out", "a"]) == 0
    assert main([*model_line, "--out", "b", "--submit"]) == 0
    assert main([*line, "--predictions", "b/masks", "--out", "c"]) == 0
    a, c = scores("a"), scores("c")
    assert a["scores"] == c["scores"]
    assert a["scores"]["mean_iou"] > 0.3
    assert [row["name"] for row in a["scores"]["per_class"]][:2] == ["background", "person"]
    assert a["weights"] == str(bundled_folder() / "hrformer_tiny_petspeople.safetensors")


def test_bundled_pose_weights_by_both_scores(small_sets: Path, here: Path, capfd) -> None:
    line = ["eval", "people17_tiny", "--data.root", str(small_sets), "--weights", PEOPLE, "--workers", "0"]
    assert main([*line, "--limit", "4"]) == 0
    found = scores("evaluation")
    assert (found["main"], found["items"], found["limit"]) == ("pck@0.2", 4, 4)
    assert {"AP", "AR", "per_joint"} <= found["scores"].keys()
    assert "PCK@0.2" in capfd.readouterr().out


def test_classes_in_a_table(small_sets: Path, here: Path) -> None:
    files = sorted((small_sets / "cifar10" / "val").rglob("*.jpg"))
    table = {f"{file.parent.name}/{file.name}": file.parent.name for file in files}
    Path("classes.json").write_text(json.dumps(table))
    line = ["eval", "cifar10_5k_tiny", "--data.root", str(small_sets), "--predictions", "classes.json"]
    assert main(line) == 0
    assert scores("evaluation")["scores"]["top1"] == 1.0
    # What is only scored needs no schedule.
    data = {"root": str(small_sets), "train": "cifar10/train", "val": "cifar10/val"}
    Path("mine.json").write_text(json.dumps({"task": "classification", "data": data}))
    assert main(["eval", "mine.json", "--predictions", "classes.json", "--out", "again"]) == 0
    assert scores("again")["scores"]["top1"] == 1.0
    assert main(["train", "mine.json"]) == 2


@pytest.mark.slow
def test_several_processes_share_an_evaluation(small_sets: Path, here: Path) -> None:
    line = ["eval", "people17_tiny", "--data.root", str(small_sets), "--weights", PEOPLE, "--workers", "0"]
    assert main([*line, "--out", "one"]) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "hrformer"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*launch, *line, "--out", "two", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("scores: two/scores.json") == 1
    assert_near(scores("one")["scores"], scores("two")["scores"])
    assert scores("two")["processes"] == 2
