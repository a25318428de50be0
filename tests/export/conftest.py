"""Small models of every task with all parts of the large ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from hrformer.export import export
from hrformer.export.proof import latency
from hrformer.geometry.input_spec import InputSpec
from hrformer.geometry.skeletons import COCO17
from hrformer.models.blocks import BasicBlock
from hrformer.models.heads import ClassificationConfig, ClassificationHead, OCRConfig, OCRHead, PoseHead
from hrformer.models.model import ModelInfo, Task, VisionModel
from hrformer.models.trunk import HighResolutionTrunk, HRFormerConfig, TrunkConfig, build_hrformer

SmallModel = Callable[..., VisionModel]


def small_trunk(task: Task | None, window: int) -> HighResolutionTrunk:
    """A trunk with one block and module per stage; ``window`` 0 for HRNet's blocks."""
    several = task != "pose"
    shape: dict[str, object] = {"channels": (8, 16, 32, 64), "num_modules": (1, 1, 1), "num_blocks": 1}
    shape |= {"multi_scale": several, "upsample": "nearest" if several else "bilinear"}
    if window:
        return build_hrformer(HRFormerConfig(num_heads=(1, 2, 4, 8), window=window, **shape))  # type: ignore[arg-type]
    config = TrunkConfig(stage1_blocks=1, separable_fusion=False, **shape)  # type: ignore[arg-type]
    return HighResolutionTrunk(config, lambda branch, depth: BasicBlock(config.channels[branch]))


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each speed of a report from three runs: a second is for those that are to be read."""
    monkeypatch.setattr(export, "latency", partial(latency, seconds=0.0))


@pytest.fixture
def small_model() -> SmallModel:
    """Makes a model of a task with statistics that are not the trivial ones."""

    def make(task: Task | None, window: int = 7) -> VisionModel:
        torch.manual_seed(0)
        trunk = small_trunk(task, window)
        options: dict[str, object] = {"task": task, "name": "hrformer_tiny" if window else "hrnet_w18"}
        head: nn.Module | None = None
        if task == "pose":
            head = PoseHead(trunk.feature_info, 17)
            info = ModelInfo(num_classes=17, skeleton=COCO17, input_spec=InputSpec(size=(96, 72)), **options)  # type: ignore[arg-type]
        elif task == "classification":
            head = ClassificationHead(trunk.feature_info, 10, ClassificationConfig(planes=8, width=64))
            spec = InputSpec(size=(64, 64), interpolation="bicubic")
            info = ModelInfo(num_classes=10, input_spec=spec, **options)  # type: ignore[arg-type]
        elif task == "segmentation":
            head = OCRHead(trunk.feature_info, 11, OCRConfig(channels=32, key_channels=16, aux_channels=32))
            info = ModelInfo(num_classes=11, input_spec=InputSpec(size=(64, 96)), **options)  # type: ignore[arg-type]
        else:
            info = ModelInfo(**options)  # type: ignore[arg-type]
        model = VisionModel(trunk, head, info)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
        return model.eval()

    return make
