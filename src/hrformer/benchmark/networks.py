"""From a candidate to a module with random weights in a sane state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hrformer.benchmark.candidates import VITPOSE_SIZE, Candidate
from hrformer.benchmark.peers import Origin as PeerOrigin
from hrformer.benchmark.peers import build_peer
from hrformer.models.model import Task
from hrformer.zoo import create_model

SETTLING_SIZES: Mapping[Task, tuple[int, int]] = {
    "classification": (224, 224),
    "pose": (256, 192),
    "segmentation": (224, 224),
}
"""Height and width at which :func:`settle` runs; no larger than needed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """Where networks come from.

    Attributes:
        checkouts: of other implementations.
        seed: of the weights.
    """

    checkouts: Mapping[PeerOrigin, Path] = field(default_factory=dict)
    seed: int = 0


def build_network(candidate: Candidate, sources: Sources) -> nn.Module:
    """The candidate's network on the CPU, in evaluation mode, float32, with settled random weights.

    Raises:
        ValueError: no such network, or no checkout of the other implementation is given.
        ImportError: the package that has it is not installed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sources.seed)
        return settle(_build(candidate, sources), SETTLING_SIZES[candidate.task]).eval()


def _build(candidate: Candidate, sources: Sources) -> nn.Module:
    if candidate.origin == "ours":
        return create_model(candidate.model, candidate.task, window_size=candidate.window)
    if candidate.origin == "timm":
        return create_model(f"timm/{candidate.model}", candidate.task)
    if candidate.origin == "transformers":
        return _vitpose()
    checkout = sources.checkouts.get(candidate.origin)
    if checkout is None:
        raise ValueError(f"{candidate.label}: say where its code is, by --peer {candidate.origin}=PATH")
    return build_peer(candidate.origin, checkout, candidate.model, candidate.task)


def settle(module: nn.Module, size: tuple[int, int]) -> nn.Module:
    """Give convolutions PyTorch's own random weights, and batch norms the statistics of random pictures.

    A model fresh from its recipe's initialisation (pose: standard deviation 0.001) lets its activations shrink from
    layer to layer until they are denormal numbers, with which processors are many times slower. Trained networks keep
    theirs near 1, and so do settled ones.

    Args:
        module: changed in place.
        size: (height, width) of the pictures.
    """
    norms = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            layer.reset_parameters()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        # None averages over all batches, of which there is one: the statistics become exactly its own.
        norm.momentum = None
    module.train()
    with torch.no_grad():
        module(torch.randn(2, 3, *size))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return module


class _Heatmaps(nn.Module):
    """A pose network of transformers that returns its heatmaps alone, as all other candidates do."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 256, 192) -> (B, K, 64, 48)."""
        return cast(Tensor, self.network(x).heatmaps)


def _vitpose() -> nn.Module:
    """ViTPose-B with its classic decoder (paper: 12 layers, 768 channels, 12 heads; two transposed convolutions)."""
    try:
        import transformers
    except ImportError as error:
        raise ImportError("ViTPose needs transformers: pip install transformers") from error
    # Untyped: the constructors take more than their signatures say.
    library: Any = transformers
    backbone = library.VitPoseBackboneConfig(
        image_size=list(VITPOSE_SIZE),
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        out_indices=[12],
    )
    config = library.VitPoseConfig(backbone_config=backbone, num_labels=17, use_simple_decoder=False)
    return _Heatmaps(library.VitPoseForPoseEstimation(config))
