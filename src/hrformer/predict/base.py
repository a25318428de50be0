"""What the predictors of all tasks share: options, device, pictures in, results out."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrformer.checkpoints.matching import LoadReport
from hrformer.data.images import LoadedImage, Picture, Pictures, is_single
from hrformer.data.preprocess import normalise
from hrformer.models.model import ModelInfo, VisionModel, find_device
from hrformer.predict.results import Result

ResultT = TypeVar("ResultT", bound=Result)
OptionsT = TypeVar("OptionsT", bound="PredictOptions")


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictOptions:
    """Options of every task.

    Attributes:
        batch_size: how many network inputs run at once: pictures, or people for pose. Results do not depend on it
            beyond rounding.
        flip: also run the mirror image and merge both.
    """

    batch_size: int = 32
    flip: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")


class Predictor(ABC, Generic[ResultT, OptionsT]):
    """A model that takes pictures and returns typed results.

    Args:
        model: with a head for this predictor's task.
        options: defaults of every call; each call may override them by name.
        device: where to run; None takes the GPU if there is one.
        dtype: of weights and arithmetic. Results are float32 or better in any case.

    Attributes:
        report: what was read from the weight file, and what had to be assumed; None for models made otherwise.

    Raises:
        ValueError: the model is for another task, or the device is not there.
    """

    task: ClassVar[str]

    def __init__(
        self,
        model: VisionModel,
        options: OptionsT,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if model.task != self.task:
            raise ValueError(f"{type(self).__name__} needs a model for {self.task}, this one is for {model.task}")
        self.device = find_device(device)
        self.dtype = dtype
        self.model = model.to(self.device, dtype).eval()
        self.options = options
        self.report: LoadReport | None = None

    @property
    def info(self) -> ModelInfo:
        """What the weights stand for."""
        return self.model.info

    @overload
    def __call__(self, images: Picture, **options: Any) -> ResultT: ...
    @overload
    def __call__(self, images: Iterable[Picture], **options: Any) -> list[ResultT]: ...
    def __call__(self, images: Pictures, **options: Any) -> ResultT | list[ResultT]:
        """Predict.

        Args:
            images: one picture or several, see ``hrformer.data.images.load_images``.
            **options: see ``stream``.

        Returns:
            One result for one picture, else a list in the order of the pictures.

        Raises:
            ImageError: a picture cannot be read.
            ValueError: an option is unknown or out of range.
        """
        results = list(self.stream(images, **options))
        return results[0] if is_single(images) else results

    @abstractmethod
    def stream(self, images: Pictures, **options: Any) -> Iterator[ResultT]:
        """Like calling the predictor, but results come one by one, so that a long run needs little memory."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.info.name!r}, device={str(self.device)!r}, {self.options})"

    def _merged(self, given: dict[str, Any]) -> OptionsT:
        """This predictor's options with those of one call on top."""
        assert is_dataclass(self.options)
        known = [field.name for field in fields(self.options)]
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f"unknown option(s) {', '.join(unknown)} for {self.task}; known: {', '.join(known)}")
        return replace(self.options, **given)

    def _pixels(self, image: LoadedImage) -> NDArray[np.uint8]:
        """(H, W, 3), or (H, W, 4) for a network of four channels."""
        return image.for_channels(len(self.info.input_spec.mean))

    def _network_input(self, pixels: Tensor) -> Tensor:
        """(B, H, W, 3 or 4) uint8 RGB on any device -> normalised (B, C, H, W) on the model's."""
        return normalise(pixels.to(self.device), self.info.input_spec).to(self.dtype)


def free_memory(device: torch.device) -> float:
    """Bytes that are free on a device; on a processor what Linux calls available, else a quarter of all memory."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 4 if hasattr(os, "sysconf") else 2e9
