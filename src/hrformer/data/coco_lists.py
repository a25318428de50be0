"""Pictures and categories of a file in COCO's form, in whatever way tools write their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrformer.data.coco_fields import as_number, shown, whole
from hrformer.data.sets import DataError
from hrformer.wording import counted


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
    """One of the lists of a file.

    Raises:
        DataError: it is no list.
    """
    rows = content.get(key)
    if not isinstance(rows, list | tuple):
        raise DataError(f"{file} is not in COCO's format: {key!r} must be a list, got {shown(content, key)}")
    return list(rows)


def read_pictures(images: Sequence[Any], file: str, *, named: bool = True) -> Pictures:
    """Read ``images``.

    Args:
        images: the list.
        file: what to call the file.
        named: whether each needs a ``file_name``.

    Raises:
        DataError: an entry lacks an id or a name, or holds something else; names file, entry and field.
    """
    ids: list[int] = []
    names: list[str] = []
    sizes: list[int] = []
    for place, image in enumerate(images):
        if not isinstance(image, Mapping):
            raise DataError(
                f"{file}: entry {place} of 'images' must be an object with 'id' and 'file_name', got {image!r:.80}"
            )
        number, name = image.get("id"), image.get("file_name")
        ids.append(number if type(number) is int else whole(image, "id", _entry(file, place)))
        if not named and name is None:
            name = ""
        elif not isinstance(name, str) or not name:
            raise DataError(f"{_entry(file, place)}: 'file_name' must be a name, got {shown(image, 'file_name')}")
        names.append(name)
        for field in ("width", "height"):
            value = image.get(field)
            side = 0.0 if value is None else as_number(value)
            if not (0 <= side < 2**31 and side.is_integer()):
                raise DataError(
                    f"{_entry(file, place)}: {field!r} must be a number of pixels, got {shown(image, field)}; leave it "
                    "out, and the picture's own counts"
                )
            sizes.append(int(side))
    if not ids:
        raise DataError(f"{file}: 'images' must hold at least one picture")
    if len(set(ids)) != len(ids):
        seen: set[int] = set()
        twice = next(number for number in ids if number in seen or seen.add(number))  # type: ignore[func-returns-value]
        raise DataError(f"{file}: each of 'images' must have an id of its own, {twice} occurs more than once")
    return Pictures(ids=tuple(ids), names=names, sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2))


def people_categories(
    content: Mapping[str, Any], file: str, chosen: str = "", num_keypoints: int | None = None
) -> list[dict[str, Any]]:
    """The categories whose people are looked at, with whole numbers as ids.

    Args:
        content: of the file.
        file: what to call it.
        chosen: name or id of the only one; empty takes those with joints, or where none names joints the one called
            person.
        num_keypoints: of several kinds of joints take those of so many, where that is known.

    Raises:
        DataError: an entry is not as it should be, ``chosen`` is none of them, or their joints differ.
    """
    found = content.get("categories")
    entries = list_of(content, "categories", file) if found not in (None, []) else [{"id": 1, "name": "person"}]
    categories = []
    for place, one in enumerate(entries):
        where = f"{file}: entry {place} of 'categories'"
        if not isinstance(one, Mapping):
            raise DataError(f"{where} must be an object with 'id', 'name' and 'keypoints', got {one!r:.80}")
        joints = one.get("keypoints")
        if joints is not None and not isinstance(joints, list | tuple):
            raise DataError(f"{where}: 'keypoints' must be a list of joint names, got {shown(one, 'keypoints')}")
        categories.append({**one, "id": whole(one, "id", where), "skeleton": _limbs(one.get("skeleton"))})
    if len({one["id"] for one in categories}) != len(categories):
        raise DataError(f"{file}: each of 'categories' must have an id of its own")
    if chosen:
        return _chosen(categories, chosen, file)
    jointed = [one for one in categories if one.get("keypoints")]
    fitting = [one for one in jointed if num_keypoints in (None, len(one["keypoints"]))] or jointed
    if any(one["keypoints"] != fitting[0]["keypoints"] for one in fitting):
        names = ", ".join(_name(one) for one in fitting)
        raise DataError(
            f"{file}: the categories {names} have different joints, and a model has one list of joints; "
            f"PoseSource.category NAME takes one of {names}"
        )
    return fitting or [next((one for one in categories if one.get("name") == "person"), categories[0])]


def _chosen(categories: list[dict[str, Any]], chosen: str, file: str) -> list[dict[str, Any]]:
    named = [one for one in categories if _name(one) == chosen]
    named = named or [one for one in categories if str(one["id"]) == chosen]
    if not named:
        names = ", ".join(f"{_name(one)} ({counted(len(one.get('keypoints') or ()), 'joint')})" for one in categories)
        raise DataError(f"{file} has no category {chosen!r}, PoseSource.category must be one of: {names}")
    return named[:1]


def _limbs(limbs: Any) -> Any:
    """Pairs of joints with whole numbers where they are written otherwise; whatever else as it is."""
    if not isinstance(limbs, list | tuple) or not all(isinstance(limb, list | tuple) for limb in limbs):
        return limbs
    ends = [[as_number(end) for end in limb] for limb in limbs]
    return (
        [[int(end) for end in limb] for limb in ends]
        if all(end.is_integer() for limb in ends for end in limb)
        else limbs
    )


def _name(category: Mapping[str, Any]) -> str:
    return str(category.get("name") or category["id"])


def _entry(file: str, place: int) -> str:
    return f"{file}: entry {place} of 'images'"
