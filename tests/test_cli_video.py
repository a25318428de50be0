"""``hrformer predict`` on videos: tables, drawn videos, what goes wrong, and runs that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

import hrformer
from clips import window, write_clip
from hrformer.__main__ import main
from hrformer.predict.tracks import read_source, read_tracks
from hrformer.predict.video_rows import run_of

REPOSITORY = Path(__file__).resolve().parents[1]
SIZE = (240, 400)

# Small parts, so that a short clip has many.
PROGRAM = """
import sys
import hrformer.cli.video
hrformer.cli.video.PART = {part}
from hrformer.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = [window(n, SIZE) for n in range(20, 45)]
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames, sound=True)


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_pose_gives_a_table_and_the_drawn_video(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["predict", "pose", str(clip), "--out", str(out), "--no-flip", "--every", "4", "--draw"]) == 0
    said = capsys.readouterr().out
    assert f"clip.mp4: 25 frames, 1 person; results: {out / 'clip.parquet'}" in said
    assert f"drawn: {out / 'clip.drawn.mp4'}" in said
    assert sorted(file.name for file in out.iterdir()) == ["clip.drawn.mp4", "clip.parquet"]
    tracks = read_tracks(out / "clip.parquet")
    predictor = hrformer.load("hrformer_tiny_people17", "cpu")
    expected = [*predictor.video(clip, flip=False, every=4, batch_size=8)]  # type: ignore[call-arg]
    np.testing.assert_array_equal(tracks.times, [frame.time for frame in expected])
    np.testing.assert_array_equal(tracks.tracks, np.concatenate([frame.tracks for frame in expected]))
    joints = np.concatenate([frame.result.keypoints for frame in expected])  # type: ignore[union-attr]
    np.testing.assert_allclose(tracks.keypoints, joints, atol=1e-3)
    source = read_source(out / "clip.parquet")
    assert (source.name, source.size, source.names) == ("clip.mp4", SIZE, predictor.info.skeleton.keypoints)  # type: ignore[union-attr]
    drawn, plain = frames_of(out / "clip.drawn.mp4"), frames_of(clip)
    assert len(drawn) == 25
    # Frames under 480 pixels are drawn twice as large; between the shoulders there is a line.
    large = cv2.resize(plain[12], (drawn[12].shape[1], drawn[12].shape[0]), interpolation=cv2.INTER_CUBIC)
    x, y = (2 * tracks.keypoints[12, [5, 6], :2].mean(axis=0) + 0.5).astype(int)
    assert np.abs(drawn[12][y, x].astype(int) - large[y, x]).max() > 60
    assert np.abs(drawn[12].astype(int) - large).mean() < 12


@pytest.mark.parametrize(
    ("task", "columns"), [("segment", {"class_ids", "shares", "mask"}), ("classify", {"class_ids", "probabilities"})]
)
def test_other_tasks_give_a_row_for_each_frame(clip: Path, tmp_path: Path, task: str, columns: set[str]) -> None:
    out = tmp_path / "out"
    assert main(["predict", task, str(clip), "--out", str(out), "--draw"]) == 0
    table = pq.read_table(out / "clip.parquet").to_pandas()
    assert {*table.columns} == {"frame", "time"} | columns
    assert table["frame"].tolist() == [*range(25)]
    picture = frames_of(clip)[7]
    if task == "segment":
        result = hrformer.load("hrformer_tiny_petspeople", "cpu")(picture)
        mask = cv2.imdecode(np.frombuffer(table["mask"][7], np.uint8), cv2.IMREAD_UNCHANGED)
        assert (mask != result.mask).mean() < 1e-3  # type: ignore[union-attr]
    else:
        result = hrformer.load("hrformer_tiny_things", "cpu")(picture)
        np.testing.assert_allclose(table["probabilities"][7], result.probabilities, atol=1e-4)  # type: ignore[union-attr]
    assert len(frames_of(out / "clip.drawn.mp4")) == 25


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    """Parts of six frames: killed after the first, ended after the third, with joints smoothed and everything drawn."""
    frames = [window(n, SIZE) for n in range(20, 50)]
    clip = write_clip(tmp_path / "clip.mkv", frames, marks=[n * n + 30 * n for n in range(30)], sound=True)
    command = ["predict", "pose", str(clip), "--no-flip", "--draw", "--every", "3", "--smooth", "zero-phase"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"}

    def run(out: Path, *more: str, part: int | None = None, stop: signal.Signals | None = None) -> tuple[int, str]:
        words = [sys.executable, "-c", PROGRAM.format(part=6), *command, "--out", str(out), *more]
        process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if stop is not None:
            while process.poll() is None and not (out / "clip.parts" / f"part-{part:06d}.parquet").exists():
                time.sleep(0.01)
            process.send_signal(stop)
        told = process.communicate(timeout=300)[0]
        return process.returncode, told

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(whole)[0] == 0
    assert run(broken, part=0, stop=signal.SIGKILL)[0] == -9
    code, told = run(broken, "--resume", part=2, stop=signal.SIGTERM)
    assert code == 143
    assert "going on after frame" in told
    assert "to go on: hrformer predict pose" in told
    assert not (broken / "clip.parquet").exists()
    before = {file: file.stat().st_mtime_ns for file in (broken / "clip.parts").glob("part-*")}
    assert len(before) >= 3
    code, told = run(broken, "--resume")
    assert code == 0
    assert f"going on after frame {6 * len(before) - 1}" in told
    for name in ("clip.parquet", "clip.drawn.mp4"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()
    assert sorted(file.name for file in broken.iterdir()) == ["clip.drawn.mp4", "clip.parquet"]


def test_parts_of_another_run_are_not_gone_on_from(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["predict", "classify", str(clip), "--out", str(out)]
    monkeypatch.setattr("hrformer.cli.video.PART", 8)
    with monkeypatch.context() as patch:
        patch.setattr("hrformer.cli.video.rows_writer", None)  # when all parts are done
        assert main(command) == 2
    before = {file: file.stat().st_mtime_ns for file in (out / "clip.parts").glob("part-*")}
    assert len(before) == 4
    assert main([*command, "--resume", "--top-k", "2"]) == 2
    assert "comes from a run with another top_k" in capsys.readouterr().err
    assert main([*command, "--resume", "--precision", "bf16"]) == 2
    assert "comes from a run with another precision" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert main([*command, "--resume"]) == 0
    assert pq.read_table(out / "clip.parquet").num_rows == 25
    done = (out / "clip.parquet").stat().st_mtime_ns
    capsys.readouterr()
    assert main([*command, "--resume", "--draw"]) == 0  # only what is not there yet
    assert "clip.mp4 had been done before" in capsys.readouterr().out
    assert len(frames_of(out / "clip.drawn.mp4")) == 25
    assert main([*command, "--resume", "--flip"]) == 2
    assert "comes from a run with another flip" in capsys.readouterr().err
    assert (out / "clip.parquet").stat().st_mtime_ns == done
    assert main([*command[:2], str(clip.parent / "*.mp4"), *command[3:]]) == 0
    assert (out / "clip.parquet").stat().st_mtime_ns > done


def test_a_truncated_file_gives_what_it_holds_then_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = write_clip(tmp_path / "whole.mkv", [window(n) for n in range(40)])
    (tmp_path / "cut.mkv").write_bytes(whole.read_bytes()[:-4000])
    out = tmp_path / "out"
    assert (
        main(["predict", "classify", str(tmp_path / "cut.mkv"), str(tmp_path / "absent.mp4"), "--out", str(out)]) == 1
    )
    rows = pq.read_table(out / "cut.parquet").num_rows
    assert 0 < rows < 40
    said = capsys.readouterr()
    assert f"cut.mkv: {rows} frames; results" in said.out
    assert said.err.splitlines()[-2].startswith(f"{tmp_path / 'cut.mkv'} ends at ")
    assert said.err.splitlines()[-1] == f"{tmp_path / 'absent.mp4'}: no such file"
    assert main(["predict", "classify", str(tmp_path / "cut.mkv"), "--out", str(out), "--resume"]) == 1
    assert "cut.mkv ends at " in capsys.readouterr().err  # still


def test_detections_of_other_frames_are_refused(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes, out = tmp_path / "boxes.json", tmp_path / "out"
    boxes.write_text('[{"image_id": 100, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.9}]')
    command = ["--detections", str(boxes), "--out", str(out)]
    assert main(["predict", "pose", str(clip), *command]) == 2
    assert "no detections for any frame of clip.mp4; image_id is the frame's number, 0 to 24" in capsys.readouterr().err
    assert main(["predict", "pose", str(clip), str(clip), *command]) == 2
    assert "--detections has the frames of one video" in capsys.readouterr().err


def test_nothing_of_others_is_replaced(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["predict", "classify", str(clip), "--out", str(tmp_path), "--draw"]
    (tmp_path / "clip.parts").mkdir()
    mine = [tmp_path / name for name in ("clip.parts/thesis.txt", "clip.parquet", "clip.drawn.mp4")]
    for file, told in zip(mine, ("holds thesis.txt", "clip.parquet", "clip.drawn.mp4"), strict=True):
        file.write_text("mine")
        for more in ([], ["--resume"]):
            assert main([*command, *more]) == 2
            assert told in capsys.readouterr().err
        assert file.read_text() == "mine"
        file.unlink()
    (tmp_path / "clip.parts").rmdir()
    (tmp_path / "clip.parts").write_text("mine")
    assert main(command) == 2
    assert "clip.parts, which is no folder" in capsys.readouterr().err
    (tmp_path / "clip.parts").unlink()
    (tmp_path / "file").touch()
    assert main(["predict", "classify", str(clip), "--out", str(tmp_path / "file")]) == 2
    assert "file: File exists" in capsys.readouterr().err


def test_a_drawing_is_that_of_its_table(clip: Path, tmp_path: Path) -> None:
    command = ["predict", "classify", str(clip), "--out", str(tmp_path / "out")]
    assert main([*command, "--draw"]) == 0
    first = (tmp_path / "out" / "clip.drawn.mp4").read_bytes()
    assert main([*command, "--top-k", "1"]) == 0
    assert main([*command, "--top-k", "1", "--draw", "--resume"]) == 0
    assert (tmp_path / "out" / "clip.drawn.mp4").read_bytes() != first


def test_another_video_of_the_same_name_is_another(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_clip(tmp_path / "clip.mp4", [window(n, SIZE) for n in range(10)])
    command = ["predict", "classify", "--out", str(tmp_path / "out")]
    assert main([*command, str(clip)]) == 0
    assert main([*command, str(other), "--resume"]) == 2
    assert "comes from a run with another sha256" in capsys.readouterr().err
    assert main(["predict", "segment", str(clip), "--out", str(tmp_path / "out"), "--resume"]) == 2
    assert "comes from a run with another" in capsys.readouterr().err


def test_of_several_videos_one_that_fails_does_not_stop_the_others(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (tmp_path / "a").mkdir()
    odd = tmp_path / "a" / os.fsdecode(b"gr\xfcn.mp4")
    odd.write_bytes(clip.read_bytes())
    out.mkdir()
    (out / "clip.parquet").write_text("mine")
    files = [str(tmp_path / "absent" / "clip.mp4"), str(clip), str(odd)]
    assert main(["predict", "classify", *files, "--out", str(out), "--draw"]) == 1
    said = capsys.readouterr()
    assert "absent/clip.mp4: no such file" in said.err
    names = sorted(os.fsencode(file.name) for file in out.iterdir())
    assert b"gr_xfcn.parquet" in names
    assert b"gr_xfcn.drawn.mp4" in names
    # The first was to have the plain name, found or not.
    assert (out / "clip.parquet").read_text() == "mine"
    assert len(names) == 5


def test_what_makes_no_sense_is_refused(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in [
        (["classify", str(clip), "a.jpg"], "give videos or pictures, not both: a.jpg is no video"),
        (["pose", str(clip), "--every", "0"], "--every must be at least 1"),
        (["pose", str(clip), "--cutoff", "0"], "--cutoff above 0 Hz"),
        (["pose", str(clip), "--cutoff", "nan"], "--cutoff above 0 Hz"),
        (["pose", str(clip), "--engine", "ray"], "--engine ray is for pictures"),
        (["pose", str(clip), "--weights", "hrformer_tiny_things"], "are for classification, not for pose"),
    ]:
        assert main(["predict", *words, "--out", str(tmp_path / "out")]) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", ["pose", "classify"])
def test_a_camera_runs_until_ctrl_c_and_keeps_what_it_saw(
    clip: Path, tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = cv2.VideoCapture

    class Capture:
        """A camera that is in truth a file, at whose tenth frame the user presses Ctrl-C."""

        def __init__(self, number: int) -> None:
            assert number == 0
            self.file, self.count = real(str(clip)), 0

        def read(self) -> tuple[bool, np.ndarray]:
            self.count += 1
            if self.count == 10:
                signal.raise_signal(signal.SIGINT)
            return self.file.read()

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which processes of tests may lack
    out, more = tmp_path / "out", ["--no-flip", "--smooth", "one-euro"] if task == "pose" else []
    try:
        assert main(["predict", task, "0", "--out", str(out), "--draw", *more]) == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert "camera 0: 9 frames; results" in capsys.readouterr().out
    assert len(frames_of(out / "camera-0.drawn.mp4")) == 9
    if task == "pose":
        tracks = read_tracks(out / "camera-0.parquet")
        assert len(tracks.numbers) == 9
        assert {*tracks.tracks.tolist()} == {1}
        assert main(["predict", "pose", "0", "--out", str(out), "--smooth", "zero-phase"]) == 2
        assert "which a camera cannot" in capsys.readouterr().err
    else:
        assert pq.read_table(out / "camera-0.parquet").num_rows == 9
        assert (run_of(out / "camera-0.parquet") or {})["precision"] == "fp32"
