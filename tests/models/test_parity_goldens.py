"""Every network golden end to end: a published layout through the loader, then all maps and outputs compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from hrformer.checkpoints.checkpoint import load_checkpoint, load_model
from hrformer.models.model import VisionModel
from hrformer.zoo import create_model
from parity import TOLERANCE, Golden

OUTPUT = {"classification": "logits", "pose": "heatmaps", "segmentation": "out"}
WHOLE = {
    "cls_t_224": ("hrformer_tiny", "classification", "official-classification", True, "nearest"),
    "cls_s_224": ("hrformer_small", "classification", "official-classification", True, "nearest"),
    "cls_b_224": ("hrformer_base", "classification", "official-classification", True, "nearest"),
    "pose_s_256x192": ("hrformer_small", "pose", "official-pose", False, "bilinear"),
    "pose_b_256x192": ("hrformer_base", "pose", "official-pose", False, "bilinear"),
    "mmpose_s_256x192": ("hrformer_small", "pose", "mmpose-1.x", True, "bilinear"),
    "mmpose_b_256x192": ("hrformer_base", "pose", "mmpose-1.x", True, "bilinear"),
    "seg_s_ocr_w7_128x256_c19": ("hrformer_small", "segmentation", "official-segmentation", True, "nearest"),
}


def run(model: VisionModel, x: Tensor) -> dict[str, Tensor]:
    """All tensors that goldens name, by hooks."""
    found: dict[str, Tensor] = {}
    trunk: Any = model.backbone
    trunk.layer1.register_forward_hook(lambda *io: found.update(layer1=io[-1]))
    for stage in (2, 3):
        trunk.get_submodule(f"stage{stage}")[-1].register_forward_hook(
            lambda *io, stage=stage: found.update({f"stage{stage}_{i}": y for i, y in enumerate(io[-1])})
        )
    trunk.register_forward_hook(lambda *io: found.update({f"feat{i}": y for i, y in enumerate(io[-1].values())}))
    if model.task == "segmentation":
        head: Any = model.head
        head.aux.register_forward_hook(
            lambda *io: found.update(aux=F.interpolate(io[-1], x.shape[-2:], mode="bilinear", align_corners=True))
        )
    with torch.inference_mode():
        output = model.eval()(x)
    if model.task is not None:
        found[OUTPUT[model.task]] = output
    return found


def error(golden: Golden, name: str, x: Tensor) -> float:
    """As ``Golden.error``; maps that only help to locate an error come without means."""
    if x.ndim != 4 or f"{name}__mean_hw" in golden.arrays:
        return golden.error(name, x)
    meta = golden.meta["outputs"][name]
    assert list(x.shape) == meta["shape"]
    return float(np.abs(x.numpy().reshape(-1)[:: meta["stride"]] - golden.arrays[name]).max()) / meta["absmax"]


def check(golden: Golden, model: VisionModel) -> None:
    found = run(model, golden.input())
    errors = {name: error(golden, name, found[name]) for name in golden.meta["outputs"]}
    assert max(errors.values()) <= TOLERANCE, errors


@pytest.mark.parametrize("name", WHOLE)
def test_model_built_from_the_file_reproduces_the_golden(parity_dir: Path, name: str) -> None:
    golden = Golden.read(parity_dir, name)
    variant, task, layout, position_bias, upsample = WHOLE[name]
    model, report = load_model(golden.state_dict())
    assert (model.info.name, model.task, report.format) == (variant, task, layout)
    assert model.info.options["position_bias"] is position_bias
    assert model.info.options["upsample"] == upsample
    assert sum(p.numel() for p in model.parameters()) == golden.meta["num_params"]
    assert not report.fresh
    assert not report.missing
    assert not report.unexpected
    check(golden, model)


@pytest.mark.parametrize("name", ["pose_s_256x192_multiscale", "mmpose_s_256x192_multiscale"])
def test_bare_backbone_reproduces_the_four_maps(parity_dir: Path, name: str) -> None:
    golden = Golden.read(parity_dir, name)
    model = create_model("hrformer_small")
    report = load_checkpoint(model, golden.state_dict())
    assert set(report.ignored.values()) == {"part of a head; the model is a bare backbone"}
    check(golden, model)


def test_switches_matter(parity_dir: Path) -> None:
    """The options of the loader reach the network; their effects are far above the tolerance."""
    golden = Golden.read(parity_dir, "pose_s_256x192")
    state, x = golden.state_dict(), golden.input()[:1]
    model, _ = load_model(state)
    with torch.inference_mode():
        right = model(x)
        for option in ({"position_bias": True}, {"upsample": "nearest"}, {"upsample": "bilinear_aligned"}):
            load_checkpoint(model, state, **option)  # type: ignore[arg-type]
            assert float((model(x) - right).abs().max() / right.abs().max()) > 1e-3, option


def test_hrnet_equals_timm_on_random_weights() -> None:
    torch.manual_seed(0)
    reference = timm.create_model("hrnet_w18").eval()
    for name, buffer in reference.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.8, 1.2)
        elif name.endswith("running_mean"):
            buffer.normal_(std=0.1)
    model, report = load_model(reference.state_dict())
    assert (model.info.name, model.task, report.format) == ("hrnet_w18", "classification", "hrnet-classification")
    assert not report.fresh
    assert not report.missing
    assert not report.unexpected
    x = torch.randn(2, 3, 160, 192)
    with torch.inference_mode():
        expected, got = reference(x), model(x)
    assert float((got - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())
