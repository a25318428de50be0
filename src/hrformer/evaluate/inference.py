"""Running a network over a set: what all tasks share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from hrformer.data.loader import Batch, LoaderDataset, Transform, batches_of, seeded
from hrformer.data.order import EvalOrder
from hrformer.data.preprocess import normalise_planes
from hrformer.data.sets import ImageSet
from hrformer.evaluate.processes import Processes
from hrformer.models.model import VisionModel

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Network(ABC):
    """A model with a test protocol: batches in, one prediction per item out.

    Args:
        model: of this task. It is moved to ``device``, and nothing else about it changes.
        device: where to run; None: where the weights are.
        precision: of the forward pass. Outputs are float32 in any case.

    Raises:
        ValueError: the model is for another task, or the precision is unknown.
    """

    task: ClassVar[str]

    def __init__(self, model: VisionModel, device: str | torch.device | None, precision: Precision) -> None:
        if model.task != self.task:
            raise ValueError(f"a {self.task} protocol needs a model for {self.task}, this one is for {model.task}")
        if precision != "fp32" and precision not in _DTYPES:
            raise ValueError(f"precision must be 'fp32', 'bf16' or 'fp16', got {precision!r}")
        parameter = next(model.parameters())
        self.device = parameter.device if device is None else torch.device(device)
        self.model = model.to(self.device)
        self.dtype = parameter.dtype
        self.precision = precision

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


def predictions_of(
    network: Network,
    source: ImageSet,
    *,
    num_items: int,
    batch_size: int,
    workers: int,
    processes: Processes,
) -> Iterator[tuple[Batch, Sequence[Any]]]:
    """Batches of this process with their predictions.

    The model is in eval mode meanwhile and in its previous mode after; the global random generators are left as
    they were, so that validating does not change a training run.

    Args:
        network: what predicts.
        source: the set.
        num_items: only the first so many.
        batch_size: items per batch.
        workers: of the loader.
        processes: share the items.

    Raises:
        hrformer.data.sets.DataError: an item cannot be read; the message names it.
    """
    order = EvalOrder(num_items=num_items, batch_size=batch_size, world_size=processes.world_size, rank=processes.rank)
    dataset = LoaderDataset(source, network.transform(), seed=0)
    batches = batches_of(dataset, order.batches(), workers=workers, pin_memory=network.device.type == "cuda")
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


def items_to_take(source: ImageSet, limit: int | None) -> int:
    """How many items to evaluate.

    Raises:
        ValueError: there would be none.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    if not len(source):
        raise ValueError(f"{source.name} has no items to evaluate")
    return len(source) if limit is None else min(limit, len(source))


def require_same_names(kind: str, of_model: tuple[str, ...], count: int, of_data: tuple[str, ...], data: str) -> None:
    """Outputs must mean the same to the model and to the data.

    Args:
        kind: "classes" or "joints".
        of_model: names that the model knows, or none.
        count: of the model's outputs.
        of_data: names of the set.
        data: what to call it.

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
