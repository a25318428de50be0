"""Entries agree with their publishers' tables, bundled files are read from their headers, errors help."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from hrformer.checkpoints import registry
from hrformer.checkpoints.registry import Origin, Task, WeightEntry, find_weights, list_weights
from hrformer.geometry.input_spec import InputSpec
from hrformer.geometry.skeletons import LSPET14
from hrformer.zoo import list_models


@pytest.fixture(params=registry.list_published(), ids=lambda entry: entry.name)
def published(request: pytest.FixtureRequest) -> WeightEntry:
    entry = request.param
    assert isinstance(entry, WeightEntry)
    return entry


def bundle(folder: Path, name: str, **overrides: str) -> Path:
    """Write a weight file with the header ``save_checkpoint`` gives the package's own weights."""
    info = {
        "class_names": ["cat", "dog", "bird"],
        "skeleton": None,
        "input_spec": InputSpec(size=(32, 48), interpolation="bicubic").to_dict(),
        "decoder": "official",
        "dataset": "CIFAR-10",
        "source": "hrformer",
    }
    metadata = {
        "format": "hrformer",
        "format_version": "1",
        "model": "hrformer_nano",
        "task": "classification",
        "options": json.dumps({"num_classes": 3, "position_bias": True}),
        "info": json.dumps(info),
        "score": "top-1 71.5 on 10,000 test images",
        "licence": "Apache-2.0",
    }
    path = folder / f"{name}.safetensors"
    save_file({"weight": torch.zeros(2, dtype=torch.float16)}, path, metadata=metadata | overrides)
    return path


def test_names_and_cache_files_are_unique() -> None:
    entries = list_weights()
    assert len({entry.name for entry in entries}) == len(entries)
    assert len({entry.filename for entry in entries}) == len(entries)


def test_every_mmpose_file_of_the_recipes_is_listed() -> None:
    """The hash prefixes of recipes.md 5.1, HRFormer and HRNet."""
    prefixes = "09516375 32815020 5310d898 98d237ed 6f5f1169 ecf0758d b657896f 4b52b078 66cee214"
    prefixes += " 81c58e40 ca5956af 0e67c616 c161b7de"
    listed = {entry.sha256_prefix for entry in list_weights() if entry.origin == "mmpose"}
    assert listed == set(prefixes.split())


def test_hash_prefix_is_the_one_in_the_file_name(published: WeightEntry) -> None:
    if published.origin in ("mmpose", "torchvision"):
        assert published.sha256_prefix is not None
    if published.sha256_prefix is not None:
        assert re.fullmatch(r"[0-9a-f]{8}", published.sha256_prefix)
        assert published.sha256_prefix in published.filename


def test_every_entry_states_terms_source_and_protocol(published: WeightEntry) -> None:
    assert published.origin in get_args(Origin)
    assert published.task is None or published.task in get_args(Task)
    assert re.search(r"Apache-2\.0|MIT|BSD-3-Clause", published.licence)
    assert "ImageNet" in published.licence
    assert published.source
    assert re.search(r"\d\d\.\d", published.score)
    assert published.dataset
    assert published.url.startswith(("https://", "hf://timm/"))


def test_model_is_one_somebody_can_build(published: WeightEntry) -> None:
    if published.task == "detection":
        assert published.model in torchvision.models.list_models(torchvision.models.detection)
    elif published.model not in list_models():
        assert timm.is_model(published.model)


def test_input_size_is_the_one_in_the_name(published: WeightEntry) -> None:
    if match := re.search(r"(\d{3})x(\d{3})", published.name):
        assert published.input_spec.size == (int(match[1]), int(match[2]))
        assert f"{match[1]}x{match[2]}" in published.filename
    if published.task == "pose":
        assert (published.num_classes, published.decoder) == (17, "mmpose")


@pytest.mark.parametrize("published", [e for e in registry.list_published() if e.origin == "timm"], indirect=True)
def test_timm_entries_agree_with_timm(published: WeightEntry) -> None:
    location = published.hub_location
    assert location is not None
    timm_name = location[0].removeprefix("timm/")
    config = timm.models.get_pretrained_cfg(timm_name, allow_unregistered=False)
    assert config is not None
    spec = published.input_spec
    assert config.hf_hub_id == location[0]
    assert config.input_size == (3, *spec.size)
    assert (config.crop_pct, config.interpolation) == (spec.crop_ratio, spec.interpolation)
    assert (config.mean, config.std) == (spec.mean, spec.std)
    assert config.num_classes == published.num_classes
    assert str(config.license) in published.licence.lower()


@pytest.mark.parametrize(
    "published", [e for e in registry.list_published() if e.origin == "torchvision"], indirect=True
)
def test_detectors_agree_with_torchvision(published: WeightEntry) -> None:
    weights = torchvision.models.get_model_weights(published.model)["COCO_V1"]
    assert weights.url == published.url
    assert len(weights.meta["categories"]) == published.num_classes
    for value in weights.meta["_metrics"]["COCO-val2017"].values():
        assert str(value) in published.score


def test_position_bias_is_stated_for_hrformer_only() -> None:
    by_name = {entry.name: entry for entry in list_weights()}
    assert by_name["hrformer_base_coco_256x192"].position_bias is True
    assert by_name["hrformer_base_coco_256x192_no_bias"].position_bias is False
    assert by_name["hrnet_w32_coco_256x192"].position_bias is None
    for entry in registry.list_published():
        assert (entry.position_bias is not None) == entry.name.startswith("hrformer")


def test_hub_files_are_told_apart_in_the_cache() -> None:
    entry = find_weights("hrnet_w18_ms_in1k")
    assert entry.hub_location == ("timm/hrnet_w18.ms_in1k", "model.safetensors")
    assert entry.filename == "hrnet_w18_ms_in1k.safetensors"
    assert find_weights("hrnet_w32_imagenet").hub_location is None


def test_bundled_entry_repeats_the_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle(tmp_path, "hrformer_tiny_things")
    monkeypatch.setattr(registry, "bundled_folder", lambda: tmp_path)
    entry = find_weights("hrformer_tiny_things")
    assert (entry.model, entry.task, entry.origin) == ("hrformer_nano", "classification", "bundled")
    assert (entry.num_classes, entry.position_bias, entry.dataset) == (3, True, "CIFAR-10")
    assert entry.input_spec == InputSpec(size=(32, 48), interpolation="bicubic")
    assert entry.score == "top-1 71.5 on 10,000 test images"
    assert list_weights()[0] == entry


def test_bundled_pose_counts_keypoints(tmp_path: Path) -> None:
    info = {"skeleton": LSPET14.to_dict(), "class_names": [], "input_spec": InputSpec().to_dict()}
    options = json.dumps({"num_keypoints": 14})
    bundle(tmp_path, "hrformer_tiny_people17", task="pose", options=options, info=json.dumps(info))
    (entry,) = registry.list_bundled(tmp_path)
    assert entry.num_classes == 14


def test_bundled_folder_is_inside_the_package() -> None:
    assert registry.bundled_folder() == Path(registry.__file__).parents[1] / "weights"
    for entry in registry.list_bundled():
        assert (registry.bundled_folder() / entry.filename).is_file()


def test_foreign_file_among_the_bundled_ones_is_an_error(tmp_path: Path) -> None:
    bundle(tmp_path, "stranger", format="pt")
    with pytest.raises(ValueError, match=r"stranger\.safetensors has no hrformer metadata.*'pt'"):
        registry.list_bundled(tmp_path)


@pytest.mark.parametrize(
    ("typed", "suggested"),
    [
        ("hrformer_smal_coco_256x192", "hrformer_small_coco_256x192"),
        ("hrformer_base", "hrformer_base_coco_384x288"),
        ("hrnet_w18.ms_in1k", "hrnet_w18_ms_in1k"),
        ("fasterrcnn_resnet50_fpn_v2", "fasterrcnn_resnet50_fpn_v2_coco"),
    ],
)
def test_unknown_name_suggests_close_ones(typed: str, suggested: str) -> None:
    with pytest.raises(ValueError, match=rf"no weights are called '{re.escape(typed)}'.*{suggested}\b"):
        find_weights(typed)


@pytest.mark.parametrize("typed", ["hrformer_tiny_imagenet", "hrformer_base_ocr_cityscapes", "https://1drv.ms/u/s!Ab"])
def test_authors_files_come_with_directions(typed: str) -> None:
    with pytest.raises(ValueError, match=r"OneDrive.*github\.com/HRNet/HRFormer and pass the path of the local file"):
        find_weights(typed)


def test_directions_only_where_they_help() -> None:
    with pytest.raises(ValueError, match="no weights are called 'resnet50'") as caught:
        find_weights("resnet50")
    assert "OneDrive" not in str(caught.value)


def test_official_downloads_avoid_links_that_need_a_browser() -> None:
    assert not [
        entry.name for entry in list_weights() if re.search(r"1drv|onedrive|pan\.baidu|drive\.google", entry.url)
    ]
