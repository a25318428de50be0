"""Other implementations. Tests on real ones need their checkouts:

``HRFORMER_PEER_OFFICIAL`` names a checkout of https://github.com/HRNet/HRFormer, ``HRFORMER_PEER_MMPOSE`` one of
https://github.com/open-mmlab/mmpose (1.x).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from candidates import Origin
from hrformer.models.model import TASKS, Task
from peers import SOURCES, build_peer, has_peer, parse_peers


def checkout_of(origin: Origin) -> Path:
    name = f"HRFORMER_PEER_{origin.upper()}"
    if not os.environ.get(name):
        pytest.skip(f"needs a checkout of {origin}: set {name} to its folder")
    return parse_peers([f"{origin}={os.environ[name]}"])[origin]


# recipes of the published repositories, counted by instantiating them; pose with 17 joints, 19 classes in segmentation
PARAMETERS = {
    ("official", "classification", "hrformer_tiny"): 8_035_820,
    ("official", "classification", "hrformer_small"): 13_544_882,
    ("official", "classification", "hrformer_base"): 50_320_098,
    ("official", "pose", "hrformer_small"): 7_746_779,
    ("official", "pose", "hrformer_base"): 43_211_777,
    ("official", "segmentation", "hrformer_small"): 13_523_856,
    ("official", "segmentation", "hrformer_base"): 56_032_512,
    ("mmpose", "pose", "hrformer_small"): 7_746_779,
    ("mmpose", "pose", "hrformer_base"): 43_211_777,
}


@pytest.mark.parametrize(("origin", "task", "model"), PARAMETERS, ids=[" ".join(one) for one in PARAMETERS])
def test_peers_are_the_published_networks(origin: Origin, task: Task, model: str) -> None:
    checkout, before = checkout_of(origin), set(sys.modules)
    network = build_peer(origin, checkout, model, task)
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[origin, task, model]
    left = {name for name in set(sys.modules) - before if not name.startswith("hrformer_peer_")}
    assert not left & {"einops", "lib", "mmcv", "mmcv.cnn", "mmengine", "mmpose", "models"}


@pytest.mark.slow
@pytest.mark.parametrize(("origin", "task"), SOURCES, ids=[" ".join(one) for one in SOURCES])
def test_peers_return_what_ours_do(origin: Origin, task: Task) -> None:
    network = build_peer(origin, checkout_of(origin), "hrformer_small", task)
    # mmpose takes no sides that its branches cannot halve.
    size = {"classification": (224, 224), "pose": (64, 64), "segmentation": (64, 64)}[task]
    shape = {"classification": (1, 1000), "pose": (1, 17, 16, 16), "segmentation": (1, 19, 64, 64)}[task]
    with torch.inference_mode():
        assert network.eval()(torch.randn(1, 3, *size)).shape == shape


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("official", "official=PATH or mmpose=PATH, got 'official'"),
        ("official=", "official=PATH"),
        ("openseg=/x", "got 'openseg=/x'"),
        ("official=/nowhere", "no checkout of https://github.com/HRNet/HRFormer, it holds no cls/models/hrt.py"),
    ],
)
def test_paths_that_are_no_checkout(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_peers([text])


@pytest.fixture
def false_checkout(tmp_path: Path) -> Path:
    """A folder with a file of the right name."""
    path = tmp_path / "cls" / "models" / "hrt.py"
    path.parent.mkdir(parents=True)
    path.write_text("from torch import nn\ndef HighResolutionTransformer(cfg, num_classes): return nn.Linear(2, 2)\n")
    return tmp_path


def test_a_network_of_another_size_is_refused(false_checkout: Path) -> None:
    assert parse_peers([f"official={false_checkout}"]) == {"official": false_checkout.resolve()}
    with pytest.raises(ValueError, match="has 6 parameters, ours 13,544,882: not the same"):
        build_peer("official", false_checkout, "hrformer_small", "classification")


def test_files_that_cannot_be_run_are_named(false_checkout: Path) -> None:
    (false_checkout / "cls" / "models" / "hrt.py").write_text("import something_absent")
    with pytest.raises(ValueError, match=r"hrt\.py cannot be run .*something_absent.*another version"):
        build_peer("official", false_checkout, "hrformer_small", "classification")


def test_what_a_checkout_lacks_is_said(false_checkout: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no pose/mmpose/models/backbones/hrt\.py"):
        build_peer("official", false_checkout, "hrformer_small", "pose")
    with pytest.raises(ValueError, match="official has no hrnet_w32 for pose"):
        build_peer("official", false_checkout, "hrnet_w32", "pose")
    assert not has_peer("mmpose", "hrformer_small", "segmentation")
    assert all(has_peer("official", "hrformer_base", task) for task in TASKS)
