"""Networks of other implementations, read from a checkout that the user points at. Nothing of them is in this package.

They are built with random weights, from our configurations, and must have our number of parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

import foreign_code
from candidates import Origin
from hrformer.models.model import Task
from hrformer.models.trunk import HRFormerConfig, HRNetConfig
from hrformer.zoo import backbone_config, create_model

REPOSITORIES: Mapping[Origin, str] = {
    "official": "https://github.com/HRNet/HRFormer",
    "mmpose": "https://github.com/open-mmlab/mmpose",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where an implementation keeps the network of one task.

    Attributes:
        root: folder of the checkout from which its absolute imports start.
        module: the module, as its own code names it.
        models: names in our ``zoo`` that can be built from it.
    """

    root: str
    module: str
    models: tuple[str, ...]

    @property
    def file(self) -> str:
        """Path of the module in the checkout."""
        return "/".join(filter(None, [self.root, self.module.replace(".", "/")])) + ".py"


_SIZES = ("hrformer_tiny", "hrformer_small", "hrformer_base")
SOURCES: Mapping[tuple[Origin, Task], Source] = {
    ("official", "classification"): Source(root="cls", module="models.hrt", models=_SIZES),
    ("official", "pose"): Source(root="pose", module="mmpose.models.backbones.hrt", models=_SIZES),
    ("official", "segmentation"): Source(root="seg", module="lib.models.nets.hrt", models=_SIZES[1:]),
    ("mmpose", "pose"): Source(
        root="", module="mmpose.models.backbones.hrformer", models=(*_SIZES, "hrnet_w32", "hrnet_w48")
    ),
}
"""Classification sizes must be ones that the windows divide: the official code fails on others (a missing import)."""


def parse_peers(given: Iterable[str]) -> dict[Origin, Path]:
    """``["official=PATH", "mmpose=PATH"]`` -> the checkouts by name.

    Raises:
        ValueError: not of this form, an unknown name, or a folder that holds no such implementation.
    """
    found: dict[Origin, Path] = {}
    for text in given:
        name, _, path = text.partition("=")
        origin = next((one for one in REPOSITORIES if one == name), None)
        if origin is None or not path:
            raise ValueError(f"--peer wants {' or '.join(f'{one}=PATH' for one in REPOSITORIES)}, got {text!r}")
        found[origin] = Path(path).expanduser().resolve()
        files = [source.file for (one, _), source in SOURCES.items() if one == origin]
        if not any((found[origin] / file).is_file() for file in files):
            raise ValueError(f"--peer {text}: no checkout of {REPOSITORIES[origin]}, it holds no {' or '.join(files)}")
    return found


def has_peer(origin: Origin, model: str, task: Task) -> bool:
    """Whether an implementation has this network for this task."""
    source = SOURCES.get((origin, task))
    return source is not None and model in source.models


def build_peer(origin: Origin, checkout: Path, model: str, task: Task) -> nn.Module:
    """Another implementation of one of our networks, with random weights and our default number of outputs.

    Args:
        origin: which implementation.
        checkout: folder of its repository.
        model: name in our ``zoo``.
        task: pose gets a 1x1 convolution on the finest map, as both implementations' own head is.

    Returns:
        A module, in training mode, that maps (B, 3, H, W) to what our model of this name does.

    Raises:
        ValueError: the implementation has no such network, the folder is no checkout of it, its files cannot be run,
            or what they build has another number of parameters than ours.
    """
    if not has_peer(origin, model, task):
        known = "; ".join(f"{task}: {' '.join(one.models)}" for (name, task), one in SOURCES.items() if name == origin)
        raise ValueError(f"{origin} has no {model} for {task}; it has {known}")
    file = checkout / SOURCES[origin, task].file
    if not file.is_file():
        raise ValueError(
            f"{checkout} is no checkout of {REPOSITORIES[origin]}: there is no {file.relative_to(checkout)}"
        )
    with torch.device("meta"):
        ours = create_model(model, task)
    try:
        network = _build(origin, checkout, model, task, ours.info.num_classes)
    except (AttributeError, ImportError, KeyError, NameError, SyntaxError, TypeError) as error:
        raise ValueError(f"{file} cannot be run ({type(error).__name__}: {error}); is it another version?") from error
    expected, actual = (sum(parameter.numel() for parameter in one.parameters()) for one in (ours, network))
    if expected != actual:
        raise ValueError(f"{origin}'s {model} for {task} has {actual:,} parameters, ours {expected:,}: not the same")
    return network


def _build(origin: Origin, checkout: Path, model: str, task: Task, num_outputs: int) -> nn.Module:
    config, source, prefix = backbone_config(model, task), SOURCES[origin, task], f"hrformer_peer_{origin}_{task}"
    root, trunk = checkout / source.root, nn.Module()

    def stand_in_trunk() -> nn.Module:
        return trunk

    replaced = foreign_code.stand_ins(origin, task, stand_in_trunk)
    if task == "pose":
        with foreign_code.foreign_module(root, source.module, replaced, prefix) as found:
            if origin == "official":
                trunk = found.HRT(_settings(config, "TRANSFORMER_BLOCK"), norm_cfg={"type": "BN"})
            elif isinstance(config, HRFormerConfig):
                trunk = found.HRFormer(_settings(config, "HRFORMERBLOCK"))
            else:
                trunk = found.HRNet(_settings(config, "BASIC"))
        return _Pose(trunk, config.trunk.channels[0], num_outputs)
    if task == "classification":
        with foreign_code.foreign_module(root, source.module, replaced, prefix) as found:
            classifier: nn.Module = found.HighResolutionTransformer(
                _settings_of_stages(config), num_classes=num_outputs
            )
        return classifier
    with foreign_code.foreign_module(root, "lib.models.backbones.hrt.hrt_backbone", replaced, prefix) as found:
        trunk = found.HighResolutionTransformer(_settings_of_stages(config))
    with foreign_code.foreign_module(root, source.module, replaced, prefix) as found:
        answers = {("data", "num_classes"): num_outputs, ("network", "bn_type"): "torchsyncbn"}
        name = "HRT_SMALL_OCR_V2" if model == "hrformer_small" else "HRT_BASE_OCR_V2"
        return _Segmentation(getattr(found, name)(SimpleNamespace(get=lambda *asked: answers[asked])))


def _settings(config: HRFormerConfig | HRNetConfig, block: str) -> dict[str, Any]:
    """Our configuration in the words of the official pose code and of mmpose (``extra``), which differ in two names."""
    settings: dict[str, Any] = {
        "stage1": {
            "num_modules": 1,
            "num_branches": 1,
            "block": "BOTTLENECK",
            "num_blocks": (config.trunk.stage1_blocks,),
            "num_channels": (64,),
            "num_heads": [2],
            "num_mlp_ratios": [4],
        }
    }
    for number, modules, channels in _stages(config):
        branches = len(channels)
        stage = settings[f"stage{number}"] = {
            "num_modules": modules,
            "num_branches": branches,
            "block": block,
            "num_blocks": (config.trunk.num_blocks,) * branches,
            "num_channels": tuple(channels),
        }
        if isinstance(config, HRFormerConfig):
            stage["num_heads"] = list(config.num_heads[:branches])
            stage["num_mlp_ratios"] = stage["mlp_ratios"] = [config.mlp_ratio] * branches
            stage["num_window_sizes"] = stage["window_sizes"] = [config.window] * branches
    if isinstance(config, HRFormerConfig):
        settings["drop_path_rate"] = config.drop_path_rate
    return settings


def _settings_of_stages(config: HRFormerConfig | HRNetConfig) -> dict[str, Any]:
    """The same for the official ``HighResolutionTransformer`` of classification and segmentation."""
    settings: dict[str, Any] = {}
    for name, value in _settings(config, "TRANSFORMER_BLOCK").items():
        settings[name.upper()] = {key.upper(): one for key, one in value.items()} if name != "drop_path_rate" else value
    for number, modules, channels in _stages(config):
        branches, blocks = len(channels), config.trunk.num_blocks
        # Kept by the blocks, but without effect on what they compute.
        settings[f"STAGE{number}"] |= {
            "NUM_RESOLUTIONS": [[56 >> branch] * 2 for branch in range(branches)],
            "ATTN_TYPES": [[["isa_local"] * blocks] * branches] * modules,
            "FFN_TYPES": [[["conv_mlp"] * blocks] * branches] * modules,
        }
    return settings


def _stages(config: HRFormerConfig | HRNetConfig) -> Iterator[tuple[int, int, Sequence[int]]]:
    """Number, modules and channels of stages 2 to 4."""
    for index, modules in enumerate(config.trunk.num_modules):
        yield index + 2, modules, config.trunk.channels[: index + 2]


class _Pose(nn.Module):
    """A trunk of theirs and the head of both: a 1x1 convolution on the finest map."""

    def __init__(self, backbone: nn.Module, channels: int, num_outputs: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(channels, num_outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> heatmaps (B, K, H / 4, W / 4)."""
        heatmaps: Tensor = self.head(self.backbone(x)[0])
        return heatmaps


class _Segmentation(nn.Module):
    """A network of openseg, which returns (auxiliary, main) always; in evaluation we return the latter alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Any:
        """(B, 3, H, W) -> logits (B, C, H, W), or both in training."""
        both = self.network(x)
        return both if self.training else both[1]
