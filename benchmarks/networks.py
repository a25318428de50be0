"""From a candidate to a module with random weights in a sane state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from candidates import Candidate, Origin
from hrformer.models.model import Task
from hrformer.zoo import create_model
from peers import build_peer

SETTLING_SIZES: Mapping[Task, tuple[int, int]] = {
    "classification": (224, 224),
    "pose": (256, 192),
    "segmentation": (224, 224),
}
"""Height and width at which :func:`settle` runs; no larger than needed."""


def build_network(candidate: Candidate, checkouts: Mapping[Origin, Path], seed: int = 0) -> nn.Module:
    """The candidate's network on the CPU, in evaluation mode, float32, with settled random weights.

    Args:
        candidate: for origin, model, task and window.
        checkouts: of other implementations.
        seed: of the weights.

    Raises:
        ValueError: no such network, or no checkout of the other implementation is given.
        ImportError: the package that has it is not installed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return settle(_build(candidate, checkouts), SETTLING_SIZES[candidate.task]).eval()


def _build(candidate: Candidate, checkouts: Mapping[Origin, Path]) -> nn.Module:
    if candidate.origin == "ours":
        return create_model(candidate.model, candidate.task, window_size=candidate.window)
    if candidate.origin == "timm":
        return create_model(f"timm/{candidate.model}", candidate.task)
    if candidate.origin == "transformers":
        return _VitPose()
    if candidate.origin not in checkouts:
        raise ValueError(f"{candidate.label}: say where its code is, by --peer {candidate.origin}=PATH")
    return build_peer(candidate.origin, checkouts[candidate.origin], candidate.model, candidate.task)


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


class _VitPose(nn.Module):
    """ViTPose-B with its classic decoder (paper: 12 layers, 768 channels, 12 heads; two transposed convolutions)."""

    def __init__(self) -> None:
        super().__init__()
        try:
            import transformers
        except ImportError as error:
            raise ImportError("ViTPose needs transformers: pip install transformers") from error
        # Untyped: the constructors take more than their signatures say.
        library: Any = transformers
        backbone = library.VitPoseBackboneConfig(
            image_size=[256, 192],
            hidden_size=768,
            num_hidden_layers=12,
            num_attention_heads=12,
            out_indices=[12],
        )
        config = library.VitPoseConfig(backbone_config=backbone, num_labels=17, use_simple_decoder=False)
        self.network = library.VitPoseForPoseEstimation(config)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 256, 192) -> the heatmaps alone, (B, 17, 64, 48), as all other candidates return them."""
        heatmaps: Tensor = self.network(x).heatmaps
        return heatmaps
