"""A folder of every kind of file that users have: each good picture predicted, each other one named."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HUGE = (5000, 4000)
PEAK = 2.0
"""GB that a run may take at most."""

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "F", "I")


def good_pictures(folder: Path, photo: Image.Image) -> None:
    """Files that are pictures."""
    # No file format keeps HSV or PA.
    suffixes = {"CMYK": "jpg", "YCbCr": "jpg", "LAB": "tif", "F": "tif", "I": "tif", "HSV": None, "PA": None}
    for mode in MODES:
        values = np.asarray(photo.convert("L"))
        if mode == "I;16":
            picture = Image.fromarray(values.astype(np.uint16) * 257)
        elif mode == "F":
            picture = Image.fromarray(values.astype(np.float32) / 255)
        elif mode == "I":
            picture = Image.fromarray(values.astype(np.int32) * 257)
        else:
            picture = photo.convert("P").convert("PA") if mode == "PA" else photo.convert(mode)
        if suffix := suffixes.get(mode, "png"):
            picture.save(folder / f"mode_{mode.replace(';', '')}.{suffix}")
    for suffix in ("bmp", "gif", "webp", "tiff", "ppm", "jp2", "jpeg"):
        photo.save(folder / f"format.{suffix}")
    frames = [photo.resize((60, 40)), photo.resize((60, 40)).rotate(90)]
    for suffix in ("gif", "webp", "tif"):
        frames[0].save(folder / f"animated.{suffix}", save_all=True, append_images=frames[1:])
    photo.save(folder / "transparent.png", transparency=(0, 0, 0))
    photo.resize(HUGE).save(folder / "huge.jpg")
    Image.new("RGB", (1, 1), "red").save(folder / "one_pixel.png")
    Image.new("RGB", (1, 5000), "red").save(folder / "tall.png")
    Image.new("RGB", (20000, 40), "red").save(folder / "wide.png")
    Image.new("RGB", (70000, 2), "red").save(folder / "line.png")
    photo.save(folder / "with spaces, ünïcode & 'quotes'.jpg")
    photo.save(os.fsencode(folder) + b"/gr\xfcn.png", "PNG")
    (folder / "linked.jpg").symlink_to("format.jpeg")


def bad_files(folder: Path, photo: Image.Image) -> set[str]:
    """Files, links and special files that are none, by name."""
    whole = (folder / "format.jpeg").read_bytes()
    png = (folder / "mode_RGB.png").read_bytes()
    contents = {
        "truncated.jpg": whole[: len(whole) // 2],
        "truncated.png": png[: len(png) // 2],
        "empty.jpg": b"",
        "text.jpg": b"hello, world\n" * 20,
        "zeros.png": bytes(1000),
        "html.jpg": b"<!doctype html><title>404</title>",
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    Image.new("1", (30000, 30000)).save(folder / "bomb.png")
    Image.fromarray(np.asarray(photo.convert("L"), np.float32) * 3).save(folder / "out_of_range.tif")
    (folder / "broken_link.jpg").symlink_to("nowhere.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "broken_link").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe_without_ending")
    # The path of a socket has a length limit; its file does not.
    here = os.open(".", os.O_RDONLY)
    os.chdir(folder)
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind("socket.jpg")
    os.fchdir(here)
    os.close(here)
    (folder.parent / "elsewhere").mkdir()
    (folder / "linked_folder").symlink_to(folder.parent / "elsewhere")
    kinds = {"broken_link.jpg", "loop.jpg", "pipe.png", "pipe_without_ending", "socket.jpg", "linked_folder"}
    return {*contents, "broken_link", "bomb.png", "out_of_range.tif", *kinds}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> tuple[Path, set[str]]:
    folder = tmp_path_factory.mktemp("every") / "pictures"
    folder.mkdir()
    photo = Image.open(next(iter(sorted((data_dir / "coco_tiny").rglob("*.jpg"))))).convert("RGB")
    good_pictures(folder, photo)
    bad = bad_files(folder, photo)
    unreadable = folder / "unreadable.jpg"
    photo.save(unreadable)
    unreadable.chmod(0)
    # The superuser reads everything.
    return folder, bad if os.access(unreadable, os.R_OK) else bad | {"unreadable.jpg"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes and /proc are Linux's")
@pytest.mark.parametrize("task", ["pose", "segment", "classify"])
def test_every_good_picture_is_predicted_and_every_other_named(
    task: str, folder: tuple[Path, set[str]], tmp_path: Path
) -> None:
    pictures, bad = folder
    entries = {os.fsdecode(entry) for entry in os.listdir(os.fsencode(pictures))}
    assert len(entries) >= 45
    options = ["--memory", "0.5"] if task == "segment" else []
    command = [sys.executable, "-m", "hrformer", "predict", task, str(pictures), "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, *options], capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 1, done.stderr
    index = json.loads((tmp_path / "out" / "images.json").read_text(encoding="utf-8"))
    assert {Path(name).name for name in index["unreadable"]} == bad
    assert not index["failed"]
    assert all(index["unreadable"].values())
    assert {image["file_name"] for image in index["images"]} == entries - bad
    assert all(name in done.stderr for name in bad)
    assert "Corrupt JPEG" not in done.stderr
    peak = float(done.stdout.partition("peak memory ")[2].split()[0])
    assert 0.1 < peak < PEAK
