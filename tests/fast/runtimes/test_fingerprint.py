from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hrformer.fast.runtimes.openvino import module_fingerprint
from hrformer.zoo import create_model


def test_same_model_same_fingerprint() -> None:
    torch.manual_seed(3)
    first = create_model("hrformer_nano", "pose", num_keypoints=3)
    torch.manual_seed(3)
    assert module_fingerprint(first) == module_fingerprint(create_model("hrformer_nano", "pose", num_keypoints=3))
    assert module_fingerprint(first, ["2025.1"]) != module_fingerprint(first, ["2025.2"])


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.set_upsample("bilinear_aligned"),
        lambda model: model.backbone.set_position_bias(False),
        lambda model: model.head.final_layer.bias.data.add_(1e-3),
        lambda model: model.backbone.bn1.running_var.mul_(2),
        lambda model: setattr(model.backbone.stage2[0].branches[0][0].norm1, "eps", 1e-5),
        lambda model: setattr(model.head, "final_layer", nn.Sequential(model.head.final_layer)),
        lambda model: setattr(model.head, "act", F.relu),
        lambda model: setattr(model.head, "act", lambda x: x + 1),
        lambda model: setattr(model.head, "_sizes", {"a": 1}),
        lambda model: setattr(model.head, "scale", torch.tensor(0.5)),
    ],
)
def test_every_change_shows(change) -> None:
    model = create_model("hrformer_nano", "pose", num_keypoints=3)
    model.head.act, model.head._sizes, model.head.scale = (lambda x: x + 2), {"a": 2}, torch.tensor(0.25)
    before = module_fingerprint(model)
    assert module_fingerprint(model) == before
    with torch.no_grad():
        change(model)
    assert module_fingerprint(model) != before
