"""Names and shapes of every weight are part of the file format: files saved today must load tomorrow."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from hrformer.zoo import create_model

NAMES_FILE = Path(__file__).with_name("hrformer_nano_names.txt")

# Entries of the state dict, and the first 16 digits of the SHA-256 of their sorted "name shape" lines.
FROZEN = {
    ("hrformer_nano", "classification"): (1005, "f6fcd4231844213e"),
    ("hrformer_nano", "pose"): (722, "326bb0afc09af69b"),
    ("hrformer_nano", "segmentation"): (925, "e0575237b284ff17"),
    ("hrformer_tiny", "classification"): (1893, "9cf6865e8558a289"),
    ("hrformer_tiny", "pose"): (1610, "8f200233fbcbf7fc"),
    ("hrformer_tiny", "segmentation"): (1813, "e646ad0a283ab528"),
    ("hrformer_small", "classification"): (2139, "176c200d7b3719b7"),
    ("hrformer_small", "pose"): (1856, "d6ecafddf539a189"),
    ("hrformer_small", "segmentation"): (2059, "6e3c6a8ba632aa68"),
    ("hrformer_base", "classification"): (2139, "2b94ab6b40025041"),
    ("hrformer_base", "pose"): (1856, "4ffa4d795c0831e2"),
    ("hrformer_base", "segmentation"): (2059, "b898bfb9dc4dfab5"),
    ("hrnet_w18", "classification"): (1956, "8a69ddca2744967d"),
    ("hrnet_w18", "pose"): (1754, "560e17afe0d5ad66"),
    ("hrnet_w18", "segmentation"): (1897, "ad542a985d8a6001"),
    ("hrnet_w32", "classification"): (1956, "452d6a7cadbb9c3e"),
    ("hrnet_w32", "pose"): (1754, "cb6c9639a8e90629"),
    ("hrnet_w32", "segmentation"): (1897, "d95fd7b37a93e4da"),
    ("hrnet_w48", "classification"): (1956, "b1a02000a8e00541"),
    ("hrnet_w48", "pose"): (1754, "683506f70d80d652"),
    ("hrnet_w48", "segmentation"): (1897, "4a50ff594acd9745"),
}


def lines(name: str, task: str | None) -> list[str]:
    with torch.device("meta"):
        state = create_model(name, task).state_dict()
    return sorted(f"{key} {'x'.join(map(str, value.shape)) or 'scalar'}" for key, value in state.items())


@pytest.mark.parametrize(("name", "task"), FROZEN)
def test_names_and_shapes_are_frozen(name: str, task: str) -> None:
    found = lines(name, task)
    digest = hashlib.sha256("\n".join(found).encode()).hexdigest()[:16]
    assert (len(found), digest) == FROZEN[name, task]


@pytest.mark.parametrize("task", ["classification", "pose", "segmentation"])
def test_nano_in_full(task: str) -> None:
    """The same for one model, readable: which names came or went. Head names follow the task in brackets."""
    expected = []
    for line in NAMES_FILE.read_text().splitlines():
        names, _, of_task = line.partition(" [")
        if of_task in ("", f"{task}]") or (of_task == "not pose]" and task != "pose"):
            expected.append(names)
    assert lines("hrformer_nano", task) == sorted(expected)


def test_windows_change_only_the_tables() -> None:
    plain, wide = lines("hrformer_tiny", None), lines("hrformer_tiny_window13", None)
    changed = [(a, b) for a, b in zip(plain, wide, strict=True) if a != b]
    assert len(changed) == 2 * (1 * 2 + 3 * 3 + 2 * 4), "blocks: modules x branches, two each"
    assert all("relative_position_bias_table 169x" in a and "table 625x" in b for a, b in changed)


def test_position_bias_is_no_matter_of_names() -> None:
    with torch.device("meta"):
        on, off = (create_model("hrformer_nano", "pose", position_bias=b).state_dict() for b in (True, False))
    assert list(on) == list(off)
