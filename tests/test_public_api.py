"""The public interface, frozen: a change here is a change for every user, so it is made on purpose and noted."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys

import pytest

import hrformer

PUBLIC = [
    "Classification",
    "InputSpec",
    "Keypoints",
    "Segmentation",
    "__version__",
    "create_model",
    "export",
    "list_models",
    "load",
    "load_checkpoint",
    "optimize",
]

# Parameters as called; types and values of defaults may grow, names, order and kind may not change.
SIGNATURES = {
    "create_model": "name, task=, *, num_classes=, num_keypoints=, window_size=, skeleton=, **options",
    "list_models": "",
    "load": "name_or_path, device=, *, dtype=, fast=, precision=, **overrides",
    "export": ("model, path, *, to=, graph=, precision=, pictures=, weights=, licence=, score=, told=, **options"),
    "optimize": "model, *, backend=, threads=, precision=, cache=",
    "load_checkpoint": (
        "model, source, *, position_bias=, upsample=, channel_order=, input_size=, decoder=, published=, strict="
    ),
    "InputSpec": "*, size=, mean=, std=, channel_order=, interpolation=, crop_ratio=",
    "Classification": "*, image, labels, probabilities, class_ids, path=",
    "Keypoints": "*, image, keypoints, scores, boxes, box_scores, names, skeleton=, path=",
    "Segmentation": "*, image, mask, class_names=, palette=, path=",
}


def shown(function: object) -> str:
    """A signature without types, and with defaults left empty."""
    parts, starred = [], False
    for p in inspect.signature(function).parameters.values():
        if p.kind is p.KEYWORD_ONLY and not starred:
            parts, starred = [*parts, "*"], True
        prefix = {p.VAR_KEYWORD: "**", p.VAR_POSITIONAL: "*"}.get(p.kind, "")
        starred = starred or p.kind is p.VAR_POSITIONAL
        parts.append(prefix + p.name + ("" if p.default is p.empty else "="))
    return ", ".join(parts)


def test_public_names() -> None:
    assert sorted({*hrformer.__all__, "__version__"}) == PUBLIC


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    assert shown(getattr(hrformer, name)) == SIGNATURES[name]


def test_every_public_name_has_its_signature_frozen() -> None:
    assert {name for name in PUBLIC if callable(getattr(hrformer, name))} == set(SIGNATURES)


@pytest.mark.parametrize("name", SIGNATURES)
def test_public_names_are_documented(name: str) -> None:
    documented = inspect.getdoc(getattr(hrformer, name)) or ""
    assert len(documented) > 20
    assert not documented.startswith(f"{name}("), "a docstring of its own, not the one dataclasses make"


def test_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+([a-z]+\d+)?", hrformer.__version__)


def test_tasks() -> None:
    for task in ("classification", "pose", "segmentation", None):
        assert hrformer.create_model("hrformer_nano", task).task == task


@pytest.mark.parametrize(
    ("name", "draw"),
    [("Classification", "self"), ("Keypoints", "self, *, joint_threshold=, min_score="), ("Segmentation", "self")],
)
def test_results_share_their_methods(name: str, draw: str) -> None:
    result = getattr(hrformer, name)
    assert dataclasses.is_dataclass(result)
    assert (shown(result.to_dict), shown(result.save), shown(result.draw)) == ("self", "self, path", draw)


def test_input_spec_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        hrformer.InputSpec().size = (1, 1)
    assert hrformer.InputSpec.from_dict(hrformer.InputSpec().to_dict()) == hrformer.InputSpec()


def test_slow_packages_load_when_they_are_needed() -> None:
    """Each takes up to a second: timm for its own models, torchvision for detectors and training."""
    slow = {"timm", "torchvision", "sympy", "matplotlib", "rich", "tyro", "huggingface_hub"}
    script = f"import sys, hrformer; print({slow} & {{*sys.modules}})"
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert finished.stdout == "set()\n"
