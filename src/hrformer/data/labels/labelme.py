"""labelme's JSON, one file beside each picture (https://github.com/wkentaro/labelme): polygons, rectangles, circles,
points and masks.

Points are joints, called by their labels; ``group_id`` tells whose. labelme knows no visibility: a flag of the label
that is called hidden or occluded, or not visible, says that a joint is hidden; so does ``difficult`` of tools that
write the same files.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image

from hrformer.data.coco_file import as_number, read_json, said, shown
from hrformer.data.images import DAMAGE
from hrformer.data.labels.content import Collected, Found, LabelSet, whole_size
from hrformer.data.labels.shapes import Shape, around, box_of, corners, ellipse, joint, pasted, polygon, things_of
from hrformer.data.part_patterns import part_of
from hrformer.data.set_types import DataError

HIDDEN = frozenset(("hidden", "occluded", "invisible"))
"""Names of flags that say of a joint that it is hidden, in lower case."""

_NOT_READ = ("line", "linestrip", "points")


def is_labelme(file: Path) -> bool:
    """Whether a JSON file is labelme's; its files hold the picture too, so that they are not parsed."""
    try:
        with file.open("rb") as stream:
            if b'"shapes"' not in stream.read(4096):
                return False
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text:
                return text.find(b'"imagePath"') >= 0
    except (OSError, ValueError):
        return False


def read(founds: Sequence[Found], root: Path) -> LabelSet:
    """All files of a set; ``root`` is its folder. A DataError names file, shape and field."""
    collected = Collected("labelme")
    for found in founds:
        collected.open(found)
        for file in _files(found, root):
            _read(file, found, root, collected)
    return collected.finished()


def _files(found: Found, root: Path) -> Iterator[Path]:
    """The file, or files of a folder and those in it whose paths speak of the part."""
    if found.path.is_file():
        yield found.path
        return
    for file in sorted(found.path.rglob("[!.]*.json")):
        inner = file.parent.relative_to(root) if file.is_relative_to(root) else None
        if (inner is None or part_of(inner) == found.part) and is_labelme(file):
            yield file


def _read(file: Path, found: Found, root: Path, collected: Collected) -> None:
    content = read_json(file, shorten=("imageData",))
    shapes = content.get("shapes") if isinstance(content, Mapping) else None
    if not isinstance(shapes, list):
        raise DataError(f"{file}: 'shapes' must be a list, as labelme writes it, got {said(shapes)}")
    sides = [as_number(content.get(field)) for field in ("imageWidth", "imageHeight")]
    size = whole_size(sides[0], sides[1], str(file), "'imageWidth' and 'imageHeight'")
    name = content.get("imagePath")
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"{file}: 'imagePath' must be the picture's name, got {shown(content, 'imagePath')}")
    picture = os.path.normpath(file.parent / PureWindowsPath(name).as_posix())
    number = collected.picture(found, Path(os.path.relpath(picture, root)).as_posix(), size, str(file))
    made = [_shape(one, f"{file}: shape {place}", size, collected) for place, one in enumerate(shapes)]
    collected.add(found, number, things_of([one for one in made if one is not None]))


def _shape(one: Any, where: str, size: tuple[int, int], collected: Collected) -> Shape | None:
    """One shape; None for lines."""
    label = one.get("label") if isinstance(one, Mapping) else None
    if not isinstance(label, str) or not label.strip():
        raise DataError(f"{where}: 'label' must be a name, got {said(label)}")
    where = f"{where} ({label})"
    kind, group = one.get("shape_type") or "polygon", one.get("group_id")
    if not isinstance(group, str | int | None):
        raise DataError(f"{where}: 'group_id' must be a number, got {shown(one, 'group_id')}")
    if kind in _NOT_READ:
        collected.leave_out(kind)
        return None
    points = _points(one, where)
    if kind == "point":
        if len(points) != 1:
            raise DataError(f"{where}: a point has one place in 'points', got {len(points)}")
        return joint(label, *points[0], 1 if _hidden(one) else 2, group, where)
    shape = Shape(label, group=group, where=where)
    if kind == "rectangle":
        shape.box, shape.boxed = around(points), True
        shape.outline = polygon(corners(shape.box))
    elif kind == "circle":
        if len(points) != 2:
            raise DataError(f"{where}: a circle has its middle and a point on it in 'points', got {len(points)} points")
        radius = math.dist(*points)
        points = ellipse(*points[0], (radius, radius))
        shape.outline, shape.box = polygon(points), around(points)
    elif kind == "mask":
        shape.outline = _mask(one, points, size, where)
        shape.box = box_of(shape.outline)
    elif kind in ("polygon", "rotation"):
        shape.outline, shape.box = polygon(points), around(points)
    else:
        raise DataError(
            f"{where}: 'shape_type' must be polygon, rectangle, circle, point, mask, line or linestrip, got "
            f"{shown(one, 'shape_type')}"
        )
    return shape


def _points(one: Mapping[str, Any], where: str) -> list[tuple[float, float]]:
    points = one.get("points")
    pairs = points if isinstance(points, list) else []
    values = [tuple(map(as_number, pair)) if isinstance(pair, list) else () for pair in pairs]
    if values and all(len(pair) == 2 and np.isfinite(pair).all() for pair in values):
        return [(pair[0], pair[1]) for pair in values]
    raise DataError(f"{where}: 'points' must be [[x, y], ...] in pixels, got {shown(one, 'points')}")


def _hidden(one: Mapping[str, Any]) -> bool:
    flags = one.get("flags") if isinstance(one.get("flags"), Mapping) else {}
    told = {str(name).strip().lower(): bool(value) for name, value in (flags or {}).items()}
    return any(told.get(name) for name in HIDDEN) or told.get("visible") is False or one.get("difficult") is True


def _mask(
    one: Mapping[str, Any], points: Sequence[tuple[float, float]], size: tuple[int, int], where: str
) -> dict[str, Any]:
    """Run lengths of a mask, which is a PNG in base64 between two corners."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(one.get("mask") or "", validate=True))) as image:
            piece = np.asarray(image.convert("L")) > 0
    except (*DAMAGE, binascii.Error, TypeError) as error:
        raise DataError(f"{where}: 'mask' must be a PNG in base64, got {shown(one, 'mask')}") from error
    left, top = (round(min(pair[axis] for pair in points)) for axis in (0, 1))
    return pasted(piece, left, top, size, where)
