"""What the predictors of all tasks share: options, device, pictures in full batches, results out."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrformer.checkpoints.matching import LoadReport
from hrformer.data.images import LoadedImage, Picture, Pictures, is_single, load_images
from hrformer.data.preprocess import normalise
from hrformer.fast.choice import Precision, check_precision, weights_precision
from hrformer.models.model import ModelInfo, VisionModel, find_device
from hrformer.predict.results import Result
from hrformer.predict.video import VideoFrame, VideoSource, opened, results_of

ResultT = TypeVar("ResultT", bound=Result)
OptionsT = TypeVar("OptionsT", bound="PredictOptions")
Job = TypeVar("Job")
Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictOptions:
    """Options of every task."""

    # how many network inputs run at once: pictures, or people for pose. Results do not depend on it beyond rounding
    batch_size: int = 32
    flip: bool = False  # also run the mirror image and merge both

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")


class Predictor(ABC, Generic[ResultT, OptionsT]):
    """A model that takes pictures and returns typed results.

    Args:
        model: with a head for this predictor's task.
        options: defaults of every call, which may override them by name; None takes the published test protocol.
        device: where to run; None takes the GPU if there is one.
        dtype: of weights and arithmetic. Results are float32 or better in any case.
        precision: of products: "bf16" runs the network under PyTorch's autocast, "fp32" and "auto" as it is. A model of
            ``hrformer.optimize`` has a precision of its own, and takes none here.

    Attributes:
        report: what was read from the weight file, and what had to be assumed; None for models made otherwise.
        weights: that file; None for models made otherwise.

    Raises:
        ValueError: the model is for another task, the device is not there, or the precision is unknown or one beside a
            ``dtype``.
    """

    task: ClassVar[str]

    def __init__(
        self,
        model: VisionModel,
        options: OptionsT | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        precision: Precision = "fp32",
    ) -> None:
        check_precision(precision, dtype)
        if model.task != self.task:
            raise ValueError(f"{type(self).__name__} needs a model for {self.task}, this one is for {model.task}")
        self.device = find_device(device)
        self.dtype = dtype
        self._autocast = precision == "bf16"
        self.model = model.to(self.device, dtype).eval()
        self.options = options or self.default_options(model.info)
        self.report: LoadReport | None = None
        self.weights: Path | None = None

    @property
    def info(self) -> ModelInfo:
        """What the weights stand for."""
        return self.model.info

    @property
    def precision(self) -> str:
        """What the network's products are computed in, such as "fp32" or "bf16"."""
        if self._autocast:
            return "bf16"
        for part in (self.model, self.model.backbone):
            if isinstance(found := getattr(part, "precision", None), str):  # of ``optimize``, or an exported file
                return found
        return weights_precision(self.model)

    @property
    def precision_note(self) -> str:
        """A line about what products are computed in, and why not in the precision that was asked for."""
        reason = getattr(self.model, "reason", "")
        return f"precision: {self.precision}" + (f" ({reason})" if reason else "")

    @overload
    def __call__(self, images: Picture, **options: Any) -> ResultT: ...
    @overload
    def __call__(self, images: Iterable[Picture], **options: Any) -> list[ResultT]: ...
    def __call__(self, images: Pictures, **options: Any) -> ResultT | list[ResultT]:
        """One result for one picture, else a list in the order of the pictures.

        Args:
            images: one picture or several, see ``hrformer.data.images.load_images``.
            **options: see ``stream``.

        Raises:
            ImageError: a picture cannot be read.
            ValueError: an option is unknown or out of range.
        """
        results = list(self.stream(images, **options))
        return results[0] if is_single(images) else results

    def stream(self, images: Pictures, **options: Any) -> Iterator[ResultT]:
        """Like calling the predictor, but results come one by one, so that a long run needs little memory.

        ``options`` are fields of the options that this predictor was made with.
        """
        merged = self.merged_options(options)
        yield from self._results((self.prepare(image, merged) for image in load_images(images)), merged)

    def video(self, source: VideoSource, **options: Any) -> Iterator[VideoFrame[ResultT]]:
        """Results of a video, frame by frame, in little memory on any length.

        Args:
            source: a video file, or the number of a camera, which ends when it is closed.
            **options: see ``stream``.

        Raises:
            VideoError: it cannot be opened, or holds no video.
            FileNotFoundError: there is no such file.
            ImportError: the packages of ``hrformer[video]`` are not installed.
            ValueError: an option is unknown or out of range.
        """
        with opened(source) as video:
            if video.live:  # no frame waits for others
                options["batch_size"] = 1
            for frame, result in results_of(lambda pictures: self.stream(pictures, **options), video.frames()):
                nobody = np.empty(0, np.int64)
                yield VideoFrame(number=frame.number, time=frame.time, result=result, tracks=nobody)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.info.name!r}, device={str(self.device)!r}, {self.options})"

    @staticmethod
    @abstractmethod
    def default_options(info: ModelInfo) -> OptionsT:
        """The published test protocol for such weights."""

    @abstractmethod
    def prepare(self, image: LoadedImage, options: OptionsT) -> tuple[Any, Sequence[Tensor]]:
        """The first third of the work on one picture, for callers that make batches of their own.

        Returns:
            What ``finish`` takes, and the network inputs, (H, W, 3 or 4) uint8 each; none where ``finish`` itself runs
            the network.
        """

    @abstractmethod
    def run(self, pixels: Tensor, options: OptionsT) -> Sequence[Any]:
        """(B, H, W, 3 or 4) uint8 -> B answers, each the same beyond rounding whatever stands beside it."""

    @abstractmethod
    def finish(self, job: Any, answers: Sequence[Any], options: OptionsT) -> ResultT:
        """The result of one picture from what ``prepare`` returned and an answer for each of its inputs."""

    def _results(self, jobs: Iterable[tuple[Any, Sequence[Tensor]]], options: OptionsT) -> Iterator[ResultT]:
        for job, answers in run_in_batches(jobs, lambda x: self.run(x, options), options.batch_size):
            yield self.finish(job, answers, options)

    def merged_options(self, given: dict[str, Any]) -> OptionsT:
        """This predictor's options with those of one call on top."""
        assert is_dataclass(self.options)
        known = [field.name for field in fields(self.options)]
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f"unknown option(s) {', '.join(unknown)} for {self.task}; known: {', '.join(known)}")
        return replace(self.options, **given)

    def _pixels(self, image: LoadedImage) -> NDArray[np.uint8]:
        """(H, W, 3), or (H, W, 4) for a network of four channels."""
        return image.for_channels(len(self.info.input_spec.mean))

    def _output(self, x: Tensor) -> Tensor:
        """The network's output as float32, for a normalised input."""
        with torch.autocast(self.device.type, torch.bfloat16) if self._autocast else nullcontext():
            output: Tensor = self.model(x)
        return output.float()

    def _network_input(self, pixels: Tensor) -> Tensor:
        """(B, H, W, 3 or 4) uint8 RGB on any device -> normalised (B, C, H, W) on the model's."""
        return normalise(pixels.to(self.device), self.info.input_spec).to(self.dtype)


@dataclass(kw_only=True, slots=True, eq=False)
class _Open(Generic[Job, Answer]):
    job: Job
    parts: int
    answers: list[Answer] = field(default_factory=list)


def run_in_batches(
    jobs: Iterable[tuple[Job, Sequence[Tensor]]], run: Callable[[Tensor], Sequence[Answer]], batch_size: int
) -> Iterator[tuple[Job, list[Answer]]]:
    """Collect the parts of all jobs into batches; hand each job back, in order, with the answers for its parts.

    Parts of different shapes never share a batch. Jobs are taken only as fast as results are asked for, so memory
    holds a few batches whatever the number of jobs.

    Args:
        jobs: a job and its parts, tensors of the network's input for one item each; a job may have none.
        run: maps stacked parts (B, ...) to B answers.
        batch_size: most parts per call of ``run``.
    """
    queue: deque[_Open[Job, Answer]] = deque()
    waiting: list[tuple[_Open[Job, Answer], Tensor]] = []

    def flush() -> None:
        if waiting:
            answers = run(torch.stack([part for _, part in waiting]))
            for (entry, _), answer in zip(waiting, answers, strict=True):
                entry.answers.append(answer)
            waiting.clear()

    for job, parts in jobs:
        entry: _Open[Job, Answer] = _Open(job=job, parts=len(parts))
        queue.append(entry)
        for part in parts:
            if waiting and part.shape != waiting[0][1].shape:
                flush()
            waiting.append((entry, part))
            if len(waiting) >= batch_size:
                flush()
        # Many pictures without a single person behind one that waits would pile up in memory.
        if len(queue) > 2 * batch_size:
            flush()
        while queue and len(queue[0].answers) == queue[0].parts:
            done = queue.popleft()
            yield done.job, done.answers
    flush()
    yield from ((done.job, done.answers) for done in queue)


def free_memory(device: torch.device, system: Path = Path("/")) -> float:
    """Bytes that are free on a device; on a processor what Linux calls available, else a quarter of all memory.

    In a container, no more than its limit (cgroup v2) leaves; file contents that can be dropped count as free there.
    ``system`` is the folder with proc/ and sys/.
    """
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        free = 1024.0 * _number(system / "proc/meminfo", "MemAvailable:")
    except OSError:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 4 if hasattr(os, "sysconf") else 2e9
    group = system / "sys/fs/cgroup"
    try:
        limit, used = (float((group / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
        return max(min(free, limit - used + _number(group / "memory.stat", "inactive_file")), 0.0)
    except (OSError, ValueError):  # no container, or "max", which stands for no limit
        return free


def _number(file: Path, name: str) -> int:
    """The number behind a name that begins a line; OSError if there is none."""
    for line in file.read_text(encoding="ascii").splitlines():
        if line.split()[:1] == [name]:
            return int(line.split()[1])
    raise OSError(f"{file} has no {name}")
