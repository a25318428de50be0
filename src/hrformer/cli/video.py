"""``hrformer predict`` on videos and cameras: a table of results, and the video with the results drawn on it."""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count as count_from
from itertools import islice
from pathlib import Path
from typing import Any

from hrformer.cli.arguments import PoseArguments, PredictArguments
from hrformer.cli.camera import record
from hrformer.cli.inputs import OutputNames
from hrformer.cli.messages import note, say
from hrformer.files import replacing, sha256_of
from hrformer.predict.pose import PosePredictor
from hrformer.predict.predictors import AnyPredictor
from hrformer.predict.results import Result
from hrformer.predict.tracks import Source, Tracks, arrow, stream_tracks, tracks_writer
from hrformer.predict.video import Follower, FramePeople, joints_of, results_of
from hrformer.predict.video_rows import (
    draw_row,
    draw_tracks,
    notes_of,
    row_of,
    rows_of,
    rows_writer,
    run_of,
    schema_of,
    source_of,
    tracks_of,
    without_tremble,
)
from hrformer.train.progress import bars
from hrformer.video.boxes import BoxLinks
from hrformer.video.reading import NO_PIXELS, Frame, VideoError, VideoFile, open_video
from hrformer.video.writing import about_video, suffix_for, video_writer
from hrformer.wording import counted

PART = 240
"""Frames whose results are written at once; what a run that is killed has to do again."""

_OWN = re.compile(r"part-\d{6}\.parquet|\.part-.*\.tmp")  # Files of a folder of parts

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
        # Not called as the source is, which may lie in the same folder.
        return self.arguments.out / f"{self.name}.drawn{suffix_for(self.video)}"

    @property
    def folder(self) -> Path:
        """Where finished parts wait."""
        return self.arguments.out / f"{self.name}.parts"

    def finish(self, show: Show) -> str:
        """Do what is left to do and say so; returns what was wrong with the video, "" for nothing.

        Raises:
            ValueError: something that is not ours has one of the names, or with --resume, what is there comes from
                another run.
        """
        self._look_round()
        if self.arguments.resume and self.table.exists() and not self.folder.exists():
            before = run_of(self.table) or {}
            problem = str(before.pop("problem", ""))
            self._check(self.table, before, self.wanted)
            say(f"{self.video.name} had been done before; results: {self.table}")
        else:
            if self.folder.exists() and not self.arguments.resume:
                note(f"{self.folder} holds parts of an earlier run, which are replaced; --resume goes on from them")
                shutil.rmtree(self.folder)
            frames, problem = self._predict(self._parts_done(), show)
            people = self._write_table(problem)
            shutil.rmtree(self.folder)
            found = f", {counted(people, 'person', 'people')}" if self.predictor.task == "pose" else ""
            say(f"{self.video.name}: {counted(frames, 'frame')}{found}; results: {self.table}")
        if self.arguments.draw:
            about = json.dumps(self.wanted | {"codec": self.arguments.codec}, sort_keys=True)
            if not (self.arguments.resume and self.drawing.exists() and about_video(self.drawing) == about):
                self._draw(about, show)
            say(f"drawn: {self.drawing}")
        return problem

    def _look_round(self) -> None:
        """Refuse to replace what is not ours; remove what a killed run left half written."""
        kept = "which holds no results of a video from here: choose another --out, or move it away"
        if self.table.exists() and run_of(self.table) is None:
            raise ValueError(f"the results would replace {self.table}, {kept}")
        if self.arguments.draw and self.drawing.exists() and not (about_video(self.drawing) or "").startswith("{"):
            raise ValueError(f"the drawn video would replace {self.drawing}, {kept}")
        if self.folder.is_symlink() or self.folder.exists():
            if self.folder.is_symlink() or not self.folder.is_dir():
                raise ValueError(f"parts of the results would lie in {self.folder}, which is no folder: move it away")
            if strange := [file for file in self.folder.iterdir() if not _OWN.fullmatch(file.name)]:
                raise ValueError(
                    f"parts of the results would lie in {self.folder}, which holds {strange[0].name}: {kept}"
                )
        if self.table.exists() and not self.arguments.resume:
            note(f"{self.table} holds results of an earlier run, which are replaced; --out takes another folder")
        for left in self.arguments.out.glob(f".{glob.escape(self.name)}.*.tmp"):
            left.unlink()

    def _check(self, where: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
        if before != now:
            different = sorted(key for key in {**now, **before} if now.get(key) != before.get(key))
            raise ValueError(
                f"{where} comes from a run with another {' and '.join(different)}: "
                "choose another --out, or leave out --resume to start again"
            )

    @property
    def wanted(self) -> dict[str, Any]:
        """What the table depends on: of the parts, and of what is made of them."""
        if not isinstance(self.arguments, PoseArguments):
            return self.run
        smoothing = {"smooth": self.arguments.smooth, "cutoff": self.arguments.cutoff}
        return self.run | smoothing | {"rate": self.video.rate}

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.parquet"

    def _parts_done(self) -> int:
        """How many parts of this run are there."""
        count = 0
        while self._part(count).exists():
            self._check(self.folder, notes_of(self._part(count))["run"], self.run)
            count += 1
        return count

    def _predict(self, done: int, show: Show) -> tuple[int, str]:
        """Write the parts that are not there yet; returns the number of frames of all, and what the video lacks."""
        last, state = None, None
        if done:
            state = notes_of(self._part(done - 1))
            last = Frame(number=state["frame"], time=state["time"], pixels=NO_PIXELS)
            if state["ended"]:
                return last.number + 1, state["problem"]
            note(f"going on after frame {last.number}, at {last.time:.2f} s")
        results, links = self._results(self.video.frames(last), state["links"] if state else None)
        count = 0 if last is None else last.number + 1
        for part in count_from(done):
            rows = []
            for frame, result in results(self.part_frames):
                rows.append(row_of(frame.number, frame.time, result))
                show("frames", count + len(rows), max(self.video.expected, count + len(rows)))
                last = frame
            count, ended = count + len(rows), len(rows) < self.part_frames
            assert last is not None
            where: dict[str, Any] = {"frame": last.number, "time": last.time}
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
        schema = schema_of(self.predictor.task, state)
        with replacing(self._part(part)) as file:
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), file, compression="zstd")

    def _parts(self) -> Iterator[list[dict[str, Any]]]:
        pq, part = arrow()[1], 0
        while self._part(part).exists():
            yield pq.read_table(self._part(part)).to_pylist()
            part += 1

    def _write_table(self, problem: str) -> int:
        """Returns how many people there are; 0 for other tasks."""
        about = self.wanted | {"problem": problem}
        if isinstance(self.predictor, PosePredictor):
            assert isinstance(self.arguments, PoseArguments)
            source = source_of(self.predictor, self.video, about)
            return write_tracks(self.table, self._parts(), source, self.arguments)
        with rows_writer(self.table, self.predictor, self.video, about) as write:
            for rows in self._parts():
                write(rows)
        return 0

    def _draw(self, about: str, show: Show) -> None:
        task, info = self.predictor.task, self.predictor.info
        pictures = self.video.frames()
        codec, rate = self.arguments.codec, self.video.rate
        with video_writer(
            self.drawing, self.video, codec, rate, about=about, told=partial(_told, self.video.name)
        ) as write:
            for part in stream_tracks(self.table) if task == "pose" else rows_of(self.table):
                rows = part.numbers.tolist() if isinstance(part, Tracks) else part
                for row, frame in zip(rows, pictures, strict=False):
                    if isinstance(part, Tracks):
                        drawn = draw_tracks(frame.pixels, part, frame.number)
                    else:
                        drawn = draw_row(frame.pixels, row, info)
                    write(frame.time, frame.mark, drawn)
                    show("frames drawn", frame.number + 1, max(self.video.expected, frame.number + 1))


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


def _files(inputs: Sequence[str]) -> Iterator[str]:
    """What was named, with the files that patterns stand for."""
    for source in inputs:
        found = (
            sorted(glob.glob(source, recursive=True)) if glob.has_magic(source) and not Path(source).exists() else []
        )
        yield from found or [source]


def run_videos(
    arguments: PredictArguments, predictor: AnyPredictor, options: dict[str, Any], run: dict[str, Any]
) -> int:
    """Predict on all videos and cameras that were named.

    Returns:
        0; 1 if some could not be read, or not to their end, or of several some failed.

    Raises:
        ValueError, OSError: the only one failed.
    """
    arrow()
    arguments.out.mkdir(parents=True, exist_ok=True)
    sources, names, problems = [*_files(arguments.inputs)], OutputNames(), list[str]()
    if isinstance(arguments, PoseArguments) and arguments.detections is not None and len(sources) > 1:
        raise ValueError("--detections has the frames of one video; name one")
    for source in sources:
        name = names.choose(os.fsencode(source).decode(errors="backslashreplace"))  # Parquet's library takes UTF-8 only
        try:
            with open_video(source) as video:
                if isinstance(video, VideoFile):
                    job = _job(video, predictor, arguments, options, run, name)
                    with bars() as show:
                        problem = job.finish(show)
                    problems += [problem] * bool(problem)
                else:
                    record(video, predictor, arguments, options, run)
        except (VideoError, FileNotFoundError) as error:
            problems.append(str(error))
        except (ValueError, OSError) as error:
            if len(sources) == 1:
                raise
            problems.append(f"{source}: {error}")
    for problem in problems:
        note(problem)
    return 1 if problems else 0


def _job(
    video: VideoFile,
    predictor: AnyPredictor,
    arguments: PredictArguments,
    options: dict[str, Any],
    run: dict[str, Any],
    name: str,
) -> VideoJob:
    own = run | {"video": video.name, "sha256": sha256_of(video.path)}
    if isinstance(arguments, PoseArguments):
        own["every"] = arguments.every
        table = options.get("detections")
        count = video.expected
        if table is not None and count and not any(table.has(str(number)) for number in range(count)):
            raise ValueError(
                f"{arguments.detections} has no detections for any frame of {video.name}; image_id is the frame's "
                f"number, 0 to {count - 1}"
            )
    return VideoJob(video=video, predictor=predictor, arguments=arguments, options=options, run=own, name=name)


def _told(name: str, text: str) -> None:
    note(f"{name}: {text}")
