"""A teacher whose answers a classifier learns besides the labels (DeiT, Touvron et al., ICML 2021, section 4)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from hrformer.checkpoints.checkpoint import load_model
from hrformer.checkpoints.download import resolve_weights
from hrformer.data.loader import Batch
from hrformer.data.set_types import ClassificationSet
from hrformer.evaluate.inference import ALONE, Network, network_for, predictions_of
from hrformer.evaluate.protocols import ClassificationProtocol
from hrformer.files import sha256_of, write_file
from hrformer.geometry.input_spec import InputSpec
from hrformer.models.model import VisionModel
from hrformer.train.config import Distillation
from hrformer.train.distributed import gather, processes
from hrformer.train.progress import bars

ANSWERS = "teacher.safetensors"
"""File in the run folder with what the teacher said about whole pictures."""


class Teacher:
    """The network that a run learns from.

    Args:
        config: of the run; names the teacher.
        data: training set, whose classes must be the teacher's.
        out: run folder, which keeps the answers about whole pictures.
        device: where to run.
        workers: of the loader.

    Raises:
        ValueError: the teacher is no classifier of these classes.
        FileNotFoundError: no such weight file.
        DownloadError: the weights cannot be fetched.
    """

    def __init__(
        self, config: Distillation, data: ClassificationSet, out: Path, device: torch.device, workers: int
    ) -> None:
        path, entry = resolve_weights(config.teacher)
        model, _ = load_model(path, published=entry)
        if model.task != "classification":
            raise ValueError(f"distill.teacher must be a classifier, {config.teacher} is for {model.task}")
        self.device = device
        # Channels last: twice the pictures per second for EfficientNet-lite2 on a CPU, the same answers to rounding.
        model = model.to(memory_format=torch.channels_last)
        self.model: VisionModel = model.to(device).eval().requires_grad_(False)
        try:
            network = network_for(model, data, ClassificationProtocol(batch_size=32), device)
        except ValueError as error:
            raise ValueError(f"distill.teacher {config.teacher}: {error}") from error
        self.answers = self._asked(network, data, out / ANSWERS, sha256_of(path), workers) if config.whole else None

    def _asked(self, network: Network, data: ClassificationSet, file: Path, teacher: str, workers: int) -> Tensor:
        """(N, C) logits for the whole training pictures; asked for once a run."""
        own = processes() or ALONE
        # All processes must go the same way, though not each of them may see the folder.
        known = next((one for one in gather(_stored(file, teacher)) if one is not None), None)
        if known is None:
            rows: dict[int, Tensor] = {}
            with bars(after=2.0) as progress:
                tell = partial(progress, "asking the teacher") if own.rank == 0 else None
                for batch, logits in predictions_of(network, data, len(data), workers, own, tell):
                    rows |= {int(index): row.cpu() for index, row in zip(batch["index"], logits, strict=True)}
            for part in gather(rows):
                rows |= part
            known = torch.stack([rows[index] for index in range(len(data))])
            if own.rank == 0:
                file.parent.mkdir(parents=True, exist_ok=True)
                write_file(file, partial(save_file, {"logits": known}, metadata={"teacher": teacher}))
        return known.to(self.device)

    @torch.inference_mode()
    def logits(self, batch: Batch, spec: InputSpec) -> Tensor:
        """(B, C) for a batch whose ``image`` (B, 3, H, W) is normalised as the student's ``spec`` says."""
        if self.answers is not None:
            return self.answers[batch["index"].to(self.device)].clone()
        theirs = self.model.info.input_spec
        images = batch["image"].float()
        mean, std = (_planes(values, self.device) for values in (spec.mean, spec.std))
        own_mean, own_std = (_planes(values, self.device) for values in (theirs.mean, theirs.std))
        images = (images * std + mean - own_mean) / own_std
        images = F.interpolate(images, size=theirs.size, mode="bilinear", align_corners=False, antialias=True)
        answer: Tensor = self.model(images)
        return answer.float().clone()


def _planes(values: tuple[float, ...], device: torch.device) -> Tensor:
    """One number a channel, for (B, C, H, W)."""
    return torch.tensor(values, device=device).view(1, -1, 1, 1)


def _stored(file: Path, teacher: str) -> Tensor | None:
    """What this teacher, by the hash of its file, has answered before."""
    if not file.exists():
        return None
    with safe_open(file, framework="pt") as content:
        if (content.metadata() or {}).get("teacher") != teacher:
            return None
        return content.get_tensor("logits")
