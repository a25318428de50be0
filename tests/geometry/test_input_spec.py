"""The input contract checks itself and survives JSON."""

from __future__ import annotations

import json

import pytest

from hrformer.geometry.input_spec import InputSpec


def test_dict_round_trip_through_json() -> None:
    spec = InputSpec(size=(520, 520), channel_order="BGR", interpolation="bicubic", crop_ratio=1.0)
    assert InputSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": (0, 4)}, "size"),
        ({"std": (1.0, 0.0, 1.0)}, "std"),
        ({"channel_order": "GBR"}, "channel_order"),
        ({"interpolation": "lanczos"}, "interpolation"),
        ({"crop_ratio": 1.5}, "crop_ratio"),
        ({"colour": 1}, "colour"),
    ],
)
def test_wrong_values_are_named(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InputSpec.from_dict(values)
