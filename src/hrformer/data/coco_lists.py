"""Pictures and categories of a file in COCO's form, in whatever way tools write their numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrformer.data.coco_fields import as_number, shown, whole
from hrformer.data.set_types import DataError
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
        DataError: it is no list, or holds something else than objects.
    """
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
    """Read ``images``; without ``named`` they may lack names, without ``sized`` a size that is none counts as not said.

    Raises:
        DataError: an entry lacks an id or a name, or holds something else; names file, entry and field.
    """
    images = list_of(content, "images", file)
    if not images:
        raise DataError(f"{file}: 'images' must hold at least one picture")

    def where(place: int) -> str:
        return f"{file}: entry {place} of 'images'"

    names: list[str] = []
    for place, image in enumerate(images):
        name = image.get("file_name")
        if not (isinstance(name, str) and name.strip()) and (named or name is not None):
            raise DataError(f"{where(place)}: 'file_name' must be a name, got {shown(image, 'file_name')}")
        names.append(name or "")
    ids = [whole(image, "id", where(place)) for place, image in enumerate(images)]
    twice, times = Counter(ids).most_common(1)[0]
    if times > 1:
        raise DataError(f"{file}: each of 'images' must have an id of its own, {twice} occurs more than once")
    sizes = [_side(image, side) for image in images for side in ("width", "height")]
    if sized and -1 in sizes:
        place, second = divmod(sizes.index(-1), 2)
        field = "height" if second else "width"
        raise DataError(
            f"{where(place)}: {field!r} must be a number of pixels, got {shown(images[place], field)}; leave it out, "
            "and the picture's own counts"
        )
    return Pictures(ids=tuple(ids), names=names, sizes=np.maximum(sizes, 0).reshape(-1, 2))


def _side(image: Mapping[str, Any], field: str) -> int:
    """Pixels; 0 where nothing is said, -1 for what is no number of pixels."""
    value = image.get(field)
    side = 0.0 if value is None else as_number(value)
    return int(side) if 0 <= side < 2**31 and side.is_integer() else -1


def read_categories(content: Mapping[str, Any], file: str) -> list[dict[str, Any]]:
    """All categories, with whole numbers as ids and in ``skeleton``; person where the file has none.

    Raises:
        DataError: an entry is not as it should be.
    """
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

    Args:
        content: of the file.
        file: its name in messages.
        chosen: name or id of the only one; empty takes those with joints, or where none names joints the one called
            person.
        num_keypoints: of several kinds of joints take those of so many, where that is known.

    Raises:
        DataError: an entry is not as it should be, ``chosen`` is none of them, or their joints differ.
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
