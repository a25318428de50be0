"""Label Studio's own JSON, "JSON" and "JSON-MIN" (https://labelstud.io/guide/export): rectangles, key points, polygons,
ellipses and brushes. Places are percent of the picture's width and height.

A key point belongs to the region that it was put into (``parentID``). JSON-MIN has no such fields, so that the boxes in
which key points lie count. Label Studio knows no visibility: a choice for the region that is called hidden or occluded
says that a joint is hidden.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from hrformer.data.coco_file import as_number, number, read_json, said, shown, told_of
from hrformer.data.images import SUFFIXES
from hrformer.data.labels.content import Collected, Found, LabelSet, whole_size
from hrformer.data.labels.labelme import HIDDEN
from hrformer.data.labels.shapes import Shape, around, corners, ellipse, joint, polygon, run_lengths, things_of, turned
from hrformer.data.set_types import DataError
from hrformer.wording import counted

_MARKS = re.compile(rb'"original_width"|"annotations"\s*:\s*\[\s*\{(?=.*?"result")', re.DOTALL)
_HEAD = 1 << 20
_REGION = re.compile("(rectangle|keypoint|polygon|ellipse|brush)?labels")


def is_label_studio(file: Path) -> bool:
    """Whether a JSON file is Label Studio's: a list of tasks with regions in it."""
    try:
        with file.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError:
        return False
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[") and _MARKS.search(head) is not None


def read(founds: Sequence[Found], root: Path) -> LabelSet:
    """All files of a set; a DataError names file, task, region and field."""
    collected = Collected("Label Studio")
    for found in founds:
        collected.open(found)
        tasks = read_json(found.path)
        if not isinstance(tasks, list):
            raise DataError(f"{found.path} must hold a list of tasks, as Label Studio exports it")
        for place, task in enumerate(tasks):
            if not isinstance(task, Mapping):
                raise DataError(f"{found.path}: task {place} must be an object, got {said(task)}")
            with told_of(f"{found.path}: task {task.get('id', place)}"):
                _task(task, found, collected)
    return collected.finished()


def _task(task: Mapping[str, Any], found: Found, collected: Collected) -> None:
    full = "annotations" in task or "completions" in task
    if full:
        results = _annotation(task, collected)
        if results is None:
            return
        data = task.get("data")
        name = _picture(data if isinstance(data, Mapping) else {}, task.get("file_upload"))
    else:
        results, name = list(_regions_of_min(task)), _picture(task)
        if any(one["value"].get("keypointlabels") for one in results):
            collected.note(
                "Label Studio: JSON-MIN does not say which joints belong together nor which are hidden; the boxes "
                "around them count. The export JSON says both"
            )
    sizes = {_size(one) for one in results if "original_width" in one}
    if len(sizes) > 1:
        raise DataError(f"'original_width' and 'original_height' must be the same in all regions, got {sorted(sizes)}")
    size = sizes.pop() if sizes else None
    number = collected.picture(found, name, size)
    shapes = [] if size is None else list(_shapes(results, size, collected))
    collected.add(found, number, things_of(shapes))


def _annotation(task: Mapping[str, Any], collected: Collected) -> list[Mapping[str, Any]] | None:
    """Regions of the annotation that counts: of several the ground truth, else the one changed last."""
    key = "annotations" if "annotations" in task else "completions"
    given = task[key]
    if not isinstance(given, list) or not all(isinstance(one, Mapping) for one in given):
        raise DataError(f"{key!r} must be a list of objects, got {shown(task, key)}")
    whole = [one for one in given if not one.get("was_cancelled")]
    if not whole:
        collected.leave_out("task without annotation")
        return None
    if len(whole) > 1:
        collected.leave_out("further annotation of a task; the ground truth counts, else the one changed last")
    best = max(whole, key=lambda one: (bool(one.get("ground_truth")), str(one.get("updated_at") or "")))
    results = best.get("result")
    if not isinstance(results, list) or not all(isinstance(one, Mapping) for one in results):
        raise DataError(f"'result' must be a list of regions, got {shown(best, 'result')}")
    return results


def _regions_of_min(task: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Regions of JSON-MIN in the form of the longer one: there they lie in fields called as the controls are."""
    for value in task.values():
        for one in value if isinstance(value, list) else ():
            if isinstance(one, Mapping) and any(_REGION.fullmatch(key) for key in one):
                yield {"value": one, **{key: one[key] for key in ("original_width", "original_height") if key in one}}


def _picture(data: Mapping[str, Any], upload: Any = None) -> str:
    """Name of the picture among the data of a task."""
    texts = [data[key] for key in ("image", *data) if isinstance(data.get(key), str)]
    for text in (*texts, upload):
        if not isinstance(text, str):
            continue
        parts = urlsplit(text)
        if PurePosixPath(unquote(parts.query or parts.path)).suffix.lower() in SUFFIXES:
            return text
        if PurePosixPath(unquote(parts.path)).suffix.lower() in SUFFIXES:
            # Links to storage carry a signature behind the name.
            return unquote(parts.path).lstrip("/")
    raise DataError(f"'data' must name a picture's file, such as 'image': 'a.jpg', got {said(dict(data))}")


def _size(one: Mapping[str, Any]) -> tuple[int, int]:
    sides = [as_number(one.get(field)) for field in ("original_width", "original_height")]
    return whole_size(sides[0], sides[1], f"region {one.get('id', '')}", "'original_width' and 'original_height'")


def _shapes(results: list[Mapping[str, Any]], size: tuple[int, int], collected: Collected) -> Iterator[Shape]:
    for one, field in product(results, ("id", "parentID")):
        if not isinstance(one.get(field), str | int | None):
            raise DataError(f"{field!r} of a region must be a name, got {shown(one, field)}")
    choices = {one.get("id"): one["value"]["choices"] for one in results if _value(one).get("choices")}
    drawn = [(place, one, _label(_value(one))) for place, one in enumerate(results)]
    labelled = {one.get("id") for _, one, label in drawn if label}
    # Of the answers about a region only some repeat its parent.
    parents = {one["id"]: None for one in results if one.get("id")}
    parents |= {one["id"]: one["parentID"] for one in results if one.get("id") and one.get("parentID")}
    owners = {*parents.values()}
    for place, one, label in drawn:
        value, where = _value(one), f"region {one.get('id', place)}"
        if not label:
            # Answers about a region come under its id, and about the whole picture under one of their own.
            if one.get("id") not in labelled and {"x", "points", "rle"} & value.keys():
                collected.leave_out(f"{one.get('type') or 'region'} without a label")
            continue
        if not isinstance(label, list) or not all(isinstance(name, str) and name for name in label):
            raise DataError(f"{where}: its label must be a list of names, got {said(label)}")
        if as_number(one.get("image_rotation") or 0):
            raise DataError(
                f"{where}: 'image_rotation' is {said(one['image_rotation'])}: drawn on a turned picture, which is not "
                "read; turn the file itself and label it upright"
            )
        chosen = choices.get(one.get("id"))
        said_of = {str(word).strip().lower() for word in chosen} if isinstance(chosen, list) else set()
        group = _root(one.get("id"), parents, owners, where)
        shape = _shape(label[0], value, size, 1 if said_of & HIDDEN else 2, group, where)
        if shape is None:
            collected.leave_out(str(one.get("type") or "region"))
        else:
            yield shape


def _label(value: Mapping[str, Any]) -> Any:
    """The list of labels of a region; None for what is none, such as an answer to a question."""
    return next((value[key] for key in value if _REGION.fullmatch(key)), None)


def _value(one: Mapping[str, Any]) -> Mapping[str, Any]:
    value = one.get("value")
    return value if isinstance(value, Mapping) else {}


def _root(region: Any, parents: Mapping[Any, Any], owners: Collection[Any], where: str) -> Any:
    """The outermost region that one lies in; None where it is not in one and has none in it."""
    above, seen = region, {region}
    while (parent := parents.get(above)) is not None:
        if parent not in parents or parent in seen:
            raise DataError(f"{where}: 'parentID' must be the id of another region of the task, got {said(parent)}")
        seen.add(parent)
        above = parent
    return above if above != region or region in owners else None


def _shape(
    label: str, value: Mapping[str, Any], size: tuple[int, int], flag: int, group: Any, where: str
) -> Shape | None:
    """A region by the fields that its value has; None for kinds that are not read."""

    def pixels(field: str, side: int) -> float:
        return number(value, field, where) / 100 * size[side]

    made = Shape(label, group=group, where=where)
    degrees = number({"rotation": value.get("rotation") or 0}, "rotation", where)
    if "rle" in value:
        made.outline = run_lengths(brush_mask(value["rle"], size, where))
    elif "points" in value:
        drawn = _corners(value, size, where)
        made.outline, made.box = polygon(drawn), around(drawn)
    elif "radiusX" in value:
        radii = pixels("radiusX", 0), pixels("radiusY", 1)
        drawn = ellipse(pixels("x", 0), pixels("y", 1), radii, degrees)
        made.outline, made.box = polygon(drawn), around(drawn)
    elif "height" in value:
        made.box = [pixels("x", 0), pixels("y", 1), pixels("width", 0), pixels("height", 1)]
        if degrees:
            # About its upper left corner.
            made.box = around(turned(corners(made.box), (made.box[0], made.box[1]), degrees))
    elif "x" in value and "y" in value:
        return joint(label, pixels("x", 0), pixels("y", 1), flag, group, where)
    else:
        return None
    return made


def _corners(value: Mapping[str, Any], size: tuple[int, int], where: str) -> list[tuple[float, float]]:
    """The field ``points`` in pixels."""
    points = value["points"]
    if not isinstance(points, list) or not points or not all(isinstance(one, list) and len(one) == 2 for one in points):
        raise DataError(f"{where}: 'points' must be [[x, y], ...] in percent, got {shown(value, 'points')}")
    named = ({"x": x, "y": y} for x, y in points)
    return [(number(one, "x", where) / 100 * size[0], number(one, "y", where) / 100 * size[1]) for one in named]


def brush_mask(packed: Any, size: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """The mask (H, W) of a brush, whose bytes hold RGBA values packed as the editor's package rle-pack does it:
    32 bits number of values, 5 bits width of a value less 1, 4 x 4 bits widths of the four kinds of run lengths less 1;
    then runs of a bit that says whether one value is repeated, 2 bits kind, the length less 1, and the value or the
    values. A pixel counts where it is not transparent.

    Args:
        packed: bytes as a list of numbers 0 to 255.
        size: (width, height) of the picture.
        where: region for messages.

    Raises:
        DataError: it is not of this form or of another size.
    """
    wanted = 4 * size[0] * size[1]
    remedy = f"{where}: 'rle' must hold the {wanted} bytes of the picture's RGBA values, packed as Label Studio does it"
    try:
        bits = "".join(f"{byte:08b}" for byte in bytes(packed))
        total, width = int(bits[:32], 2), int(bits[32:37], 2) + 1
        kinds = [int(bits[place : place + 4], 2) + 1 for place in range(37, 53, 4)]
        if total != wanted or width != 8:
            raise DataError(f"{remedy}; got {counted(total, 'value')} of {width} bits")
        values, done, place = np.zeros(total, np.uint8), 0, 53
        while done < total:
            repeated, kind = bits[place] == "1", kinds[int(bits[place + 1 : place + 3], 2)]
            length = int(bits[place + 3 : place + 3 + kind], 2) + 1
            place += 3 + kind
            some = 1 if repeated else length
            run = [int(bits[at : at + 8], 2) for at in range(place, place + 8 * some, 8)]
            values[done : done + length] = run[0] if repeated else run
            place, done = place + 8 * some, done + length
    except (TypeError, ValueError, IndexError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{remedy}; got {said(packed)}") from error
    return values.reshape(size[1], size[0], 4)[..., 3] > 0
