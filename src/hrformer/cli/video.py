"""``hrformer predict`` on videos and cameras: a table of results, and the video with the results drawn on it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count as count_from
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from hrformer.cli.arguments import PoseArguments, PredictArguments
from hrformer.cli.inputs import OutputNames
from hrformer.cli.messages import note, say
from hrformer.files import replacing
from hrformer.predict.pose import PosePredictor
from hrformer.predict.predictors import AnyPredictor
from hrformer.predict.results import Result
from hrformer.predict.tracks import Source, Tracks, arrow, stream_tracks, tracks_writer
from hrformer.predict.video import Follower, FramePeople, VideoFrame, joints_of, results_of
from hrformer.predict.video_rows import (
    COLUMNS,
    draw_frame,
    draw_row,
    draw_tracks,
    row_of,
    tracks_of,
    tracks_of_frames,
    without_tremble,
)
from hrformer.train.progress import bars
from hrformer.video.boxes import BoxLinks
from hrformer.video.reading import Frame, Video, VideoError, VideoFile, open_video
from hrformer.video.writing import suffix_for, video_writer
from hrformer.wording import counted

PART = 240
"""Frames whose results are written at once; what a run that is killed has to do again."""

RESULTS = b"hrformer.video"
"""Key of a Parquet file's metadata under which a part's state, or the names of classes, stand as JSON."""

_NO_PIXELS = np.empty((0, 0, 3), np.uint8)

Show = Callable[[str, int, int], object]


@dataclass(kw_only=True, slots=True)
class VideoJob:
    """One video on its way to its results; what is done lies in a folder until all of it is.

    Args:
        video: an open file.
        predictor: for its frames.
        arguments: what was typed.
        options: what ``predictor.stream`` takes.
        run: what the results depend on; parts of other runs are not gone on from.
        name: of the results, without ending.
    """

    video: VideoFile
    predictor: AnyPredictor
    arguments: PredictArguments
    options: dict[str, Any]
    run: dict[str, Any]
    name: str

    @property
    def table(self) -> Path:
        """The Parquet file with all results."""
        return self.arguments.out / f"{self.name}.parquet"

    @property
    def drawing(self) -> Path:
        """The drawn video."""
        return self.arguments.out / f"{self.name}{suffix_for(self.video)}"

    @property
    def folder(self) -> Path:
        """Where finished parts wait."""
        return self.arguments.out / f"{self.name}.parts"

    def finish(self, show: Show) -> str:
        """Do what is left to do and say so; returns what was wrong with the video, "" for nothing.

        Raises:
            ValueError: with --resume, what is there comes from another run.
        """
        if self.folder.exists() and not self.arguments.resume:
            note(f"{self.folder} holds parts of an earlier run, which are replaced; --resume goes on from them")
            shutil.rmtree(self.folder)
        frames, problem = self._predict(self._parts_done(), show)
        people = self._write_table()
        if self.arguments.draw:
            self._draw(frames, show)
        shutil.rmtree(self.folder)
        found = f", {counted(people, 'person', 'people')}" if self.predictor.task == "pose" else ""
        say(f"{self.video.name}: {counted(frames, 'frame')}{found}; results: {self.table}")
        if self.arguments.draw:
            say(f"drawn: {self.drawing}")
        return problem

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.parquet"

    def _parts_done(self) -> int:
        """How many parts of this run are there."""
        count = 0
        while self._part(count).exists():
            state = _about(self._part(count))
            if state["run"] != self.run:
                before = state["run"]
                different = sorted(key for key in {**self.run, **before} if self.run.get(key) != before.get(key))
                raise ValueError(
                    f"{self.folder} comes from a run with another {' and '.join(different)}: "
                    "choose another --out, or leave out --resume to start again"
                )
            count += 1
        return count

    def _predict(self, done: int, show: Show) -> tuple[int, str]:
        """Write the parts that are not there yet; returns the number of frames of all, and what the video lacks."""
        last, state = None, None
        if done:
            state = _about(self._part(done - 1))
            last = Frame(number=state["frame"], time=state["time"], mark=state["mark"], pixels=_NO_PIXELS)
            if state["ended"]:
                return last.number + 1, state["problem"]
            note(f"going on after frame {last.number}, at {last.time:.2f} s")
        results, links = self._results(self.video.frames(last), state["links"] if state else None)
        count = 0 if last is None else last.number + 1
        for part in count_from(done):
            rows = []
            for frame, result in results(self.part_frames):
                rows.append(row_of(frame, result))
                show("frames", count + len(rows), max(self.video.expected, count + len(rows)))
                last = frame
            count, ended = count + len(rows), len(rows) < self.part_frames
            assert last is not None
            where: dict[str, Any] = {"frame": last.number, "time": last.time, "mark": last.mark}
            where |= {"problem": self.video.problem if ended else "", "ended": ended}
            self._write_part(part, rows, where | {"links": links.state(), "run": self.run})
            if ended:
                break
        return count, self.video.problem

    @property
    def part_frames(self) -> int:
        """Frames of a part: the detector looks at the first of each."""
        every = self.arguments.every if isinstance(self.arguments, PoseArguments) else 1
        return every * -(-PART // every)

    def _results(
        self, frames: Iterator[Frame], state: dict[str, Any] | None
    ) -> tuple[Callable[[int], Iterator[tuple[Frame, Result]]], BoxLinks]:
        """What gives the results of the next frames, of so many, and the links of their boxes, from a state on."""
        predictor, options = self.predictor, dict(self.options)
        if not isinstance(predictor, PosePredictor):
            stream = partial(predictor.stream, **options)
            return lambda count: results_of(stream, islice(frames, count)), BoxLinks()
        assert isinstance(self.arguments, PoseArguments)
        given = (options.pop("detector", None), options.pop("detections", None))
        finder, every, links, options = predictor.frame_finder(*given, self.arguments.every, options)
        if state is not None:
            links.restore(state)
        people = FramePeople(frames, finder, every, links)
        return lambda count: joints_of(predictor.stream, people.take(count), **options), links

    def _write_part(self, part: int, rows: list[dict[str, Any]], state: dict[str, Any]) -> None:
        pa, pq = arrow()
        schema = _schema(self.predictor.task, state, mark=True)
        with replacing(self._part(part)) as file:
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), file, compression="zstd")

    def _parts(self) -> Iterator[list[dict[str, Any]]]:
        pq, part = arrow()[1], 0
        while self._part(part).exists():
            yield pq.read_table(self._part(part)).to_pylist()
            part += 1

    def _write_table(self) -> int:
        """Returns how many people there are; 0 for other tasks."""
        if isinstance(self.predictor, PosePredictor):
            assert isinstance(self.arguments, PoseArguments)
            source = source_of(self.predictor, self.video, self.arguments, self.run)
            return write_tracks(self.table, self._parts(), source, self.arguments)
        with rows_writer(self.table, self.predictor, self.video, self.run) as write:
            for rows in self._parts():
                write(rows)
        return 0

    def _draw(self, frames: int, show: Show) -> None:
        task, info = self.predictor.task, self.predictor.info
        pictures = self.video.frames()
        with video_writer(self.drawing, self.video, self.arguments.codec, self.video.rate) as write:
            for part in stream_tracks(self.table) if task == "pose" else self._parts():
                rows = part.numbers.tolist() if isinstance(part, Tracks) else part
                for row, frame in zip(rows, pictures, strict=False):
                    if isinstance(part, Tracks):
                        drawn = draw_tracks(frame.pixels, part, frame.number)
                    else:
                        drawn = draw_row(frame.pixels, row, info)
                    write(frame.time, frame.mark, drawn)
                    show("frames drawn", frame.number + 1, frames)


def source_of(predictor: PosePredictor, video: Video, arguments: PoseArguments, run: dict[str, Any]) -> Source:
    """What the tracks of a video are about."""
    return Source(
        name=video.name,
        size=video.size,
        names=predictor.joint_names,
        skeleton=predictor.info.skeleton,
        settings=run | {"smooth": arguments.smooth, "cutoff": arguments.cutoff, "rate": video.rate},
    )


def write_tracks(path: Path, parts: Iterable[list[dict[str, Any]]], source: Source, arguments: PoseArguments) -> int:
    """Give people their numbers, smooth their joints as wanted, write both; returns how many people there are."""
    sigmas = source.skeleton.sigmas if source.skeleton else None
    follower = Follower(sigmas, len(source.names), smooth=arguments.smooth == "one-euro")
    tracks, people = tracks_of(parts, follower, source), set[int]()
    if arguments.smooth == "zero-phase":
        tracks = without_tremble(tracks, arguments.cutoff)
    with tracks_writer(path, source) as write:
        for part in tracks:
            people.update(part.tracks.tolist())
            write(part)
    return len(people)


def run_videos(
    arguments: PredictArguments, predictor: AnyPredictor, options: dict[str, Any], run: dict[str, Any]
) -> int:
    """Predict on all videos and cameras that were named.

    Returns:
        0; 1 if some could not be read, or not to their end.
    """
    arrow()
    names, problems = OutputNames(), list[str]()
    for source in arguments.inputs:
        try:
            video = open_video(source)
        except (VideoError, FileNotFoundError) as error:
            problems.append(str(error))
            continue
        with video:
            if isinstance(video, VideoFile):
                own = run | {"video": video.name, "bytes": video.path.stat().st_size}
                if isinstance(arguments, PoseArguments):
                    own["every"] = arguments.every
                name = names.choose(source)
                job = VideoJob(
                    video=video, predictor=predictor, arguments=arguments, options=options, run=own, name=name
                )
                with bars() as show:
                    problem = job.finish(show)
                problems += [problem] * bool(problem)
            else:
                record(video, predictor, arguments, options, run)
    for problem in problems:
        note(problem)
    return 1 if problems else 0


@contextmanager
def rows_writer(
    path: Path, predictor: AnyPredictor, video: Video, run: dict[str, Any]
) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """A function that appends rows of frames to a Parquet file."""
    (pa, pq), info = arrow(), predictor.info
    names = {"video": video.name, "class_names": info.class_names, "palette": info.palette, "run": run}
    schema = _schema(predictor.task, names)
    with replacing(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        yield lambda rows: writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _schema(task: str, about: dict[str, Any], *, mark: bool = False) -> Any:
    pa = arrow()[0]
    fields = [("frame", pa.int64()), ("time", pa.float64())] + [("mark", pa.int64())] * mark
    for name, kind in COLUMNS[task].items():
        fields.append((name, pa.binary() if kind == "binary" else pa.list_(getattr(pa, kind)())))
    return pa.schema(fields, metadata={RESULTS: json.dumps(about).encode()})


def _about(file: Path) -> dict[str, Any]:
    """What a file's metadata say of it."""
    about: dict[str, Any] = json.loads(arrow()[1].read_schema(file).metadata[RESULTS])
    return about


def record(
    video: Video, predictor: AnyPredictor, arguments: PredictArguments, options: dict[str, Any], run: dict[str, Any]
) -> None:
    """Results of a camera until it ends or Ctrl-C comes, which then are written."""
    name = video.name.replace(" ", "-")
    table, drawing = (arguments.out / f"{name}{suffix}" for suffix in (".parquet", suffix_for(None)))
    if isinstance(arguments, PoseArguments):
        if arguments.smooth == "zero-phase":
            raise ValueError("--smooth zero-phase looks ahead, which a camera cannot; use one-euro")
        options = options | {"every": arguments.every, "smooth": arguments.smooth == "one-euro"}
    frames, frame = predictor.video(video, **options), None
    with ExitStack() as stack:
        show, write = (
            stack.enter_context(bars()),
            stack.enter_context(_frames_writer(table, predictor, video, arguments, run)),
        )
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
            source = source_of(predictor, video, arguments, run)
            write_part = stack.enter_context(tracks_writer(path, source))

            def flush() -> None:
                write_part(tracks_of_frames(waiting, source))
                waiting.clear()
        else:
            write_rows = stack.enter_context(rows_writer(path, predictor, video, run))

            def flush() -> None:
                frames = (Frame(number=one.number, time=one.time, pixels=_NO_PIXELS) for one in waiting)
                write_rows([row_of(frame, one.result) for frame, one in zip(frames, waiting, strict=True)])
                waiting.clear()

        def append(frame: VideoFrame[Any]) -> None:
            # Rows need no picture.
            waiting.append(replace(frame, result=replace(frame.result, image=_NO_PIXELS)))
            if len(waiting) == PART:
                flush()

        yield append
        flush()
