"""The command line, run in this process on real files; one test runs it as users do."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from half_kernels import pretend_half_kernels, pretend_no_half
from hrformer.__main__ import main
from hrformer.checkpoints.checkpoint import load_model, save_checkpoint
from hrformer.cli.inputs import OutputNames, expand
from hrformer.cli.output import OutputFolder
from hrformer.predict.predictors import load
from hrformer.predict.results import Classification, Keypoints
from hrformer.zoo import create_model


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Small weight files by task."""
    folder = tmp_path_factory.mktemp("weights")
    models = {
        "pose": create_model("hrformer_nano", "pose"),
        "segment": create_model("hrformer_nano", "segmentation", num_classes=11),
        "classify": create_model("hrformer_nano", "classification", num_classes=10),
    }
    return {task: str(save_checkpoint(model, folder / f"{task}.safetensors")) for task, model in models.items()}


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with pictures of one name in two folders, a broken one, and a text."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)
    for name, picture in zip(("a/x.png", "b/x.jpg", "b/c/y.bmp"), pixels, strict=True):
        Path(name).parent.mkdir(exist_ok=True, parents=True)
        cv2.imwrite(name, picture)
    Path("b/broken.jpg").write_bytes(Path("b/x.jpg").read_bytes()[:500])
    Path("a/notes.txt").write_text("no picture")
    return tmp_path


def images(out: str) -> dict[str, dict]:
    return {row["file_name"]: row for row in json.loads(Path(out, "images.json").read_text())["images"]}


def records(out: str) -> list[dict]:
    return json.loads(Path(out, "predictions.json").read_text())


def test_pose_on_a_folder_with_a_broken_file(photos: Path, weights: dict[str, str], capfd) -> None:
    options = ["--weights", weights["pose"], "--out", "out", "--device", "cpu", "--detector", "picture"]
    command = ["predict", "pose", "a", "b", *options]
    assert main(command) == 1
    said = capfd.readouterr()
    assert "3 pictures predicted" in said.out
    assert "out/predictions.json" in said.out
    assert "could not be read (1):\n  b/broken.jpg: " in said.err
    assert sorted(path.name for path in Path("out/pictures").iterdir()) == ["b_x.jpg", "x.jpg", "y.jpg"]
    assert [set(record) for record in records("out")] == [{"image_id", "category_id", "keypoints", "score"}] * 3
    assert {len(record["keypoints"]) for record in records("out")} == {51}
    assert {record["image_id"] for record in records("out")} == {row["id"] for row in images("out").values()}
    assert list(json.loads(Path("out/images.json").read_text())["unreadable"]) == ["b/broken.jpg"]
    assert not list(Path("out").rglob("*.tmp"))
    # The first run's own pictures are no input to a second one over the same folder.
    assert main(["predict", "pose", ".", *command[4:]]) == 1
    assert "3 pictures predicted" in capfd.readouterr().out


def test_people_are_found_unless_something_else_is_asked_for(photos: Path, weights: dict[str, str], capfd) -> None:
    assert main(["predict", "pose", "a", "--weights", weights["pose"], "--out", "out", "--device", "cpu"]) == 0
    said = capfd.readouterr().err
    assert "people are found in the masks of hrformer_tiny_petspeople" in said
    assert "nobody was found in 1 picture, such as a/x.png" in said
    # Noise shows nobody.
    assert records("out") == []


def test_pose_keeps_coco_image_ids(data_dir: Path, weights: dict[str, str], tmp_path: Path, capfd) -> None:
    coco = data_dir / "coco_tiny"
    command = ["predict", "pose", str(coco / "images"), "--weights", weights["pose"], "--out", str(tmp_path / "out")]
    detections = ["--detections", str(coco / "annotations" / "person_detections.json"), "--box-threshold", "0.9"]
    assert main([*command, *detections, "--no-flip", "--no-pictures", "--device", "cpu"]) == 0
    assert {record["image_id"] for record in records(str(tmp_path / "out"))} == {785, 40083, 196141, 197388}
    assert not (tmp_path / "out" / "pictures").exists()
    other = tmp_path / "other.json"
    other.write_text('[{"image_id": 785, "bbox": [0, 0, 9, 9], "score": 1}]')
    capfd.readouterr()
    assert main([*command, "--detections", str(other), "--no-flip"]) == 0
    assert "no detections for 3 of the pictures" in capfd.readouterr().err
    other.write_text('[{"image_id": 1, "bbox": [0, 0, 9, 9], "score": 1}]')
    assert main([*command, "--detections", str(other)]) == 2
    assert "no detections for any of the pictures" in capfd.readouterr().err


def test_segment_writes_masks(photos: Path, weights: dict[str, str], capfd) -> None:
    assert main(["predict", "segment", "a/x.png", "--weights", weights["segment"], "--short-side", "64"]) == 0
    mask = cv2.imread("predictions/masks/x.png", cv2.IMREAD_UNCHANGED)
    assert np.array_equal(mask, load(weights["segment"])("a/x.png", short_side=64).mask)
    record = records("predictions")[0]
    assert record["mask"] == "masks/x.png"
    assert sum(row["share"] for row in record["classes"]) == pytest.approx(1)
    assert cv2.imread("predictions/pictures/x.jpg").shape == (384, 512, 3)
    assert "masks of class ids: predictions/masks" in capfd.readouterr().out


def test_classify_a_pattern(photos: Path, weights: dict[str, str]) -> None:
    # The task's name will do as well.
    command = [
        "predict",
        "classification",
        "**/[xy].*",
        "--weights",
        weights["classify"],
        "--top-k",
        "2",
        "--out",
        "out",
    ]
    assert main(command) == 0
    rows = records("out")
    assert [row["file_name"] for row in rows] == ["a/x.png", "b/c/y.bmp", "b/x.jpg"]
    expected = load(weights["classify"])("b/x.jpg", top_k=2)
    assert [p["class_id"] for p in rows[2]["predictions"]] == list(expected.class_ids)


def test_interrupt_and_resume(photos: Path, weights: dict[str, str], capfd, monkeypatch: pytest.MonkeyPatch) -> None:
    add, calls = OutputFolder.add, []

    def add_once(self: OutputFolder, result: object) -> None:
        if calls:
            raise KeyboardInterrupt
        calls.append(result)
        add(self, result)

    monkeypatch.setattr(OutputFolder, "add", add_once)
    command = [
        "predict",
        "classify",
        "a",
        "b",
        "--weights",
        weights["classify"],
        "--out",
        "my out",
        "--batch-size",
        "1",
    ]
    assert main(command) == 130
    said = capfd.readouterr().err
    assert "interrupted: 1 of 4 pictures are done" in said
    assert len(records("my out")) == 1
    first = Path("my out/pictures/x.jpg").stat().st_mtime_ns
    monkeypatch.undo()
    monkeypatch.chdir(photos)
    resume = shlex.split(said.split("to go on: ")[1].strip())
    assert resume[0] == "hrformer"
    assert main(resume[1:]) == 1
    assert "2 pictures predicted, 1 had been done before" in capfd.readouterr().out
    assert len(records("my out")) == len(images("my out")) == 3
    assert Path("my out/pictures/x.jpg").stat().st_mtime_ns == first
    # A picture whose drawing was deleted is done again.
    Path("my out/pictures/y.jpg").unlink()
    assert main(resume[1:]) == 1
    assert "1 picture predicted, 2 had been done before" in capfd.readouterr().out
    assert main([*resume[1:], "--top-k", "3"]) == 2
    assert "come from a run with top_k 5, this one has top_k 3" in capfd.readouterr().err
    Path("my out/images.json").write_text("{")
    assert main(resume[1:]) == 2
    assert "cannot go on" in capfd.readouterr().err


def test_precision_reaches_the_model_and_the_record(
    photos: Path, weights: dict[str, str], capfd, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = pretend_half_kernels(monkeypatch)
    command = ["predict", "classify", "a", "--weights", weights["classify"], "--device", "cpu", "--no-pictures"]

    def recorded(*more: str) -> tuple[str, str]:
        capfd.readouterr()
        assert main([*command, *more, "--out", "out"]) == 0
        found = json.loads(Path("out/images.json").read_text())["run"]["precision"]
        return found, capfd.readouterr().err

    found, said = recorded("--fast")
    assert (found, "precision" in said) == ("fp32", False)
    for options, expected in ((["--fast", "bf16"], "bf16"), (["--fast", "auto"], "bf16"), (["bf16"], "bf16")):
        found, said = recorded(*options[:-1], "--precision", options[-1])
        assert found == expected
        assert f"precision: {expected}\n" in said
    assert made == ["fp32", "bf16", "bf16"]
    assert recorded("--precision", "auto")[0] == "fp32"
    assert main([*command, "--out", "out", "--resume", "--precision", "bf16"]) == 2
    assert "come from a run with precision fp32, this one has precision bf16" in capfd.readouterr().err
    reason = pretend_no_half(monkeypatch)
    found, said = recorded("--fast", "--precision", "bf16")
    assert found == "fp32"
    assert "products are fp32, not bf16 as asked" in said
    assert reason in said


def test_odd_names_links_and_special_files_are_named(photos: Path, weights: dict[str, str], capfd) -> None:
    Path(os.fsdecode(b"a/new\xe9.png")).write_bytes(Path("a/x.png").read_bytes())
    Path(os.fsdecode(b"a/bad\xe9.png")).write_bytes(b"")
    os.mkfifo("a/fifo.png")
    Path("a/broken.png").symlink_to("nowhere")
    Path("a/loop.png").symlink_to("loop.png")
    command = ["predict", "classify", "a", "--weights", weights["classify"], "--out", "out"]
    assert main(command) == 1
    said = capfd.readouterr()
    assert "2 pictures predicted" in said.out
    for reason in ("broken.png: no such file", "loop.png: Too many", "fifo.png: is a pipe", "\\udce9.png: the file is"):
        assert reason in said.err
    assert set(images("out")) == {"x.png", os.fsdecode(b"new\xe9.png")}
    assert main([*command, "--resume"]) == 1
    assert "0 pictures predicted, 2 had been done before" in capfd.readouterr().out


def test_sigterm_keeps_what_is_done(photos: Path, weights: dict[str, str], capfd, monkeypatch) -> None:
    add = OutputFolder.add

    def add_and_end(self: OutputFolder, result: object) -> None:
        add(self, result)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(OutputFolder, "add", add_and_end)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        command = ["predict", "classify", "a", "b", "--weights", weights["classify"], "--batch-size", "1"]
        assert main(command) == 143
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "interrupted: 1 of 4 pictures are done" in capfd.readouterr().err
    assert len(records("predictions")) == 1


@pytest.mark.parametrize("task", ["pose", "classify"])
def test_results_with_nan_are_named_and_the_rest_is_kept(task: str, photos: Path, weights, capfd, monkeypatch) -> None:
    add = OutputFolder.add

    def add_nan(self: OutputFolder, result: Classification | Keypoints) -> None:
        bad = {"keypoints": result.keypoints * np.nan} if task == "pose" else {"probabilities": (float("nan"),)}
        add(self, replace(result, **bad) if result.path == "b/x.jpg" else result)

    monkeypatch.setattr(OutputFolder, "add", add_nan)
    people = ["--detector", "picture"] if task == "pose" else []
    assert main(["predict", task, "a/x.png", "b/x.jpg", "--weights", weights[task], "--out", "out", *people]) == 1
    said = capfd.readouterr()
    assert "1 picture predicted" in said.out
    assert "failed (1):\n  b/x.jpg: the network answered NaN or infinity" in said.err
    assert list(images("out")) == ["x.png"]
    assert list(json.loads(Path("out/images.json").read_text())["failed"]) == ["b/x.jpg"]


def test_a_result_that_cannot_be_written_is_named(photos: Path, weights: dict[str, str], capfd, monkeypatch) -> None:
    def draw(result: Classification) -> np.ndarray:
        if result.path == "a/x.png":
            raise MemoryError("too large")
        return result.image

    monkeypatch.setattr(Classification, "draw", draw)
    assert main(["predict", "classify", "a/x.png", "b/x.jpg", "--weights", weights["classify"], "--out", "out"]) == 1
    assert "failed (1):\n  a/x.png: too large" in capfd.readouterr().err
    assert list(images("out")) == ["x.jpg"]


def test_remarks_of_libjpeg_stay_off_the_terminal(photos: Path, weights: dict[str, str], capfd) -> None:
    data = bytearray(Path("b/x.jpg").read_bytes())
    data[-200:-100] = b"\xff\x7f" * 50
    Path("odd.jpg").write_bytes(data)
    main(["predict", "classify", "odd.jpg", "--weights", weights["classify"], "--out", "out"])
    assert "Corrupt JPEG" not in capfd.readouterr().err


def test_results_so_far_survive_an_error(photos: Path, weights: dict[str, str], capfd, monkeypatch) -> None:
    add, calls = OutputFolder.add, []

    def full_disk(self: OutputFolder, result: object) -> None:
        if calls:
            raise OSError(28, "No space left on device", "out/x.jpg")
        calls.append(result)
        add(self, result)

    monkeypatch.setattr(OutputFolder, "add", full_disk)
    command = ["predict", "classify", "a", "b", "--weights", weights["classify"], "--out", "out", "--batch-size", "1"]
    assert main(command) == 2
    assert capfd.readouterr().err.splitlines()[-1] == "error: out/x.jpg: No space left on device"
    assert len(records("out")) == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("predict pose", "no INPUT given"),
        ("predict segment a --memory nan", "--memory must be finite, got nan"),
        ("predict pose nowhere", "no pictures: nowhere: no such file or folder"),
        ("predict pose '*.gif' empty", "*.gif: no picture matches this pattern; empty: no pictures in this folder"),
        ("predict pose a --weights no_such_name", "no weights are called 'no_such_name'"),
        ("predict pose a --weights no.pth", "no weight file no.pth"),
        ("predict pose a --weights a/notes.txt", "not a weight file"),
        ("predict pose a --weights SEGMENT", "are for segmentation, not for pose"),
        ("predict pose a --weights POSE --detections no.json", "no.json: No such file"),
        ("predict pose a --weights POSE --detections a/notes.txt", "is not JSON"),
        ("predict pose a --weights POSE --detector yolo", "no person detector is called 'yolo'"),
        ("predict pose a --weights POSE --detector x --detections y", "not both"),
        ("predict pose a --weights POSE --detector picture --detector-weights x", "needs a --detector that takes"),
        ("predict pose a --weights POSE --batch-size 0", "--batch-size must be at least 1"),
        ("predict pose a --weights POSE --out a/notes.txt", "a/notes.txt"),
        ("predict pose a --weights POSE --device nonsense", "nonsense"),
        ("predict classify a --weights CLASSIFY --top-k 0", "top_k must be at least 1"),
        ("models no_such_model", "no model or weights match no_such_model"),
        ("models hrformer_nano --size 5 5", "--size must be at least"),
        ("convert no.pth x.safetensors", "no weight file no.pth"),
        ("convert POSE x.pth", "hrformer files end in .safetensors"),
    ],
)
def test_errors_are_one_line(command: str, message: str, photos: Path, weights: dict[str, str], capfd) -> None:
    Path("empty").mkdir()
    typed = [weights.get(word.lower(), word) if word.isupper() else word for word in shlex.split(command)]
    assert main(typed) == 2
    lines = capfd.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1
    assert lines[-1] == errors[0]
    assert message in errors[0]


@pytest.mark.parametrize(
    "command", ["", "predict", "predict dance", "predict pose --no-such-option", "models --size 3"]
)
def test_wrong_usage(command: str, capfd) -> None:
    assert main(command.split()) == 2
    assert "Traceback" not in capfd.readouterr().err


def test_an_option_of_another_task_is_told_with_its_whole_command(capfd) -> None:
    assert main(["predict", "segment", "a.jpg", "--top-k", "3"]) == 2
    assert "in hrformer predict classify --help" in capfd.readouterr().err


def test_debug_shows_the_error(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no pictures"):
        main(["predict", "pose", "nowhere", "--debug"])
    monkeypatch.setenv("HRFORMER_DEBUG", "1")
    with pytest.raises(ValueError, match="no pictures"):
        main(["predict", "pose", "nowhere"])


def test_help_names_every_command(capfd) -> None:
    for command, words in (
        (["--help"], ("predict", "models", "convert", "push")),
        (["predict", "--help"], ("pose", "segment", "classify")),
    ):
        assert main(command) == 0
        shown = capfd.readouterr().out
        assert all(word in shown for word in words)


def test_convert_there_and_back(weights: dict[str, str], tmp_path: Path, capfd) -> None:
    assert main(["convert", weights["pose"], str(tmp_path / "m.pth"), "--to", "mmpose"]) == 0
    assert f"wrote {tmp_path / 'm.pth'}" in capfd.readouterr().out
    assert main(["convert", str(tmp_path / "m.pth"), str(tmp_path / "h.safetensors"), "--decoder", "mmpose"]) == 0
    before, (after, _) = load_model(weights["pose"])[0], load_model(tmp_path / "h.safetensors")
    assert after.info.decoder == "mmpose"
    for (key, a), (other, b) in zip(before.state_dict().items(), after.state_dict().items(), strict=True):
        assert key == other
        assert a.equal(b)


def test_inputs(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = expand(
        ["b/x.jpg", "a", "./b/x.jpg", "b/*.jpg", "https://example.org/p?q", "b/c", "no", "*.tif"], Path("out")
    )
    expected = ["b/x.jpg", "a/x.png", "b/broken.jpg", "https://example.org/p?q", "b/c/y.bmp"]
    assert found.files == expected
    assert found.missing == {"no": "no such file or folder", "*.tif": "no picture matches this pattern"}
    # A folder of results may hold the input; only the results in it are left out.
    Path("b/masks").mkdir()
    Path("b/masks/x.png").write_bytes(Path("a/x.png").read_bytes())
    assert expand(["."], photos / "b").files == ["a/x.png", "b/broken.jpg", "b/c/y.bmp", "b/x.jpg"]
    Path("b/images.json").write_text("{}")
    assert expand(["b"], photos / "b").left_out == []
    assert expand(["b"], photos / "b").files == ["b/broken.jpg", "b/c/y.bmp", "b/x.jpg"]

    def closed(place: str) -> Iterator[os.DirEntry[str]]:
        if Path(place).name == "c":
            raise PermissionError(13, "Permission denied", place)
        return scan(place)

    scan = os.scandir
    monkeypatch.setattr(os, "scandir", closed)
    assert expand(["b"], Path("out")).missing == {"b/c": "Permission denied"}
    assert expand(["b/c", "a"], Path("out")).missing == {"b/c": "Permission denied"}
    assert expand(["x" * 300, "a"], Path("out")).missing == {"x" * 300: "File name too long"}
    Path("odd[1].png").write_bytes(Path("a/x.png").read_bytes())
    Path("picture.dat").write_bytes(b"")
    assert expand(["odd[1].png", "*.dat", "picture.dat"], Path("out")).files == ["odd[1].png", "picture.dat"]


def test_output_names_never_collide() -> None:
    names = OutputNames(["Taken"])
    sources = ["in/x.png", "in/x.jpg", "other/X.jpg", "in/x.gif", "in/taken.jpg", "https://e.org/d/a%3Ab.png?s=1", "/"]
    chosen = [names.choose(source) for source in sources]
    assert chosen == ["x", "in_x", "other_X", "in_x_2", "in_taken", "a_b", "picture"]
    assert len({name.casefold() for name in chosen}) == len(chosen)
    assert len(names.choose("é" * 120 + ".png").encode()) <= 100


def test_a_picture_named_0_has_that_id(photos: Path, weights: dict[str, str]) -> None:
    Path("a/0.png").write_bytes(Path("a/x.png").read_bytes())
    assert main(["predict", "classify", "a", "http://[", "--weights", weights["classify"], "--out", "out"]) == 1
    assert {name: row["id"] for name, row in images("out").items()} == {"0.png": 0, "x.png": 1}


def test_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hrformer", "predict", "pose", "nowhere"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: no pictures: nowhere: no such file or folder\n"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a program's peak counts the one that started it")
def test_peak_memory_is_that_of_the_program(photos: Path, weights: dict[str, str]) -> None:
    held = np.ones(1_500_000_000, np.uint8)
    command = [sys.executable, "-m", "hrformer", "predict", "classify", "a", "--weights", weights["classify"]]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert 0.1 < float(said.partition("peak memory ")[2].split()[0]) < held.nbytes / 1e9


def test_results_that_are_replaced_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images.json").write_text("[]")
    OutputFolder(tmp_path, {}, pictures=False, resume=False)
    said = " ".join(capsys.readouterr().err.split())
    assert f"{tmp_path} holds results of an earlier run, which are replaced" in said


def test_ctrl_c_while_torch_is_imported_says_one_line(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1] / "src")])
    # As in a terminal; what is started in the background of a shell ignores Ctrl-C, which the program leaves so.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\nimport hrformer_main as m; m.main()"
    )
    start, pipes = [sys.executable, "-c", code, "models"], {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(start, env=os.environ | {"PYTHONPATH": path}, text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "interrupted\n")
    assert process.returncode == 130


def test_prediction_starts_without_what_only_training_needs() -> None:
    code = "import sys, hrformer.cli.predict\nprint({'torchvision', 'timm', 'torch._dynamo'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "set()\n"
