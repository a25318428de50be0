"""Running a network over a set by its test protocol: pictures in, one prediction per item out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrformer.data.loader import Batch, LoaderDataset, Transform, batches_of, seeded
from hrformer.data.order import eval_order
from hrformer.data.preprocess import normalise_planes
from hrformer.data.set_types import ImageSet
from hrformer.data.transforms.classification import TestClassification
from hrformer.data.transforms.pose import TestPose
from hrformer.data.transforms.segmentation import TestSegmentation
from hrformer.evaluate.protocols import ClassificationProtocol, PoseProtocol, Protocol, SegmentationProtocol
from hrformer.geometry.flips import flip_image, merge_flipped
from hrformer.geometry.heatmaps import cells_to_image
from hrformer.geometry.skeletons import Skeleton
from hrformer.geometry.tiles import best_classes, fuse_scales, fuse_windows, pad_to_multiple
from hrformer.models.model import VisionModel, find_device

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

Progress = Callable[[int, int], object]
"""Called with the number of items done over all processes (estimated from this one) and the total."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """This process among those that share an evaluation; each takes every ``world_size``-th item.

    Attributes:
        rank: of this process, 0..world_size - 1.
        world_size: how many there are.
        gather: hands a Python object to all processes and returns everybody's, in order of rank; all must call it.
    """

    rank: int
    world_size: int
    gather: Callable[[Any], list[Any]]

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must lie in 0..{self.world_size - 1}, got {self.rank}")


ALONE = Processes(rank=0, world_size=1, gather=lambda value: [value])
"""One process that takes everything."""


class Network(ABC):
    """A model with a test protocol.

    Args:
        model: of this task. It is moved to ``device``, and nothing else about it changes.
        protocol: how it is tested.
        device: where to run; None: where the weights are.
        precision: of the forward pass. Outputs are float32 in any case.

    Raises:
        ValueError: the model is for another task, there is no such device, or the precision is unknown.
    """

    task: ClassVar[str]
    protocol: Protocol

    def __init__(
        self,
        model: VisionModel,
        protocol: Protocol,
        device: str | torch.device | None = None,
        precision: Precision = "fp32",
    ) -> None:
        if model.task != self.task:
            raise ValueError(f"a {self.task} protocol needs a model for {self.task}, this one is for {model.task}")
        if precision != "fp32" and precision not in _DTYPES:
            raise ValueError(f"precision must be 'fp32', 'bf16' or 'fp16', got {precision!r}")
        parameter = next(model.parameters())
        self.device = parameter.device if device is None else find_device(device)
        self.model, self.protocol = model.to(self.device), protocol
        self.dtype, self.precision = parameter.dtype, precision

    @abstractmethod
    def transform(self) -> Transform:
        """What happens to an item before it is batched."""

    @abstractmethod
    def predict(self, batch: Batch) -> Sequence[Any]:
        """Predictions for the items of a batch, in their order."""

    def run(self, x: Tensor) -> Tensor:
        """Network output in float32 for a normalised input."""
        with torch.autocast(self.device.type, _DTYPES.get(self.precision), enabled=self.precision != "fp32"):
            output: Tensor = self.model(x)
        return output.float()

    def network_input(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB anywhere -> normalised, on the device, in the weights' precision."""
        pixels = images.to(self.device, non_blocking=True)
        return normalise_planes(pixels, self.model.info.input_spec).to(self.dtype)


class Classifier(Network):
    """Pictures to logits."""

    task = "classification"
    protocol: ClassificationProtocol

    def transform(self) -> Transform:
        """Resize and centre crop."""
        return TestClassification(self.model.info.input_spec)

    def predict(self, batch: Batch) -> Sequence[Tensor]:
        """Logits (C,) of each picture, averaged with the mirror image's where asked for."""
        x = self.network_input(batch["image"])
        logits = self.run(x)
        if self.protocol.flip:
            logits = (logits + self.run(flip_image(x))) / 2
        return list(logits)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FoundPerson:
    """What the network says about one box.

    Attributes:
        joints: (K, 3) float32 (x, y, score) in picture pixels.
        area: of the padded box in square pixels.
    """

    joints: NDArray[np.float32]
    area: float


class PoseNetwork(Network):
    """Boxes to joints; ``skeleton`` is that of the data, whose pairs change places in the mirror image."""

    task = "pose"
    protocol: PoseProtocol

    def __init__(
        self,
        model: VisionModel,
        protocol: PoseProtocol,
        device: str | torch.device | None = None,
        precision: Precision = "fp32",
        *,
        skeleton: Skeleton,
    ) -> None:
        super().__init__(model, protocol, device, precision)
        self.skeleton = skeleton

    def transform(self) -> Transform:
        """Cut the person out."""
        return TestPose(self.model.info.input_spec, udp=self.model.info.decoder == "udp")

    def predict(self, batch: Batch) -> Sequence[FoundPerson]:
        """The joints of each person."""
        maps = self.heatmaps(batch["image"])
        codec = self.model.info.codec((int(maps.shape[2]), int(maps.shape[3])))
        cells, scores = (values.cpu().numpy() for values in codec.decode(maps))
        centers, sizes = (batch[key].numpy() for key in ("center", "size"))
        points = cells_to_image(cells, centers, sizes, codec.steps)
        joints = np.concatenate([points, scores[..., None]], axis=2)
        return [FoundPerson(joints=row, area=float(area)) for row, area in zip(joints, sizes.prod(axis=1), strict=True)]

    def heatmaps(self, crops: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB crops -> (B, K, h, w), averaged with the mirror image's where asked for."""
        x = self.network_input(crops)
        plain = self.run(x)
        if not self.protocol.flip:
            return plain
        shift = self.protocol.shift and self.model.info.shift_heatmap
        return merge_flipped(plain, self.run(flip_image(x)), self.skeleton.flip_pairs, shift)


class Segmenter(Network):
    """Pictures to a class per pixel."""

    task = "segmentation"
    protocol: SegmentationProtocol

    def transform(self) -> Transform:
        """Resize as the protocol says; the mask keeps its size."""
        protocol, spec = self.protocol, self.model.info.input_spec
        short_side = min(spec.size) if protocol.short_side == 0 else protocol.short_side
        return TestSegmentation(spec, short_side=short_side, size=protocol.size)

    def predict(self, batch: Batch) -> Sequence[Tensor]:
        """(H, W) int32 class ids of each picture at its original size, on the device."""
        images = batch["image"]
        groups = [images] if isinstance(images, Tensor) else [image[None] for image in images]
        logits = [row for group in groups for row in self.logits(group)]
        sizes = [(int(width), int(height)) for height, width in batch["original"]]
        return [best_classes(row, size) for row, size in zip(logits, sizes, strict=True)]

    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, h, w) uint8 RGB at network size -> (B, C, h, w) logits."""
        protocol = self.protocol
        x = pad_to_multiple(self.network_input(images), protocol.pad_multiple)

        def fused(x: Tensor) -> Tensor:
            return fuse_scales(self.run, x, protocol.scales, protocol.flip)

        maps = fused(x) if protocol.window is None else fuse_windows(fused, x, protocol.window, protocol.steps)
        return maps[:, :, : images.shape[2], : images.shape[3]]


def predictions_of(
    network: Network,
    source: ImageSet,
    *,
    num_items: int,
    workers: int = 0,
    processes: Processes = ALONE,
    progress: Progress | None = None,
) -> Iterator[tuple[Batch, Sequence[Any]]]:
    """Batches of this process with their predictions; "index" in a batch holds the numbers of its items.

    The model is in eval mode meanwhile and in its previous mode after; the global random generators are left as
    they were, so that validating does not change a training run.

    Args:
        num_items: only the first so many.
        workers: of the loader.
        processes: share the items.

    Raises:
        hrformer.data.set_types.DataError: an item cannot be read; the message names it.
    """
    batch_size, world_size, done = network.protocol.batch_size, processes.world_size, 0
    order = eval_order(num_items, batch_size, world_size, processes.rank)
    dataset = LoaderDataset(source, network.transform(), seed=0)
    batches = batches_of(dataset, order, workers=workers, pin_memory=network.device.type == "cuda")
    if progress is not None:
        progress(0, num_items)
    with in_eval_mode(network.model), seeded(0):
        for batch in batches:
            with torch.inference_mode():
                predictions = network.predict(batch)
            yield batch, predictions
            done += len(predictions)
            if progress is not None:
                progress(min(done * world_size, num_items), num_items)


@contextmanager
def in_eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode inside, each module's own mode after: frozen parts may stand in eval mode while others train."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def items_to_take(source: ImageSet, limit: int | None) -> int:
    """How many items to evaluate; ValueError if there would be none."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    if not len(source):
        raise ValueError(f"{source.name} has no items to evaluate")
    return len(source) if limit is None else min(limit, len(source))


def require_same_names(kind: str, of_model: tuple[str, ...], count: int, of_data: tuple[str, ...], data: str) -> None:
    """Outputs must mean the same to the model and to the data.

    Raises:
        ValueError: their number differs, or the same names stand in another order.
    """
    if count != len(of_data):
        raise ValueError(f"the model has {count} {kind}, {data} has {len(of_data)}; they must be the same")
    # Names may be spelt otherwise (WordNet ids for words), but the same ones shuffled are a mistake.
    if of_model and of_model != of_data and sorted(of_model) == sorted(of_data):
        place = next(i for i, (a, b) in enumerate(zip(of_model, of_data, strict=True)) if a != b)
        raise ValueError(
            f"the {kind} of the model and of {data} are the same but in another order: number {place} is "
            f"{of_model[place]!r} in the model and {of_data[place]!r} in the data"
        )
