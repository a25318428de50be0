"""Roots that are one folder too deep or too high are told from those that hold something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from hrformer.data.places import advising, better_root
from hrformer.data.set_types import DataError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """``sets/birds/images``, and a folder beside them."""
    (tmp_path / "sets" / "birds" / "images").mkdir(parents=True)
    (tmp_path / "sets" / "other").mkdir()
    return tmp_path / "sets"


def test_too_deep_and_too_high(tree: Path) -> None:
    assert better_root(tree / "birds", ["labels", "birds/images"]) == (tree, "birds/images")
    assert better_root(tree.parent, ["birds/images"]) == (tree, "birds/images")


def test_right_or_unknown(tree: Path) -> None:
    assert better_root(tree, ["labels", "birds/images"]) is None
    assert better_root(tree / "birds", ["elsewhere"]) is None
    assert better_root(tree / "gone", ["birds/images"]) is None
    # An empty name, or a wildcard at the start, would fit every folder.
    assert better_root(tree / "birds", ["", "*.tar", "/birds"]) is None


def test_patterns_count_up_to_the_first_wildcard(tree: Path) -> None:
    assert better_root(tree / "other", ["birds/{000..146}.tar"]) == (tree, "birds")


def test_advice_is_added(tree: Path) -> None:
    with (
        pytest.raises(DataError, match=r"^gone\. PoseSource\.root should be .*sets, the folder that holds birds$"),
        advising("PoseSource.root", tree / "other", ["birds"]),
    ):
        raise DataError("gone")
    with pytest.raises(DataError, match=r"^gone$"), advising("PoseSource.root", tree, ["birds"]):
        raise DataError("gone")
