"""Drawn videos: their times are those of the source, and so is their sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from clips import window, write_clip
from hrformer.video.reading import VideoError, VideoFile, open_video
from hrformer.video.writing import Codec, about_video, suffix_for, video_writer

UNEVEN = [number * number + 37 * number for number in range(40)]


def sound_of(path: Path) -> list[tuple[int, bytes]]:
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.dts is not None]
        return [(round(float(packet.pts * packet.time_base) * 48000), bytes(packet)) for packet in packets]


@pytest.mark.parametrize("codec", ["h264", "vp9", "av1"])
def test_times_and_sound_are_those_of_the_source(tmp_path: Path, codec: Codec) -> None:
    source = write_clip(tmp_path / "clip.mkv", [window(n) for n in range(40)], marks=UNEVEN, sound=True)
    with open_video(source) as video:
        assert isinstance(video, VideoFile)
        target = tmp_path / f"drawn{suffix_for(video)}"
        with video_writer(target, video, codec, video.rate) as write:
            for frame in video.frames():
                write(frame.time, frame.mark, 255 - frame.pixels)
    assert about_video(target) is None
    with open_video(source) as video, open_video(target) as drawn:
        ours, theirs = [*video.frames()], [*drawn.frames()]
        assert drawn.problem == ""
    assert target.suffix == ".mp4"
    np.testing.assert_allclose([one.time for one in theirs], [one.time for one in ours], atol=1e-6)
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(255 - one.pixels.astype(int) - other.pixels).mean() < 12
    assert [data for _, data in sound_of(target)] == [data for _, data in sound_of(source)]
    shifts = {ours - theirs for (ours, _), (theirs, _) in zip(sound_of(source), sound_of(target), strict=True)}
    assert max(map(abs, shifts)) <= 48  # Matroska counts in milliseconds


def test_odd_sides_get_one_more_row_and_column(tmp_path: Path) -> None:
    pixels = np.full((31, 45, 3), 200, np.uint8)
    with video_writer(tmp_path / "camera.mp4", None, "h264", 0.0) as write:
        for number in range(5):
            write(number * 0.1, None, pixels)
    with open_video(tmp_path / "camera.mp4") as video:
        frames = [*video.frames()]
        assert video.size == (46, 32)
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(5) * 0.1, atol=1e-3)
    assert np.abs(frames[0].pixels.astype(int) - 200).max() < 12


def test_sound_that_players_do_not_expect_in_mp4_goes_into_matroska(tmp_path: Path) -> None:
    source = tmp_path / "clip.mkv"
    with av.open(str(source), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 192, 256, "yuv420p"
        tone: Any = container.add_stream("pcm_s16le", rate=48000, layout="mono")
        for number in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(window(number), format="rgb24")))
        container.mux(stream.encode(None))
        part = av.AudioFrame.from_ndarray(np.zeros((1, 9600), np.int16), format="s16", layout="mono")
        part.sample_rate = 48000
        container.mux(tone.encode(part))
        container.mux(tone.encode(None))
    with open_video(source) as video:
        assert isinstance(video, VideoFile)
        assert suffix_for(video) == ".mkv"
        with video_writer(tmp_path / "drawn.mkv", video) as write:
            for frame in video.frames():
                write(frame.time, frame.mark, frame.pixels)
    assert [data for _, data in sound_of(tmp_path / "drawn.mkv")] == [data for _, data in sound_of(source)]


def test_sound_keeps_its_language_and_what_cannot_be_copied_is_told(tmp_path: Path) -> None:
    source, told = tmp_path / "clip.avi", list[str]()
    with av.open(str(source), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 192, 256, "yuv420p"
        tones: list[Any] = [container.add_stream(kind, rate=8000, layout="mono") for kind in ("pcm_mulaw", "mp3")]
        tones[1].metadata["language"] = "deu"
        for number in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(window(number), format="rgb24")))
        container.mux(stream.encode(None))
        for tone in tones:
            kind = "s16" if tone is tones[0] else "s16p"
            part = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format=kind, layout="mono")
            part.sample_rate = 8000
            container.mux(tone.encode(part))
            container.mux(tone.encode(None))
    target = tmp_path / "drawn.mkv"
    with open_video(source) as video:
        assert isinstance(video, VideoFile)
        assert suffix_for(video) == ".mkv"
        with video_writer(target, video, about="{}", told=told.append) as write:
            for frame in video.frames():
                write(frame.time, frame.mark, frame.pixels)
    assert told == ["sound of the kind pcm_mulaw cannot be copied, and is left out"]
    assert about_video(target) == "{}"
    with av.open(str(source)) as before, av.open(str(target)) as after:
        assert [one.codec_context.name for one in after.streams.audio] == ["mp3float"]
        assert after.streams.audio[0].language == before.streams.audio[1].language


def test_after_an_error_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AttributeError), video_writer(tmp_path / "drawn.mp4", None) as write:
        write(0.0, None, None)
    monkeypatch.setattr(av.codec, "codecs_available", {"mpeg4", "libsvtav1"})
    with (
        pytest.raises(VideoError, match="cannot write h264: it lacks libx264; it has av1"),
        video_writer(tmp_path / "drawn.mp4", None),
    ):
        pass
    assert not list(tmp_path.iterdir())
