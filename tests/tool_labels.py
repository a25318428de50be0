"""Small writers of labels in the forms of labelling tools, for tests: each writes as its tool does."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import cv2
import numpy as np

Joints = dict[str, tuple[float, float, int]]


@dataclass
class Labelled:
    """A picture with people: joints by name, in the order in which they were drawn, and box (x, y, width, height)."""

    name: str
    size: tuple[int, int]
    people: list[tuple[Joints, tuple[float, float, float, float]]]
    outlines: list[tuple[str, list[tuple[float, float]]]] = field(default_factory=list)


def picture(path: Path, size: tuple[int, int]) -> None:
    """A plain picture of (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((size[1], size[0], 3), 90, np.uint8))


def cvat(path: Path, pictures: Sequence[Labelled], names: Sequence[str], subset: str = "") -> None:
    """CVAT for images 1.1: skeletons, each in a group with its box; joints that are not there are ``outside``."""
    labels = "<label><name>person</name><type>skeleton</type><svg></svg></label>"
    labels += "".join(f"<label><name>{name}</name><type>points</type><parent>person</parent></label>" for name in names)
    kinds = dict.fromkeys(label for one in pictures for label, _ in one.outlines)
    labels += "".join(f"<label><name>{kind}</name><type>polygon</type></label>" for kind in kinds)
    lines = [f"<annotations><version>1.1</version><meta><task><labels>{labels}</labels></task></meta>"]
    for number, one in enumerate(pictures):
        mark = f' subset="{subset}"' if subset else ""
        lines.append(
            f'<image id="{number}" name={quoteattr(one.name)}{mark} width="{one.size[0]}" height="{one.size[1]}">'
        )
        for group, (joints, (x, y, width, height)) in enumerate(one.people, start=1):
            lines.append(f'<skeleton label="person" source="manual" z_order="0" group_id="{group}">')
            for name in [*joints, *(name for name in names if name not in joints)]:
                px, py, flag = joints.get(name, (1.0, 1.0, 0))
                seen = f'outside="{int(flag == 0)}" occluded="{int(flag == 1)}"'
                lines.append(f'<points label="{name}" source="manual" {seen} points="{px:.2f},{py:.2f}"></points>')
            corners = f'xtl="{x:.2f}" ytl="{y:.2f}" xbr="{x + width:.2f}" ybr="{y + height:.2f}"'
            lines.append(f'</skeleton><box label="person" occluded="0" {corners} group_id="{group}"></box>')
        for label, points in one.outlines:
            text = ";".join(f"{px:.2f},{py:.2f}" for px, py in points)
            lines.append(
                f'<polygon label="{label}" source="manual" occluded="0" points="{text}" z_order="0"></polygon>'
            )
        lines.append("</image>")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, "</annotations>"]))


def label_studio(path: Path, pictures: Sequence[Labelled], seed: int = 0) -> None:
    """Label Studio's JSON: regions in the order in which they were drawn, here any."""
    tasks = []
    for number, one in enumerate(pictures, start=1):
        across, down = 100 / one.size[0], 100 / one.size[1]
        results: list[list[dict[str, Any]]] = []
        whole = {"original_width": one.size[0], "original_height": one.size[1], "image_rotation": 0, "to_name": "image"}
        for place, (joints, (x, y, width, height)) in enumerate(one.people):
            box = {"x": x * across, "y": y * down, "width": width * across, "height": height * down, "rotation": 0}
            value = {**box, "rectanglelabels": ["person"]}
            results.append(
                [{"id": f"p{place}", "type": "rectanglelabels", "value": value, "from_name": "box", **whole}]
            )
            for name, (px, py, flag) in joints.items():
                if flag:
                    spot = {"x": px * across, "y": py * down, "width": 0.5}
                    about = {"id": f"p{place}{name}", **whole}
                    value = {**spot, "keypointlabels": [name]}
                    drawn = [{**about, "type": "keypointlabels", "value": value, "parentID": f"p{place}"}]
                    if flag == 1:
                        drawn.append({**about, "type": "choices", "value": {**spot, "choices": ["occluded"]}})
                    results.append(drawn)
        for place, (label, points) in enumerate(one.outlines):
            value = {
                "points": [[px * across, py * down] for px, py in points],
                "closed": True,
                "polygonlabels": [label],
            }
            results.append([{"id": f"o{place}", "type": "polygonlabels", "value": value, **whole}])
        random.Random(seed).shuffle(results)
        annotation = {"id": number, "completed_by": 1, "was_cancelled": False, "result": [*chain(*results)]}
        upload = f"0a1b2c3d-{Path(one.name).name}"
        tasks.append({"id": number, "annotations": [annotation], "data": {"image": f"/data/upload/1/{upload}"}})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tasks))


def labelme(folder: Path, pictures: Sequence[Labelled], seed: int = 0) -> None:
    """labelme's JSON beside each picture: shapes in the order in which they were drawn, here any."""
    for one in pictures:
        shapes = []
        for group, (joints, (x, y, width, height)) in enumerate(one.people):
            corners = [[x, y], [x + width, y + height]]
            shapes.append({"label": "person", "points": corners, "group_id": group, "shape_type": "rectangle"})
            shapes += [
                {
                    "label": name,
                    "points": [[px, py]],
                    "group_id": group,
                    "shape_type": "point",
                    "flags": {"hidden": flag == 1},
                }
                for name, (px, py, flag) in joints.items()
                if flag
            ]
        shapes += [
            {"label": label, "points": [list(pair) for pair in points], "group_id": None, "shape_type": "polygon"}
            for label, points in one.outlines
        ]
        random.Random(seed).shuffle(shapes)
        path = (folder / one.name).with_suffix(".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"version": "6.3.1", "flags": {}, "shapes": shapes, "imagePath": Path(one.name).name}
        path.write_text(
            json.dumps({**content, "imageData": None, "imageHeight": one.size[1], "imageWidth": one.size[0]}, indent=2)
        )


def yolo_lines(one: Labelled, names: Sequence[str], classes: Sequence[str], dims: int = 3) -> str:
    """Lines of YOLO's text file of a picture."""
    width, height = one.size
    lines = []
    for joints, (x, y, across, down) in one.people:
        values = [(x + across / 2) / width, (y + down / 2) / height, across / width, down / height]
        text = [f"{value:.6f}" for value in values]
        for name in names:
            px, py, flag = joints.get(name, (0.0, 0.0, 0))
            if not flag:
                px = py = 0.0
            text += [f"{px / width:.6f}", f"{py / height:.6f}", *([str(flag)] if dims == 3 else [])]
        lines.append(" ".join(["0", *text]))
    for label, points in one.outlines:
        pairs = (f"{px / width:.6f} {py / height:.6f}" for px, py in points)
        lines.append(" ".join([str(classes.index(label)), *pairs]))
    return "\n".join(lines)


def yolo(
    root: Path,
    parts: dict[str, Sequence[Labelled]],
    names: Sequence[str] = (),
    classes: Sequence[str] = ("person",),
    *,
    layout: str = "{part}/images/{name}",
    dims: int = 3,
    **more: Any,
) -> None:
    """A YAML, text files and pictures, in the layout of Roboflow or of Ultralytics (``images/{part}/{name}``)."""
    table: dict[str, Any] = {"names": dict(enumerate(classes))}
    if names:
        table |= {"kpt_shape": [len(names), dims], "kpt_names": list(names), **more}
    for part, pictures in parts.items():
        folder = layout.format(part=part, name="").rstrip("/")
        table["val" if part == "valid" else part] = f"../{folder}" if layout.startswith("{part}") else folder
        for one in pictures:
            place = root / layout.format(part=part, name=one.name)
            picture(place, one.size)
            labels = Path(str(place).replace("/images/", "/labels/")).with_suffix(".txt")
            labels.parent.mkdir(parents=True, exist_ok=True)
            labels.write_text(yolo_lines(one, names, classes, dims))
    # JSON is YAML.
    (root / "data.yaml").write_text(
        "\n".join(f"{key}: {json.dumps(value)}" for key, value in table.items() if key != "names")
    )
    with (root / "data.yaml").open("a") as stream:
        stream.write("\nnames:\n" + "".join(f"  {key}: {value}\n" for key, value in table["names"].items()))
