"""State dicts of other code bases, made from ours by renaming: the inverse of what the loader does, written apart.

The network goldens hold the true key lists; ``tests/checkpoints/test_formats.py`` compares these functions with them.
"""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import Tensor

from parity import golden_value

State = dict[str, Tensor]

_OCR = (
    (r"head\.pixel\.0\.", "conv3x3.0."),
    (r"head\.pixel\.1\.", "conv3x3.1.0."),
    (r"head\.aux\.0\.", "aux_head.0."),
    (r"head\.aux\.1\.", "aux_head.1.0."),
    (r"head\.aux\.3\.", "aux_head.2."),
    (r"head\.merge\.0\.", "ocr_distri_head.conv_bn_dropout.0."),
    (r"head\.merge\.1\.", "ocr_distri_head.conv_bn_dropout.1.0."),
    (r"head\.classifier\.", "cls_head."),
    (r"head\.attention\.pixel\.", "ocr_distri_head.object_context_block.f_pixel."),
    (r"head\.attention\.object\.", "ocr_distri_head.object_context_block.f_object."),
    (r"head\.attention\.value\.", "ocr_distri_head.object_context_block.f_down."),
    (r"head\.attention\.up\.", "ocr_distri_head.object_context_block.f_up."),
)
_HRNET_OCR = (
    (r"conv3x3\.1\.0\.", "conv3x3_ocr.1."),
    (r"conv3x3\.", "conv3x3_ocr."),
    (r"aux_head\.1\.0\.", "aux_head.1."),
    (r"aux_head\.2\.", "aux_head.3."),
)
_MMSEG = (
    (r"head\.last_layer\.3\.", "decode_head.conv_seg."),
    (r"head\.last_layer\.", "decode_head.convs."),
    (r"head\.aux\.3\.", "decode_head.0.conv_seg."),
    (r"head\.aux\.", "decode_head.0.convs."),
    (r"head\.pixel\.", "decode_head.1.bottleneck."),
    (r"head\.classifier\.", "decode_head.1.conv_seg."),
    (r"head\.attention\.pixel\.", "decode_head.1.object_context_block.query_project."),
    (r"head\.attention\.object\.", "decode_head.1.object_context_block.key_project."),
    (r"head\.attention\.value\.", "decode_head.1.object_context_block.value_project."),
    (r"head\.attention\.up\.", "decode_head.1.object_context_block.out_project."),
    (r"head\.merge\.", "decode_head.1.object_context_block.bottleneck."),
)


def _rename(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name, count = re.subn(f"^{pattern}", replacement, name)
        if count:
            break
    return name


def _ocr_name(name: str) -> str:
    # conv, BN, ReLU, conv, BN, ReLU become conv, (BN, ReLU), conv, (BN, ReLU)
    flat = {"0": "0", "1": "1.0", "3": "2", "4": "3.0"}
    name = _rename(name, _OCR)
    return re.sub(r"(object_context_block\.\w+)\.([0134])\.", lambda m: f"{m[1]}.{flat[m[2]]}.", name)


def official(state: State, *, prefix: str = "backbone.", pose_head: str = "keypoint_head.") -> State:
    """HRFormer repository; ``prefix`` is empty in its classification files."""
    result: State = {}
    for name, value in state.items():
        if name.startswith("head."):
            key = re.sub(r"^head\.final_layer\.(weight|bias)$", rf"{pose_head}final_layer.\1", name)
            key = _ocr_name(key) if "head.pixel.0.weight" in state else key
            result[key.removeprefix("head.")] = value
            continue
        key = prefix + name.removeprefix("backbone.").replace(".fuse.paths.", ".fuse_layers.").replace(".ffn.", ".mlp.")
        key = key.replace(".attn.", ".attn.attn.").replace(".attn.proj.", ".attn.out_proj.")
        if ".attn.qkv." in key:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                result[key.replace(".qkv.", f".{letter}_proj.")] = part.clone()
        else:
            result[key] = value
        if key.endswith("relative_position_bias_table"):
            side = (round(len(value) ** 0.5) + 1) // 2
            result[key.replace("_bias_table", "_index")] = torch.zeros(side**2, side**2, dtype=torch.int64)
    return result


def mmpose(state: State, *, head: str = "head.") -> State:
    """mmpose; ``head`` is "keypoint_head." before 1.0. Also HRNet."""
    result: State = {}
    for name, value in state.items():
        key = name.replace(".fuse.paths.", ".fuse_layers.").replace(".attn.", ".attn.attn.")
        result[re.sub(r"^head\.", head, key)] = value
    return result


def hrnet(state: State) -> State:
    """HRNet's repositories and timm: no prefix anywhere."""
    plain = {}
    for name, value in state.items():
        key = name.replace(".fuse.paths.", ".fuse_layers.")
        if "head.pixel.0.weight" in state:
            key = _rename(_ocr_name(key), _HRNET_OCR)
        plain[key.removeprefix("backbone.").removeprefix("head.")] = value
    return plain


def mmsegmentation(state: State) -> State:
    """mmsegmentation: FCN and OCR heads on HRNet, whose convolutions before a BN have no bias."""
    result: State = {}
    for name, value in state.items():
        key = name.replace(".fuse.paths.", ".fuse_layers.")
        if key.startswith("head."):
            key = _rename(key, _MMSEG)
            if "conv_seg" not in key:
                if key.endswith(".0.bias"):
                    continue
                nested = {"0": "0.conv", "1": "0.bn", "3": "1.conv", "4": "1.bn"}
                alone = not re.search(r"convs|query|key", key)
                key = re.sub(r"\.([0134])(?=\.\w+$)", lambda m: f".{nested[m[1]][2 * alone :]}", key)  # noqa: B023
        result[key] = value
    return result


def random_state(state: State) -> State:
    """Every tensor different, reproducibly, so that a mix-up shows; outputs stay finite."""
    return {
        name: torch.from_numpy(np.asarray(golden_value(name, tuple(value.shape)), np.float32))
        if value.is_floating_point()
        else torch.tensor(i)
        for i, (name, value) in enumerate(state.items())
    }
