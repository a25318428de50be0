from __future__ import annotations

import pickle

import pytest

from hrformer.data.set_types import PackedNames

NAMES = ["cat/a.jpg", "", "größe.png", "odd\udcff.jpg", "z"]


def test_packed_names_are_the_list_they_were_made_of() -> None:
    packed = pickle.loads(pickle.dumps(PackedNames(iter(NAMES))))
    assert list(packed) == NAMES
    assert (packed[-1], packed[1]) == ("z", "")
    assert len(PackedNames([])) == 0
    with pytest.raises(IndexError):
        packed[5]
