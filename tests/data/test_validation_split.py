"""A split that stays: by the picture's name, near the share, and never empty."""

from __future__ import annotations

import pytest

from hrformer.data.source_config import ClassificationSource, PoseSource, SegmentationSource
from hrformer.data.validation_split import kept_for_validation

NAMES = [f"images/{number:04d}.jpg" for number in range(1000)]


def kept(names: list[str], share: float) -> set[str]:
    return {names[place] for place in kept_for_validation(names, share)}


def test_a_picture_added_moves_no_other() -> None:
    before = kept(NAMES[:900], 0.2)
    assert 150 <= len(before) <= 210
    assert kept(NAMES, 0.2) & set(NAMES[:900]) == before
    assert kept(NAMES[:900][::-1], 0.2) == before
    # Written down, since another split than yesterday's would show what was learned by heart.
    assert kept_for_validation(NAMES[:20], 0.2) == [0, 6, 7, 12, 16]


@pytest.mark.parametrize("count", range(2, 60))
@pytest.mark.parametrize("share", [0.01, 0.1, 0.2, 0.5, 0.9])
def test_few_pictures_come_near_the_share(count: int, share: float) -> None:
    found = len(kept(NAMES[:count], share))
    assert 1 <= found < count
    assert 0.75 * share * count - 1 < found <= max(1.25 * share * count, 1)


def test_groups_are_split_each() -> None:
    groups = [place % 7 for place in range(35)] + [7]
    found = kept_for_validation([*NAMES[:35], "single"], 0.2, groups)
    assert sorted(groups[place] for place in found) == [*range(7)]
    assert kept_for_validation(["a"], 0.2) == []


def test_copies_stay_together() -> None:
    names = [f"{name}_jpg.rf.{copy}.jpg" for name in "abcdefgh" for copy in ("0a1B", "77ff", "c0de")]
    found = kept_for_validation(names, 0.25)
    assert 0 < len(found) < 24
    assert {place // 3 for place in found} == {place // 3 for place in found if place % 3 == 0}
    assert len(found) == 3 * len({place // 3 for place in found})


@pytest.mark.parametrize("kind", [ClassificationSource, PoseSource, SegmentationSource])
@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_shares_are_checked(kind, share: float) -> None:
    with pytest.raises(ValueError, match=rf"{kind.__name__}\.val_share must be in \[0, 1\)"):
        kind(val_share=share)
