"""Frames of videos: which they are, when they are, and how they are turned."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from clips import window, write_clip
from hrformer.video.reading import Frame, VideoError, is_video, open_video

FRAMES = 48
UNEVEN = [number * number + 37 * number for number in range(FRAMES)]
CONTAINERS = {
    "clip.mp4": {"options": {"bf": "3", "g": "12"}},
    "clip.mkv": {"options": {"bf": "3", "g": "12"}},
    "clip.ts": {"options": {"bf": "2", "g": "12"}, "base": Fraction(1, 90000), "scale": 90},
    "clip.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8", "g": "12"}},
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, pictures = tmp_path_factory.mktemp("clips"), [window(number) for number in range(FRAMES)]
    written = {}
    for name, options in CONTAINERS.items():
        more: dict[str, Any] = dict(options)
        scale = more.pop("scale", 1)
        written[name] = write_clip(folder / name, pictures, marks=[scale * mark for mark in UNEVEN], **more)
    return written


def frames_of(path: Path) -> list[Frame]:
    with open_video(path) as video:
        return [*video.frames()]


def assert_are_windows(frames: list[Frame], first: int = 0) -> None:
    """The pictures are those of the windows, and not of their neighbours, whatever a codec does to them."""
    for number, frame in enumerate(frames, first):
        errors = [np.abs(frame.pixels.astype(int) - window(other)).mean() for other in (number - 1, number, number + 1)]
        assert errors[1] == min(errors) < 6


@pytest.mark.parametrize("name", CONTAINERS)
def test_times_are_those_of_the_file_and_order_is_that_of_presentation(clips: dict[str, Path], name: str) -> None:
    with open_video(clips[name]) as video:
        frames = [*video.frames()]
        assert video.size == (256, 192)
        assert video.problem == ""
    assert [frame.number for frame in frames] == [*range(FRAMES)]
    start = frames[0].time  # a transport stream begins later than at 0
    # Matroska and WebM count in milliseconds, MP4 in steps of its own.
    np.testing.assert_allclose([frame.time - start for frame in frames], np.array(UNEVEN) / 1000, atol=6e-4)
    assert_are_windows(frames)


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("place", [0, 11, 12, 30, FRAMES - 1])
def test_frames_after_one_are_those_of_a_whole_run(clips: dict[str, Path], name: str, place: int) -> None:
    whole = frames_of(clips[name])
    with open_video(clips[name]) as video:
        rest = [*video.frames(whole[place])]  # type: ignore[call-arg]
    assert [(one.number, one.time, one.mark) for one in rest] == [
        (one.number, one.time, one.mark) for one in whole[place + 1 :]
    ]
    for one, other in zip(rest, whole[place + 1 :], strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)


def test_a_frame_that_is_not_in_the_file_is_refused(clips: dict[str, Path]) -> None:
    last = frames_of(clips["clip.mp4"])[20]
    others = [replace(last, time=last.time + 0.001), replace(last, number=200)]
    for other in others:
        with open_video(clips["clip.mp4"]) as video, pytest.raises(VideoError, match="is not in this file"):
            next(video.frames(other))  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["long.ts", "long.mpg", "long.avi", "long.mkv"])
def test_files_that_cannot_be_sought_go_on_to_their_end(tmp_path: Path, name: str) -> None:
    """One group of pictures, after whose start no frame can be decoded by itself."""
    codec = {"long.mpg": "mpeg2video"}.get(name, "libx264")
    options = {"g": "300", "bf": "2", "x264-params": "intra-refresh=1"} if codec == "libx264" else {"g": "300"}
    base = Fraction(1, 25) if name in ("long.avi", "long.mpg") else Fraction(1, 90000)
    clip = write_clip(tmp_path / name, [window(n) for n in range(FRAMES)], base=base, codec=codec, options=options)
    whole = frames_of(clip)
    assert len(whole) >= FRAMES - 1
    for place in (10, len(whole) - 5):
        with open_video(clip) as video:
            rest = [*video.frames(whole[place])]  # type: ignore[call-arg]
        assert [one.time for one in rest] == [one.time for one in whole[place + 1 :]]
        for one, other in zip(rest, whole[place + 1 :], strict=True):
            np.testing.assert_array_equal(one.pixels, other.pixels)


# MP4 has no frames before 0: they are cut off by its edit list.
@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("a.mkv", -1200),
        ("a.mkv", 1000),
        ("a.mkv", 200_000_000),
        ("a.mp4", 1000),
        ("a.mp4", 200_000_000),
        ("a.ts", 1000),
    ],
)
def test_files_that_start_elsewhere_than_at_0_are_whole(tmp_path: Path, name: str, start: int) -> None:
    marks = [start + 40 * number for number in range(FRAMES)]
    clip = write_clip(tmp_path / name, [window(n) for n in range(FRAMES)], marks=marks, options={"bf": "0"})
    with open_video(clip) as video:
        frames = [*video.frames()]
        assert video.problem == ""
        assert abs(video.expected - FRAMES) <= 1
    assert_are_windows(frames)
    np.testing.assert_allclose(np.diff([frame.time for frame in frames]), 0.04, atol=1e-3)


def test_equal_times_move_on_by_a_tick_and_no_further(tmp_path: Path) -> None:
    marks = [40 * number for number in range(FRAMES)]
    marks[20] = marks[19]
    clip = tmp_path / "clip.mkv"
    with av.open(str(clip), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 192, 256, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number, mark in enumerate(marks):
            frame = av.VideoFrame.from_ndarray(window(number), format="rgb24")
            frame.pts, frame.time_base = 40 * number, Fraction(1, 1000)
            for packet in stream.encode(frame):
                packet.pts = packet.dts = mark
                container.mux(packet)
    times = [frame.time for frame in frames_of(clip)]
    expected = np.array(marks) / 1000
    expected[20] += 0.001
    np.testing.assert_allclose(times, expected, atol=1e-9)


def test_a_longer_second_stream_does_not_make_a_file_short(tmp_path: Path) -> None:
    clip = tmp_path / "two.mkv"
    with av.open(str(clip), "w") as container:
        streams: list[Any] = [container.add_stream("libx264", rate=25) for _ in range(2)]
        for stream in streams:
            stream.height, stream.width, stream.pix_fmt = 192, 256, "yuv420p"
        for stream, count in zip(streams, (30, 90), strict=True):
            for number in range(count):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(window(number), format="rgb24")))
            container.mux(stream.encode(None))
    with open_video(clip) as video:
        assert len([*video.frames()]) == 30
        assert video.problem == ""


# Display matrices (a, b, c, d) and what they do to the stored picture.
TURNS = {
    "quarter, as phones held upright": ((0, 1, -1, 0), lambda picture: np.rot90(picture, -1)),
    "half": ((-1, 0, 0, -1), lambda picture: np.rot90(picture, 2)),
    "three quarters": ((0, -1, 1, 0), lambda picture: np.rot90(picture)),
    "mirrored": ((-1, 0, 0, 1), np.fliplr),
    "upside down in a mirror": ((1, 0, 0, -1), np.flipud),
    "transposed": ((0, 1, 1, 0), lambda picture: picture.swapaxes(0, 1)),
    "transposed the other way": ((0, -1, -1, 0), lambda picture: np.rot90(picture, 2).swapaxes(0, 1)),
    "not at all": ((1, 0, 0, 1), lambda picture: picture),
}


@pytest.mark.parametrize("turn", TURNS)
def test_frames_are_turned_as_the_file_says(clips: dict[str, Path], tmp_path: Path, turn: str) -> None:
    (a, b, c, d), expected = TURNS[turn]
    data = bytearray(clips["clip.mp4"].read_bytes())
    place = data.index(b"tkhd") + 4 + 40  # of the matrix: ISO/IEC 14496-12, 8.3.2, version 0
    one = 1 << 16
    data[place : place + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(data)
    stored = frames_of(clips["clip.mp4"])
    with open_video(turned) as video:
        frames = [*video.frames()]
        assert video.size == (frames[0].pixels.shape[1], frames[0].pixels.shape[0])
    for frame, plain in zip(frames[:3], stored, strict=False):
        np.testing.assert_array_equal(frame.pixels, expected(plain.pixels))


@pytest.mark.parametrize("name", ["clip.mkv", "clip.ts", "clip.webm", "front.mp4"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_file_gives_what_it_holds_and_says_so(
    clips: dict[str, Path], tmp_path: Path, name: str, share: float
) -> None:
    if name == "front.mp4":  # its index first, as in files for the web
        with (
            av.open(str(clips["clip.mp4"])) as source,
            av.open(str(tmp_path / "whole.mp4"), "w", options={"movflags": "faststart"}) as target,
        ):
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
        whole = tmp_path / "whole.mp4"
    else:
        whole = clips[name]
    data = whole.read_bytes()
    (tmp_path / name).write_bytes(data[: round(share * len(data))])
    with open_video(tmp_path / name) as video:
        frames = [*video.frames()]
        assert 0 < len(frames) < FRAMES
        if name != "clip.ts":  # which says nowhere how long it is
            assert f"{name} ends at {frames[-1].time:.2f} s" in video.problem
    assert_are_windows(frames[:-1])


def test_what_is_no_video_is_refused_by_name(clips: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="download it first"):
        open_video("https://example.org/clip.mp4")
    with pytest.raises(FileNotFoundError, match=r"absent\.mp4: no such file"):
        open_video(tmp_path / "absent.mp4")
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(VideoError, match=r"text\.mp4 cannot be read as a video: Invalid data"):
        open_video(tmp_path / "text.mp4")
    data = clips["clip.mp4"].read_bytes()
    (tmp_path / "headless.mp4").write_bytes(data[: len(data) // 2])  # the index is at the end
    with pytest.raises(VideoError, match=r"headless\.mp4 cannot be read"):
        open_video(tmp_path / "headless.mp4")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        tone: Any = container.add_stream("aac", rate=48000, layout="mono")
        part = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        part.sample_rate = 48000
        container.mux(tone.encode(part))
        container.mux(tone.encode(None))
    with pytest.raises(VideoError, match=r"sound\.mp4 holds no video"):
        open_video(tmp_path / "sound.mp4")


def test_videos_are_known_by_their_endings_and_cameras_by_numbers() -> None:
    assert all(map(is_video, ["a.mp4", "A.MOV", "folder/b.mkv", "0", "12"]))
    assert not any(map(is_video, ["a.jpg", "folder", "-1", "1.5", "*.png"]))


def test_what_is_there_goes_before_what_a_name_could_mean(
    clips: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "2024").mkdir()
    (tmp_path / "folder.mp4").mkdir()
    assert not is_video("2024")
    assert not is_video("folder.mp4")
    data = clips["clip.mp4"].read_bytes()
    for name in (b"10:30.mp4", b"http:x.mp4", b"gr\xfcn.mp4"):
        Path(os.fsdecode(name)).write_bytes(data)
        assert len(frames_of(Path(os.fsdecode(name)))) == FRAMES
    for wrong in (-1, True):
        with pytest.raises(VideoError, match="a camera has a number from 0 on"):
            open_video(wrong)


def test_a_camera_gives_frames_as_time_goes_by(clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    real = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: real(str(clips["clip.mp4"])) if number == 3 else real())
    with open_video("3") as camera:
        frames = [*camera.frames()]
        assert camera.live
        assert camera.problem == "camera 3 gives no more frames"
    assert_are_windows(frames)
    times = [frame.time for frame in frames]
    assert times == sorted(times)
    with pytest.raises(VideoError, match="no camera 1 can be opened"):
        open_video(1)
