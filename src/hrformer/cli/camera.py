"""``hrformer predict`` on cameras: results as time goes by, until Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from hrformer.cli.arguments import PoseArguments, PredictArguments
from hrformer.cli.messages import note, say
from hrformer.predict.pose import PosePredictor
from hrformer.predict.predictors import AnyPredictor
from hrformer.predict.tracks import tracks_writer
from hrformer.predict.video import VideoFrame
from hrformer.predict.video_rows import draw_frame, row_of, rows_writer, source_of, tracks_of_frames
from hrformer.train.progress import bars
from hrformer.video.reading import NO_PIXELS, Video
from hrformer.video.writing import suffix_for, video_writer
from hrformer.wording import counted

_PART = 240  # Frames whose rows are written at once


def record(
    video: Video, predictor: AnyPredictor, arguments: PredictArguments, options: dict[str, Any], run: dict[str, Any]
) -> None:
    """Results of a camera until it ends or Ctrl-C comes, which then are written."""
    name = video.name.replace(" ", "-")
    table, drawing = (arguments.out / f"{name}{suffix}" for suffix in (".parquet", f".drawn{suffix_for(None)}"))
    if isinstance(arguments, PoseArguments):
        if arguments.smooth == "zero-phase":
            raise ValueError("--smooth zero-phase looks ahead, which a camera cannot; use one-euro")
        options = options | {"every": arguments.every, "smooth": arguments.smooth == "one-euro"}
    frames, frame = predictor.video(video, **options), None
    with ExitStack() as stack:
        show = stack.enter_context(bars())
        write = stack.enter_context(_frames_writer(table, predictor, video, arguments, run))
        draw = stack.enter_context(video_writer(drawing, None, arguments.codec, video.rate)) if arguments.draw else None
        note("Ctrl-C ends")
        try:
            for frame in frames:
                write(frame)
                if draw is not None:
                    draw(frame.time, None, draw_frame(frame))
                show("frames", frame.number + 1, frame.number + 1)
        except KeyboardInterrupt:  # how a camera ends
            pass
    count = 0 if frame is None else frame.number + 1
    say(f"{video.name}: {counted(count, 'frame')}; results: {table}")
    if arguments.draw and count:
        say(f"drawn: {drawing}")


@contextmanager
def _frames_writer(
    path: Path, predictor: AnyPredictor, video: Video, arguments: PredictArguments, run: dict[str, Any]
) -> Iterator[Callable[[VideoFrame[Any]], None]]:
    """A function that appends the result of a frame to the table of a camera."""
    waiting: list[VideoFrame[Any]] = []
    with ExitStack() as stack:
        if isinstance(predictor, PosePredictor):
            assert isinstance(arguments, PoseArguments)
            source = source_of(predictor, video, run | _smoothing(arguments))
            write_part = stack.enter_context(tracks_writer(path, source))

            def flush() -> None:
                write_part(tracks_of_frames(waiting, source))
                waiting.clear()
        else:
            write_rows = stack.enter_context(rows_writer(path, predictor, video, run))

            def flush() -> None:
                write_rows([row_of(one.number, one.time, one.result) for one in waiting])
                waiting.clear()

        def append(frame: VideoFrame[Any]) -> None:
            # Rows need no picture.
            waiting.append(replace(frame, result=replace(frame.result, image=NO_PIXELS)))
            if len(waiting) == _PART:
                flush()

        yield append
        flush()


def _smoothing(arguments: PoseArguments) -> dict[str, Any]:
    return {"smooth": arguments.smooth, "every": arguments.every}
