"""Files in COCO's form (https://cocodataset.org/#format-data) as labelling tools write them: their JSON with numbers as
text or with a decimal point, their pictures and their categories. Whatever is not what it should be raises a
``DataError`` that names file, record and field.

From here on ``coco_people`` makes arrays of people, ``coco_labels`` puts them right, and ``pose_sets`` opens them;
``coco_masks`` draws outlines. Both compare sizes in ``turned_labels`` and find files in ``coco_pictures``.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrformer.data.set_types import DataError
from hrformer.wording import counted

_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")
_NOT_NEEDED = ("coco_url", "flickr_url", "date_captured")


def read_json(file: Path, *, shorten: tuple[str, ...] = ()) -> Any:
    """Content of a JSON file in UTF-8, with or without a byte-order mark, or in UTF-16 with one.

    Of the fields ``shorten`` only whether they hold anything is kept, True or False, in every record.
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
        found = error.object[error.start : error.end]
        raise DataError(
            f"{file} has other than UTF-8 text at byte {error.start}, {found!r}; save it with the encoding UTF-8"
        ) from error
    except (json.JSONDecodeError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and not error.doc.strip():
            raise DataError(f"{file} is empty; write or export it again") from error
        raise DataError(f"{file} is not JSON: {error}") from error


def read_content(file: Path, *, outlines: bool = False) -> dict[str, Any]:
    """Content of a file in COCO's form; without ``outlines``, most of COCO's files, only whether a record has one."""
    content = read_json(file, shorten=() if outlines else ("segmentation",))
    if not isinstance(content, dict):
        raise DataError(f"{file} is not in COCO's format: it must hold 'images', 'annotations' and 'categories'")
    return content


@contextmanager
def told_of(file: object) -> Iterator[None]:
    """Names the file, or the file and the record in it, in a ``DataError`` of the context."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{file}: {error}") from error


def whole(record: Mapping[str, Any], field: str, where: str = "", default: int | None = None) -> int:
    """A whole number, also written as ``1.0`` or ``"1"``, of any size; ``default`` where it is missing or null.

    ``where`` is file and record for the message, such as "train.json: annotation 7"; empty where a caller adds them.
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
            value = as_number(value)
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
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return math.nan
    try:
        return float(value)
    except ValueError:
        return math.nan
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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pictures:
    """M pictures in the order of the file.

    Attributes:
        ids: of any size.
        names: of their files.
        sizes: (M, 2) (width, height) as the file has them; 0 where it does not say.
    """

    ids: tuple[int, ...]
    names: list[str]
    sizes: NDArray[np.int64]

    def places(self) -> dict[int, int]:
        """Place in the file by id."""
        return {number: place for place, number in enumerate(self.ids)}


def list_of(content: Mapping[str, Any], key: str, file: str) -> list[Any]:
    """One of the lists of a file."""
    rows = content.get(key)
    if not isinstance(rows, list | tuple):
        raise DataError(f"{file} is not in COCO's format: {key!r} must be a list, got {shown(content, key)}")
    for place, one in enumerate(rows):
        if type(one) is not dict and not isinstance(one, Mapping):
            raise DataError(
                f"{file}: entry {place} of {key!r} must be an object such as {{'id': 1, ...}}, got {one!r:.80}"
            )
    return list(rows)


def read_pictures(content: Mapping[str, Any], file: str, *, named: bool = True, sized: bool = True) -> Pictures:
    """Read ``images``; without ``named`` they may lack names, without ``sized`` what is no size counts as not said."""
    images = list_of(content, "images", file)
    if not images:
        raise DataError(f"{file}: 'images' must hold at least one picture")
    ids, names, sizes = [], [], []
    for place, image in enumerate(images):
        where, name = f"{file}: entry {place} of 'images'", image.get("file_name")
        if not (isinstance(name, str) and name.strip()) and (named or name is not None):
            raise DataError(f"{where}: 'file_name' must be a name, got {shown(image, 'file_name')}")
        names.append(name or "")
        ids.append(whole(image, "id", where))
        for field in ("width", "height"):
            value = image.get(field)
            side = 0.0 if value is None else as_number(value)
            known = 0 <= side < 2**31 and side.is_integer()
            if sized and not known:
                raise DataError(
                    f"{where}: {field!r} must be a number of pixels, got {shown(image, field)}; leave it out, and the "
                    "picture's own counts"
                )
            sizes.append(int(side) if known else 0)
    twice, times = Counter(ids).most_common(1)[0]
    if times > 1:
        raise DataError(f"{file}: each of 'images' must have an id of its own, {twice} occurs more than once")
    return Pictures(ids=tuple(ids), names=names, sizes=np.array(sizes).reshape(-1, 2))


def read_categories(content: Mapping[str, Any], file: str) -> list[dict[str, Any]]:
    """All categories, with whole numbers as ids and in ``skeleton``; person where the file has none."""
    entries = list_of(content, "categories", file) if content.get("categories") not in (None, []) else []
    categories = []
    for place, one in enumerate(entries or [{"id": 1, "name": "person"}]):
        where = f"{file}: entry {place} of 'categories'"
        joints = one.get("keypoints")
        if joints is not None and not isinstance(joints, list | tuple):
            raise DataError(f"{where}: 'keypoints' must be a list of joint names, got {shown(one, 'keypoints')}")
        categories.append({**one, "id": whole(one, "id", where), "skeleton": _limbs(one.get("skeleton"))})
    if len({one["id"] for one in categories}) != len(categories):
        raise DataError(f"{file}: each of 'categories' must have an id of its own")
    return categories


def people_categories(
    content: Mapping[str, Any], file: str, chosen: str = "", num_keypoints: int | None = None
) -> list[dict[str, Any]]:
    """The categories whose people are looked at, with whole numbers as ids.

    ``chosen`` is name or id of the only one; empty takes those with joints, of several kinds those of ``num_keypoints``
    where that is known, or where none names joints the one called person.
    """
    categories = read_categories(content, file)
    if chosen:
        named = [one for one in categories if _name(one) == chosen]
        named = named or [one for one in categories if str(one["id"]) == chosen]
        if named:
            return named[:1]
        names = ", ".join(f"{_name(one)} ({counted(len(one.get('keypoints') or ()), 'joint')})" for one in categories)
        raise DataError(f"{file} has no category {chosen!r}, PoseSource.category must be one of: {names}")
    jointed = [one for one in categories if one.get("keypoints")]
    fitting = [one for one in jointed if num_keypoints in (None, len(one["keypoints"]))] or jointed
    if any(one["keypoints"] != fitting[0]["keypoints"] for one in fitting):
        names = ", ".join(map(_name, fitting))
        raise DataError(
            f"{file}: the categories {names} have different joints, and a model has one list of joints; "
            f"PoseSource.category NAME takes one of {names}"
        )
    return fitting or [next((one for one in categories if one.get("name") == "person"), categories[0])]


def _name(category: Mapping[str, Any]) -> str:
    return str(category.get("name") or category["id"])


def _limbs(limbs: Any) -> Any:
    """Pairs of joints with whole numbers where they are written otherwise; whatever else as it is."""
    if not isinstance(limbs, list | tuple) or not all(isinstance(limb, list | tuple) for limb in limbs):
        return limbs
    ends = [[as_number(end) for end in limb] for limb in limbs]
    whole_ends = all(end.is_integer() for limb in ends for end in limb)
    return [[int(end) for end in limb] for limb in ends] if whole_ends else limbs
