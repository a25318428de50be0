"""Saving and converting: our safetensors, mmpose 1.x, and the way round."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import layouts
from hrformer.checkpoints.checkpoint import convert_checkpoint, load_model, save_checkpoint
from hrformer.checkpoints.pickles import CheckpointError
from hrformer.checkpoints.registry import list_bundled
from hrformer.checkpoints.weight_files import read_weights
from hrformer.geometry.input_spec import InputSpec
from hrformer.geometry.skeletons import LSPET14
from hrformer.models.model import Task
from hrformer.zoo import create_model
from layouts import State, random_state

NANO = "hrformer_nano"


def random_nano(task: Task, **options: Any) -> State:
    return random_state(create_model(NANO, task, **options).state_dict())


def header(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def same(a: State, b: State) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_saved_models_come_back_as_they_were(tmp_path: Path) -> None:
    model = create_model(NANO, "pose", num_keypoints=14, position_bias=False, upsample="nearest", window_size=13)
    spec = InputSpec(size=(128, 96), channel_order="BGR", interpolation="bicubic")
    model.info = replace(model.info, input_spec=spec, decoder="mmpose", dataset="LSPET", source="trained here")
    assert model.info.skeleton == LSPET14
    path = save_checkpoint(model, tmp_path / "x.safetensors", metadata={"score": "PCK 40"})
    loaded, report = load_model(path)
    assert same(dict(loaded.state_dict()), dict(model.state_dict()))
    assert not loaded.training
    expected = {"window_size": 13, "position_bias": False, "upsample": "nearest"}
    assert loaded.info == replace(model.info, options=expected)
    assert report.format == "hrformer"
    assert not report.converted
    assert not report.assumed
    assert header(path)["score"] == "PCK 40"
    trunk: Any = loaded.backbone
    assert trunk.stage2[0].fuse.upsample == "nearest"


def test_classes_and_palette_travel(tmp_path: Path) -> None:
    model = create_model("hrnet_w18", "segmentation", num_classes=2, aux="hrnet", ocr_channels=32, ocr_key_channels=16)
    names, palette = ("road", "sky"), ((128, 64, 128), (70, 130, 180))
    model.info = replace(model.info, class_names=names, palette=palette)
    loaded, _ = load_model(save_checkpoint(model, tmp_path / "x.safetensors"))
    assert (loaded.info.class_names, loaded.info.palette) == (names, palette)
    assert loaded.info.options["aux"] == "hrnet"
    assert same(dict(loaded.state_dict()), dict(model.state_dict()))


def test_header(tmp_path: Path) -> None:
    path = save_checkpoint(create_model(NANO, "classification", num_classes=3), tmp_path / "a.safetensors", source="s")
    found = header(path)
    assert (found["format"], found["format_version"]) == ("hrformer", "1")
    assert (found["model"], found["task"]) == (NANO, "classification")
    options = {"upsample": "nearest", "position_bias": True, "window_size": 7, "num_classes": 3}
    assert json.loads(found["options"]) == options
    info = json.loads(found["info"])
    assert set(info) == {
        "class_names",
        "skeleton",
        "input_spec",
        "decoder",
        "blur_kernel",
        "shift_heatmap",
        "dataset",
        "source",
        "temperature",
        "palette",
    }
    assert InputSpec.from_dict(info["input_spec"]).size == (224, 224)
    assert info["source"] == "s"
    (entry,) = list_bundled(tmp_path)  # the registry reads the same header
    assert (entry.model, entry.task, entry.num_classes, entry.position_bias) == (NANO, "classification", 3, True)


def test_half_precision(tmp_path: Path) -> None:
    model = create_model(NANO, "pose")
    full, half = (save_checkpoint(model, tmp_path / f"{h}.safetensors", half=h) for h in (False, True))
    assert half.stat().st_size < 0.6 * full.stat().st_size
    loaded, _ = load_model(half)
    expected = {k: v.half().float() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    assert same(dict(loaded.state_dict()), expected)


def test_bad_headers(tmp_path: Path) -> None:
    model = create_model(NANO, "pose")
    path = tmp_path / "x.safetensors"
    for wrong, words in (
        ({"format_version": "2"}, "format version '2'"),
        ({"info": "{}"}, "header of x.safetensors is incomplete"),
        ({"task": "detection"}, "header of x.safetensors is incomplete"),
    ):
        save_checkpoint(model, path)
        tensors = read_weights(path).tensors
        save_file(tensors, path, metadata=header(path) | wrong)
        with pytest.raises(CheckpointError, match=words):
            load_model(path)


def test_suffixes(tmp_path: Path) -> None:
    torch.save(layouts.official(random_nano("pose")), tmp_path / "in.pth")
    with pytest.raises(ValueError, match=r"end in \.safetensors, got x\.pth"):
        save_checkpoint(create_model(NANO), tmp_path / "x.pth")
    for to, name in (("hrformer", "x.pth"), ("mmpose", "x.safetensors")):
        with pytest.raises(ValueError, match=f"got {name}"):
            convert_checkpoint(tmp_path / "in.pth", tmp_path / name, to=to)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="to must be"):
        convert_checkpoint(tmp_path / "in.pth", tmp_path / "x.onnx", to="onnx")  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.iterdir()] == ["in.pth"]


@pytest.mark.parametrize("task", ["classification", "pose", "segmentation"])
def test_official_to_ours(tmp_path: Path, task: Task) -> None:
    state = random_nano(task)
    source = tmp_path / "official.pth"
    torch.save({"state_dict": layouts.official(state, prefix="" if task == "classification" else "backbone.")}, source)
    report = convert_checkpoint(source, tmp_path / "ours.safetensors")
    assert report.format == f"official-{task}"
    assert same(read_weights(tmp_path / "ours.safetensors").tensors, state)
    found = header(tmp_path / "ours.safetensors")
    assert found["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert json.loads(found["info"])["source"] == "official.pth"
    direct, _ = load_model(source)
    again, _ = load_model(tmp_path / "ours.safetensors")
    assert replace(again.info, options=direct.info.options) == direct.info
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(direct(x), again(x))


def test_mmpose_there_and_back(tmp_path: Path) -> None:
    state = random_nano("pose")
    torch.save({"state_dict": layouts.mmpose(state)}, tmp_path / "in.pth")
    convert_checkpoint(tmp_path / "in.pth", tmp_path / "ours.safetensors", input_size=(384, 288))
    convert_checkpoint(tmp_path / "ours.safetensors", tmp_path / "back.pth", to="mmpose")
    back = read_weights(tmp_path / "back.pth")
    made = {name: value for name, value in back.tensors.items() if not name.endswith("_index")}
    assert same(made, layouts.mmpose(state))
    model, report = load_model(tmp_path / "back.pth")
    assert same(dict(model.state_dict()), state)
    assert report.format == "mmpose-1.x"
    assert model.info.input_spec.size == (384, 288)
    assert model.info.decoder == "mmpose"


def test_official_pose_to_mmpose_leaves_the_unused_tables_out(tmp_path: Path) -> None:
    state = random_nano("pose")
    torch.save({"state_dict": layouts.official(state)}, tmp_path / "in.pth")
    convert_checkpoint(tmp_path / "in.pth", tmp_path / "ours.safetensors")
    convert_checkpoint(tmp_path / "ours.safetensors", tmp_path / "back.pth", to="mmpose")
    assert not [name for name in read_weights(tmp_path / "back.pth").tensors if "relative" in name]
    model, report = load_model(tmp_path / "back.pth")
    assert report.implied["position_bias"] is False
    assert report.implied["decoder"] == "official"
    loaded = {name: value for name, value in model.state_dict().items() if "relative" not in name}
    assert same(loaded, {name: value for name, value in state.items() if "relative" not in name})
    direct, _ = load_model(tmp_path / "in.pth")
    x = torch.randn(1, 3, 64, 48)
    with torch.inference_mode():
        assert torch.equal(model(x), direct(x))


def test_hrnet_to_mmpose(tmp_path: Path) -> None:
    state = random_state(create_model("hrnet_w18", "pose").state_dict())
    torch.save(layouts.hrnet(state), tmp_path / "in.pth")
    convert_checkpoint(tmp_path / "in.pth", tmp_path / "out.pth", to="mmpose")
    assert same(read_weights(tmp_path / "out.pth").tensors, layouts.mmpose(state))


def test_backbones_go_to_mmpose_without_their_prefix(tmp_path: Path) -> None:
    save_checkpoint(create_model(NANO), tmp_path / "in.safetensors")
    convert_checkpoint(tmp_path / "in.safetensors", tmp_path / "out.pth", to="mmpose")
    names = set(read_weights(tmp_path / "out.pth").tensors)
    assert {"conv1.weight", "stage2.0.branches.0.0.attn.attn.qkv.weight"} <= names


def test_what_cannot_be_converted(tmp_path: Path) -> None:
    save_checkpoint(create_model(NANO, "segmentation"), tmp_path / "seg.safetensors")
    with pytest.raises(ValueError, match="mmpose has no model for hrformer_nano with task segmentation"):
        convert_checkpoint(tmp_path / "seg.safetensors", tmp_path / "x.pth", to="mmpose")
    with pytest.raises(CheckpointError, match="no weights for head of a model for pose"):
        convert_checkpoint(tmp_path / "seg.safetensors", tmp_path / "x.safetensors", task="pose")
    with pytest.raises(FileNotFoundError):
        convert_checkpoint(tmp_path / "nothing.pth", tmp_path / "x.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["seg.safetensors"]


@pytest.mark.parametrize("options", [{"head": "fcn"}, {"aux": "hrnet"}])
def test_mmsegmentation(options: dict[str, str], tmp_path: Path) -> None:
    made = create_model("hrnet_w18", "segmentation", num_classes=150, upsample="bilinear", **options).eval()
    made.load_state_dict(random_state(made.state_dict()))
    for module in (m for m in made.head.modules() if isinstance(m, torch.nn.Sequential)):  # type: ignore[union-attr]
        if len(module) > 1 and module[0].bias is not None:
            torch.nn.init.zeros_(module[0].bias)
    state = layouts.mmsegmentation(made.state_dict())
    model, report = load_model({"state_dict": state | {"auxiliary_head.conv_seg.bias": torch.zeros(150)}})
    assert report.format == "mmsegmentation"
    assert not report.fresh
    assert not report.unexpected
    head: Any = model.head
    assert not head.align_corners
    assert (model.info.input_spec.channel_order, model.info.input_spec.size) == ("RGB", (512, 512))
    again, _ = load_model(save_checkpoint(model, tmp_path / "x.safetensors"))
    x = torch.randn(1, 3, 65, 97)
    with torch.inference_mode():
        assert torch.equal(model(x), made(x))
        assert torch.equal(again(x), made(x))
    with pytest.raises(CheckpointError, match=r"not in the model: decode_head\.conv_cat\.conv\.weight"):
        load_model(state | {"decode_head.conv_cat.conv.weight": torch.zeros(3)})
