"""Numbers in COCO's JSON as tools write them."""

import json
from pathlib import Path
from typing import Any

import pytest

from hrformer.data.coco_fields import number, read_json, whole
from hrformer.data.set_types import DataError


@pytest.mark.parametrize("value", [7, 7.0, "7", "7.0"])
def test_whole_numbers_in_any_dress(value: Any) -> None:
    assert whole({"id": value}, "id", "a.json: image 0") == 7
    assert number({"id": value}, "id", "a.json: image 0") == 7.0
    assert whole({"id": "123456789012345678901234567890"}, "id") == 123456789012345678901234567890


@pytest.mark.parametrize("value", [None, 1.5, "a", True, [1], float("nan"), float("inf"), {}])
def test_what_is_no_whole_number_is_named(value: Any) -> None:
    with pytest.raises(DataError, match=r"a\.json: image 3: 'id' must be a whole number, got"):
        whole({"id": value}, "id", "a.json: image 3")


def test_byte_order_marks_are_read_over(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"a": 1, "segmentation": []}), encoding="utf-8-sig")
    assert read_json(tmp_path / "a.json", shorten=("segmentation",)) == {"a": 1, "segmentation": False}
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DataError, match=r"a\.json is not JSON"):
        read_json(tmp_path / "a.json")


def test_encodings(tmp_path: Path) -> None:
    file, text = tmp_path / "a.json", json.dumps({"name": "Köln"}, ensure_ascii=False)
    for encoding in ("utf-16", "utf-8-sig"):
        file.write_bytes(text.encode(encoding))
        assert read_json(file) == {"name": "Köln"}
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.json has other than UTF-8 text at byte 11, .*xf6'; save it with .*UTF-8"):
        read_json(file)
    for nothing in (b"", b" \n"):
        file.write_bytes(nothing)
        with pytest.raises(DataError, match=r"a\.json is empty"):
            read_json(file)
