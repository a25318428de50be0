"""CVAT's own XML, "CVAT for images 1.1" and "CVAT for video 1.1" (https://docs.cvat.ai/docs/dataset_management/formats/
format-cvat/): skeletons, points, boxes, polygons, masks and ellipses.

Files for images list pictures with shapes; those for video list tracks, with a shape for every frame, whose pictures
are called ``frame_000000`` and so on. A shape that is ``outside`` is not there.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from hrformer.data.coco_file import as_number, number, shown, whole
from hrformer.data.labels.content import Category, Collected, Found, LabelSet, whole_size
from hrformer.data.labels.shapes import (
    Shape,
    around,
    corners,
    ellipse,
    joint,
    pasted,
    polygon,
    run_lengths,
    things_of,
    turned,
)
from hrformer.data.part_patterns import part_of
from hrformer.data.set_types import DataError

_START = re.compile(rb"<annotations\b.*?<(?:meta|image|track)\b", re.DOTALL)
_SUBSET = re.compile(rb"<(?:image|track)\b[^>]*?\bsubset=\"([^\"]*)\"")
_EDGE = re.compile(r"<line\b[^>]*?data-node-from=\"(\d+)\"[^>]*?data-node-to=\"(\d+)\"")
_NODE = re.compile(r"<circle\b[^>]*?data-node-id=\"(\d+)\"[^>]*?data-label-name=\"([^\"]*)\"")
_READ = ("box", "polygon", "points", "mask", "ellipse", "skeleton")
_NOT_READ = ("polyline", "cuboid", "tag")


def is_cvat(file: Path) -> bool:
    """Whether an XML file is CVAT's; VOC has files of one picture that begin otherwise."""
    try:
        with file.open("rb") as stream:
            return _START.search(stream.read(1 << 16)) is not None
    except OSError:
        return False


def parts_of(file: Path, inner: Path) -> list[Found]:
    """What a file holds: the parts that its subsets name, else the one that its path in the set speaks of."""
    subsets = dict.fromkeys(one.decode("utf-8", "replace") for one in _SUBSET.findall(file.read_bytes()))
    parts = dict.fromkeys(part_of(name) for name in subsets) if subsets else {}
    if not any(parts):
        return [Found(file, part_of(inner.with_suffix("")))]
    return [Found(file, part) for part in parts]


def read(founds: Sequence[Found], root: Path) -> LabelSet:
    """All files of a set; ``root`` is its folder. A DataError names file, picture or track, and field."""
    collected = Collected("CVAT")
    for file in dict.fromkeys(one.path for one in founds):
        reader = _Reader(file, [one for one in founds if one.path == file], collected)
        reader.read()
    return collected.finished()


class _Reader:
    """Reads one file."""

    def __init__(self, file: Path, founds: list[Found], collected: Collected) -> None:
        self.file, self.founds, self.collected = file, founds, collected
        self.size: tuple[int, int] | None = None
        self.frames: dict[tuple[str, int], list[Shape]] = {}

    def read(self) -> None:
        """Take in pictures one after another: files with masks are large."""
        for found in self.founds:
            self.collected.open(found)
        try:
            for _, element in ET.iterparse(self.file, events=("end",)):
                if element.tag == "meta":
                    self._meta(element)
                elif element.tag == "image":
                    self._image(element)
                    element.clear()
                elif element.tag == "track":
                    self._track(element)
                    element.clear()
        except (ET.ParseError, LookupError) as error:
            raise DataError(f"{self.file} is not XML: {error}; export it again") from error
        except OSError as error:
            raise DataError(f"{self.file}: {error.strerror or error}") from error
        for (subset, frame), shapes in sorted(self.frames.items()):
            name = f"{subset}/frame_{frame:06d}.png" if subset else f"frame_{frame:06d}.png"
            found = self._found(subset)
            self.collected.add(found, self.collected.picture(found, name, self.size), things_of(shapes))

    def _found(self, subset: str) -> Found:
        """What pictures of a subset go to."""
        if len(self.founds) == 1:
            return self.founds[0]
        return next((one for one in self.founds if one.part == part_of(subset)), self.founds[0])

    def _meta(self, meta: ET.Element) -> None:
        """Labels as they were configured, and the size of frames."""
        categories = self.collected.categories
        for label in meta.iter("label"):
            name, kind, parent = (label.findtext(field, "") for field in ("name", "type", "parent"))
            if parent:
                category = categories.setdefault(parent, Category())
                category.configured = True
                category.joints[name] = None
                continue
            self.collected.label_order[name] = None
            if kind in ("points", "any", ""):
                # One of any kind may be a joint or a class; what it is used for tells.
                self.collected.joint_order[name] = kind == "points"
            elif kind not in _NOT_READ:
                categories.setdefault(name, Category())
            if svg := label.findtext("svg", ""):
                nodes = dict(_NODE.findall(svg))
                pairs = ((nodes.get(a), nodes.get(b)) for a, b in _EDGE.findall(svg))
                limbs = [(a, b) for a, b in pairs if a is not None and b is not None]
                categories.setdefault(name, Category()).limbs = limbs
        original = meta.find(".//original_size")
        if original is not None:
            sides = {field: original.findtext(field, "") for field in ("width", "height")}
            where = f"{self.file}: original_size"
            width, height = (number(sides, field, where) for field in ("width", "height"))
            self.size = whole_size(width, height, where, "width and height")

    def _image(self, image: ET.Element) -> None:
        name = image.get("name", "")
        where = f"{self.file}: image {image.get('id', '')} ({name})"
        if not name.strip():
            raise DataError(f"{where}: 'name' must be that of the picture's file, got {shown(image.attrib, 'name')}")
        width, height = (number(image.attrib, field, where) for field in ("width", "height"))
        size = whole_size(width, height, where, "width and height")
        subset = image.get("subset", "")
        found = self._found(subset)
        picture = self.collected.picture(found, f"{subset}/{name}" if subset else name, size)
        shapes: list[Shape] = []
        for place, element in enumerate(image):
            if element.tag in _NOT_READ:
                self.collected.leave_out(element.tag)
            elif element.tag in _READ:
                about = f"{where}, {element.tag} {place}"
                shapes += self._shapes(element, size, element.get("label", ""), element.get("group_id"), about)
        self.collected.add(found, picture, things_of(shapes))

    def _track(self, track: ET.Element) -> None:
        subset, label = track.get("subset", ""), track.get("label", "")
        for element in track:
            where = f"{self.file}: track {track.get('id', '')}, {element.tag} of frame {element.get('frame', '')}"
            if element.tag in _NOT_READ:
                self.collected.leave_out(f"{element.tag} of a frame")
            if element.tag not in _READ or element.get("outside") == "1":
                continue
            shapes = list(self._shapes(element, self.size, label, track.get("group_id"), where))
            # A skeleton without a joint in the picture is not there.
            if element.tag != "skeleton" or any(flag for one in shapes for _, _, flag in one.joints.values()):
                frame = whole(element.attrib, "frame", where)
                self.frames.setdefault((subset, frame), []).extend(shapes)

    def _shapes(
        self, element: ET.Element, size: tuple[int, int] | None, label: str, group: str | None, where: str
    ) -> Iterator[Shape]:
        """What one element draws: one shape, or of points without a skeleton a joint each."""
        if not label:
            raise DataError(f"{where}: 'label' must be a name, got {shown(element.attrib, 'label')}")
        made = Shape(label, group=group or None, where=where)
        data = element.attrib
        if element.tag == "skeleton":
            made.joints = dict(_element(one, where) for one in element if one.tag == "points")
            yield made
            return
        if element.tag == "points":
            points, flag = _points(data, where), _flag(data)
            if len(points) == 1:
                yield joint(label, *points[0], flag, group or None, where)
                return
            made.joints = {f"{label}_{place}": (x, y, flag) for place, (x, y) in enumerate(points, start=1)}
        elif element.tag == "box":
            left, top, right, bottom = (number(data, field, where) for field in ("xtl", "ytl", "xbr", "ybr"))
            made.box = [left, top, right - left, bottom - top]
            if degrees := _degrees(data, where):
                middle = ((left + right) / 2, (top + bottom) / 2)
                made.box = around(turned(corners(made.box), middle, degrees))
        elif element.tag == "mask":
            made.outline = _mask(data, size, where)
        else:
            outline = _points(data, where) if element.tag == "polygon" else _ellipse(data, where)
            made.outline, made.box = polygon(outline), around(outline)
        yield made


def _element(element: ET.Element, where: str) -> tuple[str, tuple[float, float, int]]:
    """Name and place of a joint of a skeleton."""
    name = element.get("label", "")
    about = f"{where}, joint {name}"
    ((x, y), *more) = _points(element.attrib, about)
    if more or not name:
        raise DataError(f"{about}: a joint of a skeleton needs a 'label' and one point, got {len(more) + 1}")
    return name, (x, y, _flag(element.attrib))


def _flag(data: Mapping[str, str]) -> int:
    """0 for what is outside, 1 for what is occluded, else 2."""
    return 0 if data.get("outside") == "1" else 1 if data.get("occluded") == "1" else 2


def _points(data: Mapping[str, str], where: str) -> list[tuple[float, float]]:
    """The field ``points``: "x,y;x,y"."""
    pairs = [one.split(",") for one in data.get("points", "").split(";")]
    values = [tuple(as_number(value) for value in pair) for pair in pairs]
    if all(len(pair) == 2 and np.isfinite(pair).all() for pair in values):
        return [(pair[0], pair[1]) for pair in values]
    raise DataError(f"{where}: 'points' must be pairs such as 12.5,40;13,41, got {shown(data, 'points')}")


def _ellipse(data: Mapping[str, str], where: str) -> list[tuple[float, float]]:
    x, y, across, down = (number(data, field, where) for field in ("cx", "cy", "rx", "ry"))
    return ellipse(x, y, (abs(across), abs(down)), _degrees(data, where))


def _degrees(data: Mapping[str, str], where: str) -> float:
    return number({"rotation": data.get("rotation", "0")}, "rotation", where)


def _mask(data: Mapping[str, str], size: tuple[int, int] | None, where: str) -> dict[str, object]:
    """Run lengths of the whole picture; CVAT's go row by row over the mask's own box, beginning with the 0s."""
    if size is None:
        raise DataError(f"{where}: a mask needs the picture's size, and the file has no 'original_size'")
    left, top, width, height = (whole(data, field, where) for field in ("left", "top", "width", "height"))
    counts = [as_number(one) for one in data.get("rle", "").split(",")]
    if not all(one.is_integer() and one >= 0 for one in counts) or sum(counts) != width * height:
        raise DataError(
            f"{where}: 'rle' must be run lengths whose sum is width x height = {width * height}, got a sum of "
            f"{sum(counts):g}"
        )
    runs = np.array(counts, np.int64)
    piece = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    # CVAT lets masks reach over the edge of the picture, by what the brush is wide.
    inside = piece[max(-top, 0) : max(size[1] - top, 0), max(-left, 0) : max(size[0] - left, 0)]
    if not inside.size:
        return run_lengths(np.zeros(size[::-1], np.bool_))
    return pasted(inside, max(left, 0), max(top, 0), size, where)
