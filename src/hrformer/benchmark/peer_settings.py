"""Our configurations in the words of the official and of the mmpose code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from hrformer.models.hrformer import HRFormerConfig
from hrformer.models.hrnet import HRNetConfig

Config = HRFormerConfig | HRNetConfig


def official_pose(config: HRFormerConfig) -> dict[str, Any]:
    """What the official ``HRT`` backbone takes as ``extra``."""
    settings = _first_stage(config) | {"drop_path_rate": config.drop_path_rate}
    for number, modules, channels in _stages(config):
        branches = len(channels)
        settings[f"stage{number}"] = {
            "num_modules": modules,
            "num_branches": branches,
            "block": "TRANSFORMER_BLOCK",
            "num_blocks": (config.num_blocks,) * branches,
            "num_channels": tuple(channels),
            "num_heads": list(config.num_heads[:branches]),
            "num_mlp_ratios": [config.mlp_ratio] * branches,
            "num_window_sizes": [config.window] * branches,
        }
    return settings


def official_stages(config: HRFormerConfig) -> dict[str, Any]:
    """What the official ``HighResolutionTransformer`` of classification and segmentation takes."""
    first = {name.upper(): value for name, value in _first_stage(config)["stage1"].items()}
    settings: dict[str, Any] = {"DROP_PATH_RATE": config.drop_path_rate, "STAGE1": first}
    for number, modules, channels in _stages(config):
        branches = len(channels)
        settings[f"STAGE{number}"] = {
            "NUM_MODULES": modules,
            "NUM_BRANCHES": branches,
            "BLOCK": "TRANSFORMER_BLOCK",
            "NUM_BLOCKS": [config.num_blocks] * branches,
            "NUM_CHANNELS": list(channels),
            "NUM_HEADS": list(config.num_heads[:branches]),
            "NUM_MLP_RATIOS": [config.mlp_ratio] * branches,
            "NUM_WINDOW_SIZES": [config.window] * branches,
            # Kept by the blocks, but without effect on what they compute.
            "NUM_RESOLUTIONS": [[56 >> branch] * 2 for branch in range(branches)],
            "ATTN_TYPES": [[["isa_local"] * config.num_blocks] * branches] * modules,
            "FFN_TYPES": [[["conv_mlp"] * config.num_blocks] * branches] * modules,
        }
    return settings


def mmpose(config: Config) -> dict[str, Any]:
    """What mmpose's ``HRFormer`` and ``HRNet`` take as ``extra``."""
    settings = _first_stage(config)
    for number, modules, channels in _stages(config):
        branches = len(channels)
        stage = {
            "num_modules": modules,
            "num_branches": branches,
            "block": "BASIC",
            "num_blocks": (config.trunk.num_blocks,) * branches,
            "num_channels": tuple(channels),
        }
        if isinstance(config, HRFormerConfig):
            stage["block"] = "HRFORMERBLOCK"
            stage["num_heads"] = list(config.num_heads[:branches])
            stage["mlp_ratios"] = [config.mlp_ratio] * branches
            stage["window_sizes"] = [config.window] * branches
        settings[f"stage{number}"] = stage
    if isinstance(config, HRFormerConfig):
        settings["drop_path_rate"] = config.drop_path_rate
    return settings


def _stages(config: Config) -> Iterator[tuple[int, int, Sequence[int]]]:
    """Number, modules and channels of stages 2 to 4."""
    for index, modules in enumerate(config.trunk.num_modules):
        yield index + 2, modules, config.trunk.channels[: index + 2]


def _first_stage(config: Config) -> dict[str, Any]:
    stage = {"num_modules": 1, "num_branches": 1, "block": "BOTTLENECK", "num_blocks": (config.trunk.stage1_blocks,)}
    return {"stage1": stage | {"num_channels": (64,), "num_heads": [2], "num_mlp_ratios": [4]}}
