"""Fields of COCO's JSON (https://cocodataset.org/#format-data) as labelling tools write them: numbers as text or with a
decimal point, byte-order marks. Whatever is not what it should be is an error that names file, record and field.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hrformer.data.set_types import DataError

_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")
_NOT_NEEDED = ("coco_url", "flickr_url", "date_captured")


def read_json(file: Path, *, shorten: tuple[str, ...] = ()) -> Any:
    """Content of a JSON file in UTF-8, with or without a byte-order mark, or in UTF-16 with one.

    Args:
        file: to read.
        shorten: fields of which only whether they hold anything is kept, True or False, in every record.

    Raises:
        DataError: it cannot be read, or is not JSON.
    """

    def needed(record: dict[str, Any]) -> dict[str, Any]:
        for key in _NOT_NEEDED:
            record.pop(key, None)
        for key in shorten:
            if key in record:
                record[key] = bool(record[key])
        return record

    try:
        with file.open("rb") as binary:
            wide = binary.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        with file.open(encoding="utf-16" if wide else "utf-8-sig") as stream:
            return json.load(stream, object_hook=needed)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} has other than UTF-8 text at byte {error.start}, {error.object[error.start : error.end]!r}; save "
            "it with the encoding UTF-8"
        ) from error
    except (json.JSONDecodeError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and not error.doc.strip():
            raise DataError(f"{file} is empty; write or export it again") from error
        raise DataError(f"{file} is not JSON: {error}") from error


@contextmanager
def told_of(file: str) -> Iterator[None]:
    """Names the file in errors that name record and field only.

    Raises:
        DataError: whatever the context raised, with the file before it.
    """
    try:
        yield
    except DataError as error:
        raise DataError(f"{file}: {error}") from error


def whole(record: Mapping[str, Any], field: str, where: str = "", default: int | None = None) -> int:
    """A whole number, also written as ``1.0`` or ``"1"``, of any size.

    Args:
        record: that holds it.
        field: its name.
        where: file and record for the message, such as "train.json: annotation 7"; empty where a caller adds them.
        default: where the field is missing or null; None makes that an error.

    Raises:
        DataError: it is missing without a default, or no whole number.
    """
    value = record.get(field)
    if type(value) is int:
        return value
    if value is None and default is not None:
        return default
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            value = _float(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise DataError(f"{where}{': ' * bool(where)}{field!r} must be a whole number, got {shown(record, field)}")


def number(record: Mapping[str, Any], field: str, where: str = "") -> float:
    """A finite number, also as text; arguments and errors as in :func:`whole`."""
    found = as_number(record.get(field))
    if math.isfinite(found):
        return found
    raise DataError(f"{where}{': ' * bool(where)}{field!r} must be a finite number, got {shown(record, field)}")


def as_number(value: Any) -> float:
    """A number, also as text; NaN for whatever is none."""
    if isinstance(value, str):
        value = _float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def number_or_nan(value: Any) -> float | None:
    """A number, also as text; NaN for null and for the NaN of JSON or spelt so; None for whatever else is none."""
    found = as_number(value)
    lacking = value is None or isinstance(value, float) or (isinstance(value, str) and value.strip().lower() == "nan")
    return None if math.isnan(found) and not lacking else found


def flat_joints(joints: Any) -> Any:
    """Joints nested as ``[[x, y, flag], ...]`` in one list, as COCO has them; whatever else as it is."""
    if not isinstance(joints, (list, tuple)) or not joints or not isinstance(joints[0], (list, tuple)):
        return joints
    nested = all(isinstance(joint, (list, tuple)) and len(joint) == 3 for joint in joints)
    return [value for joint in joints for value in joint] if nested else joints


def shown(record: Mapping[str, Any], field: str) -> str:
    """What a field holds, in a few words for a message."""
    return said(record[field]) if field in record else "nothing"


def said(value: Any) -> str:
    """A value in a few words for a message, with what to write instead of decimal commas."""
    parts = value if isinstance(value, list | tuple) else [value]
    commas = [one.strip() for one in parts if isinstance(one, str) and _COMMA.fullmatch(one)]
    return f"{value!r:.80}" + (f" (numbers have a decimal point: {commas[0].replace(',', '.')})" if commas else "")


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
