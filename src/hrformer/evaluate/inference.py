"""Running a network over a set by its test protocol: pictures in, one prediction per item out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from hrformer.data.loader import Batch, LoaderDataset, Transform, batches_of, seeded
from hrformer.data.order import Key, eval_order
from hrformer.data.preprocess import normalise_planes
from hrformer.data.set_types import ClassificationSet, ImageSet, PoseSet, SegmentationSet, names_of
from hrformer.data.transforms.classification import prepare_picture
from hrformer.data.transforms.pose import prepare_person
from hrformer.data.transforms.segmentation import prepare_scene
from hrformer.evaluate.protocols import (
    ClassificationProtocol,
    FoundPerson,
    PoseProtocol,
    Protocol,
    SegmentationProtocol,
)
from hrformer.geometry.flips import merge_flipped
from hrformer.geometry.heatmaps import cells_to_image
from hrformer.geometry.tiles import best_classes, fuse_scales, fuse_windows, pad_to_multiple
from hrformer.models.model import VisionModel, find_device

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Called with the number of items done over all processes (estimated from this one) and the total.
Progress = Callable[[int, int], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """This process among those that share an evaluation; each takes every ``world_size``-th item."""

    rank: int  # of this process, 0..world_size - 1
    world_size: int  # how many there are
    # Hands a Python object to all processes and returns everybody's, in order of rank; all must call it.
    gather: Callable[[Any], list[Any]]

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must lie in 0..{self.world_size - 1}, got {self.rank}")


ALONE = Processes(rank=0, world_size=1, gather=lambda value: [value])


class Network(ABC):
    """A model of this task with a test protocol.

    It is moved to ``device``, None for where the weights are, and nothing else about it changes. ``precision`` is that
    of the forward pass; outputs are float32 in any case. ``flip_pairs`` of joints change places in the mirror image.
    """

    task: ClassVar[str]
    protocol: Any

    def __init__(
        self,
        model: VisionModel,
        protocol: Protocol,
        device: str | torch.device | None = None,
        precision: Precision = "fp32",
        flip_pairs: Sequence[tuple[int, int]] = (),
    ) -> None:
        if model.task != self.task:
            raise ValueError(f"a {self.task} protocol needs a model for {self.task}, this one is for {model.task}")
        if precision != "fp32" and precision not in _DTYPES:
            raise ValueError(f"precision must be 'fp32', 'bf16' or 'fp16', got {precision!r}")
        parameter = next(model.parameters())
        self.device = parameter.device if device is None else find_device(device)
        self.model, self.protocol, self.flip_pairs = model.to(self.device), protocol, flip_pairs
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
    """Pictures to logits (C,), averaged with the mirror image's where asked for, over the model's temperature."""

    task = "classification"
    protocol: ClassificationProtocol

    def transform(self) -> Transform:
        """Resize and centre crop."""
        return partial(prepare_picture, spec=self.model.info.input_spec)

    def predict(self, batch: Batch) -> Sequence[Tensor]:
        x = self.network_input(batch["image"])
        logits = self.run(x)
        if self.protocol.flip:
            logits = (logits + self.run(x.flip(-1))) / 2
        return list(logits / self.model.info.temperature)


class PoseNetwork(Network):
    """Boxes to joints."""

    task = "pose"
    protocol: PoseProtocol

    def transform(self) -> Transform:
        """Cut the person out."""
        return partial(prepare_person, spec=self.model.info.input_spec, udp=self.model.info.decoder == "udp")

    def predict(self, batch: Batch) -> Sequence[FoundPerson]:
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
        return merge_flipped(plain, self.run(x.flip(-1)), self.flip_pairs, shift)


class Segmenter(Network):
    """Pictures to (H, W) int32 class ids at the original size, on the device."""

    task = "segmentation"
    protocol: SegmentationProtocol

    def transform(self) -> Transform:
        protocol, spec = self.protocol, self.model.info.input_spec
        short_side = min(spec.size) if protocol.short_side == 0 else protocol.short_side
        return partial(prepare_scene, spec=spec, short_side=short_side, size=protocol.size)

    def predict(self, batch: Batch) -> Sequence[Tensor]:
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


_TASKS: tuple[tuple[type, type[ImageSet], type[Network]], ...] = (
    (ClassificationProtocol, ClassificationSet, Classifier),
    (PoseProtocol, PoseSet, PoseNetwork),
    (SegmentationProtocol, SegmentationSet, Segmenter),
)


def network_for(
    model: VisionModel,
    source: ImageSet,
    protocol: Protocol,
    device: str | torch.device | None = None,
    precision: Precision = "fp32",
) -> Network:
    """The model with its test protocol; ValueError if model, set and protocol do not fit together."""
    fitting = [kind for tested, of, kind in _TASKS if isinstance(protocol, tested) and isinstance(source, of)]
    if not fitting:
        raise ValueError(f"{source.name} is a set for {source.task}; {type(protocol).__name__} is not its protocol")
    pose = source.skeleton if isinstance(source, PoseSet) else None
    network = fitting[0](model, protocol, device, precision, pose.flip_pairs if pose else ())
    info = model.info
    known = info.class_names if pose is None else info.skeleton.keypoints if info.skeleton else ()
    _require_same_names("joints" if pose else "classes", known, info.num_classes, source)
    return network


def _require_same_names(kind: str, known: tuple[str, ...], count: int, source: ImageSet) -> None:
    """Outputs must mean the same to the model and to the data."""
    names, data = names_of(source), source.name
    if count != len(names):
        raise ValueError(f"the model has {count} {kind}, {data} has {len(names)}; they must be the same")
    # Names may be spelt otherwise (WordNet ids for words), but the same ones shuffled are a mistake.
    if known and known != names and sorted(known) == sorted(names):
        place = next(i for i, (a, b) in enumerate(zip(known, names, strict=True)) if a != b)
        raise ValueError(
            f"the {kind} of the model and of {data} are the same but in another order: number {place} is "
            f"{known[place]!r} in the model and {names[place]!r} in the data"
        )


def predictions_of(
    network: Network,
    source: ImageSet,
    num_items: int,
    workers: int = 0,
    processes: Processes = ALONE,
    progress: Progress | None = None,
) -> Iterator[tuple[Batch, Sequence[Any]]]:
    """Batches of this process, of the first so many items, with their predictions; "index" holds the items' numbers.

    The model is in eval mode meanwhile and in its previous mode after; the global random generators are left as
    they were, so that validating does not change a training run.
    """
    batch_size, world_size, done = network.protocol.batch_size, processes.world_size, 0
    order = eval_order(num_items, batch_size, world_size, processes.rank)
    if progress is not None:
        progress(0, num_items)
    for batch, predictions in predictions_in(network, source, order, workers):
        yield batch, predictions
        done += len(predictions)
        if progress is not None:
            progress(min(done * world_size, num_items), num_items)


def predictions_in(
    network: Network, source: ImageSet, order: Sequence[list[Key]] | Iterator[list[Key]], workers: int = 0
) -> Iterator[tuple[Batch, Sequence[Any]]]:
    """As :func:`predictions_of`, for batches of any items."""
    dataset = LoaderDataset(source, network.transform(), seed=0)
    batches = batches_of(dataset, order, workers=workers, pin_memory=network.device.type == "cuda")
    with in_eval_mode(network.model), seeded(0):
        for batch in batches:
            with torch.inference_mode():
                predictions = network.predict(batch)
            yield batch, predictions


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
