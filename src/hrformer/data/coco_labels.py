"""Labels of one file in COCO's keypoint format, as training and scoring both see them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrformer.data.coco_boxes import boxes_around, clipped, joint_extents, misread, relative_units
from hrformer.data.coco_fields import read_json, told_of, whole
from hrformer.data.coco_lists import Pictures, list_of, people_categories, read_categories, read_pictures
from hrformer.data.coco_records import People, PeopleReader
from hrformer.data.coco_sizes import Exif, canvas_of
from hrformer.data.set_types import DataError, Note
from hrformer.wording import counted, listed

_NAMED = 5


def read_content(file: Path, *, outlines: bool = False) -> dict[str, Any]:
    """Content of a file in COCO's form; without ``outlines``, most of COCO's files, only whether a record has one.

    Raises:
        DataError: it cannot be read, or holds something else.
    """
    content = read_json(file, shorten=() if outlines else ("segmentation",))
    if not isinstance(content, dict):
        raise DataError(f"{file} is not in COCO's format: it must hold 'images', 'annotations' and 'categories'")
    return content


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CocoLabels:
    """Everybody in a file.

    Attributes:
        pictures: of the file.
        categories: those looked at.
        people: no crowds, with a labelled joint: those that training sees.
        crowds: with joints, all 0 where they have none.
        bare: people without joints; together with the crowds they count neither way in scoring.
        file: what to call it in messages.
        notes: what was put right.
    """

    pictures: Pictures
    categories: list[dict[str, Any]]
    people: People
    crowds: People
    bare: People
    file: str
    notes: tuple[Note, ...] = ()

    @classmethod
    def read(
        cls,
        content: Mapping[str, Any],
        pictures: Pictures,
        categories: list[dict[str, Any]],
        num_keypoints: int,
        file: str,
    ) -> CocoLabels:
        """Read ``annotations``; boxes and joints stay where they are.

        Raises:
            DataError: an annotation is not as it should be.
        """
        known = [one["id"] for one in read_categories(content, file)]
        reader = PeopleReader(pictures, [one["id"] for one in categories], known, num_keypoints)
        records = list_of(content, "annotations", file)
        with told_of(file):
            people, crowds, bare, notes = reader.read(records)
        labels = cls(pictures=pictures, categories=categories, people=people, crowds=crowds, bare=bare, file=file)
        return replace(labels, notes=labels._named(notes))

    def _named(self, notes: Iterable[Note]) -> tuple[Note, ...]:
        return tuple(replace(note, text=f"{self.file}: {note.text}") for note in notes)

    def placed(self, used: Sequence[int], path_of: Callable[[int], str], clip: str, exif: Exif) -> CocoLabels:
        """Boxes and joints on the pixels that training sees, boxes clipped to the picture.

        Args:
            used: places of the pictures whose headers count.
            path_of: path of the picture at a place.
            clip: as ``exif`` see ``PoseSource``.
            exif: how to take EXIF orientations.

        Raises:
            DataError: a picture has another size than the file says, or boxes are written in another way.
        """
        people = self.people
        with told_of(self.file):
            canvas = canvas_of(self.pictures, used, path_of, exif)
            sizes = canvas.sizes[people.picture]
            if relative := relative_units(people.box, people.joints, sizes):
                raise DataError(relative)
            odd = [*_copies(people), *_misread(people, sizes)]
        for table in (people, self.crowds, self.bare):
            canvas.turn(table)
        people, outside = _clipped(people, canvas.upright[people.picture], clip)
        notes = self.notes + self._named([*canvas.notes, *odd, *outside])
        return replace(self, pictures=replace(self.pictures, sizes=canvas.upright), people=people, notes=notes)

    def nobody(self, content: Mapping[str, Any]) -> str:
        """Why there is nobody to train on or to score: what applied to how many annotations of the file's content."""
        rows, taken = list_of(content, "annotations", self.file), [one["id"] for one in self.categories]
        kinds = [whole(one, "category_id", self.file, taken[0]) for one in rows]
        foreign = [kind for kind in kinds if kind not in taken]
        found = ", ".join(map(str, sorted({*foreign})[:_NAMED]))
        counts = {
            f"of category_id {found}, and those looked at are of {', '.join(map(str, taken))}: correct 'category_id', "
            "or name the category in PoseSource.category": len(foreign),
            "crowds: write 'iscrowd' 0 for single people": len(self.crowds),
            "without a labelled joint: label them, joints count with flag 1 or 2": len(self.bare),
            "with box and joints outside of the picture: correct them": len(self.people),
        }
        counts["of pictures that 'images' does not list: add these"] = len(rows) - sum(counts.values())
        everybody = counted(len(rows), "annotation")
        told = "; ".join(f"{count} of {everybody} {what}" for what, count in counts.items() if count)
        told = told or "'annotations' is empty: label people in these pictures, or export the labels again"
        return f"{self.file}: nobody is left: {told}"

    def truth(self) -> dict[str, list[dict[str, Any]]]:
        """Everybody in COCO's form, in the order of the file: what scores compare with."""
        images = [
            {"id": number, "file_name": name, "width": width, "height": height}
            for number, name, (width, height) in zip(
                self.pictures.ids, self.pictures.names, self.pictures.sizes.tolist(), strict=True
            )
        ]
        annotations: dict[int, dict[str, Any]] = {}
        for table, crowd in ((self.people, 0), (self.crowds, 1), (self.bare, 0)):
            no_joints = np.zeros((len(table), *self.people.joints.shape[1:]))
            joints = no_joints if table.keypoints is None else table.keypoints
            counts = (joints[..., 2] > 0).sum(axis=1)
            for n, row in enumerate(table.row.tolist()):
                annotations[row] = {
                    "id": int(table.number[n]),
                    "image_id": self.pictures.ids[table.picture[n]],
                    "category_id": int(table.category[n]),
                    "iscrowd": crowd,
                    "keypoints": joints[n].ravel().tolist(),
                    "num_keypoints": int(counts[n]),
                    "area": float(table.area[n]),
                    "bbox": table.box[n].tolist(),
                }
        return {
            "images": images,
            "annotations": [annotations[row] for row in sorted(annotations)],
            "categories": [dict(one) for one in self.categories],
        }


def _copies(people: People) -> list[Note]:
    """People with picture, box and joints of another one: perfect predictions find only one of two in scoring."""
    joints = people.joints
    # Copies come to stand behind each other, as sorting by all numbers would have it, in a tenth of the memory.
    order = np.lexsort((joints.sum(axis=(1, 2)), *people.box.T, people.picture))
    before, after = order[:-1], order[1:]
    near = (people.picture[before] == people.picture[after]) & (people.box[before] == people.box[after]).all(axis=1)
    before, after = before[near], after[near]
    same = (joints[before] == joints[after]).all(axis=(1, 2))
    copies, originals = after[same], before[same]
    if not len(copies):
        return []
    first = int(copies.argmin())
    text = (
        f"{counted(len(copies), 'annotation')} of {counted(len(people), 'person', 'people')} with the picture, "
        f"box and joints of another one, such as number {people.row[copies[first]]} in 'annotations', a copy of "
        f"annotation {people.number[originals[first]]}; counted as people of their own in training and scoring"
    )
    return [Note(kind="copies", text=text)]


def _misread(people: People, sizes: NDArray[np.int64]) -> list[Note]:
    """What is to be said of boxes that fit their joints in another spelling; a DataError where it is the file's."""
    notes = []
    for one in misread(people.box, people.joints, sizes):
        first = one.rows[0]
        (width, height), box = sizes[first], ", ".join(f"{value:g}" for value in people.box[first])
        low, high = (corner[0] for corner in joint_extents(people.joints[[first]]))
        text = (
            f"'bbox' of {len(one.rows)} of {counted(len(people), 'person', 'people')} does not suit their "
            f"joints as [x, y, width, height], and fits as {one.spelling}, such as [{box}] of annotation "
            f"{people.number[first]} in {width} x {height} pixels, with joints from ({low[0]:g}, {low[1]:g}) to "
            f"({high[0]:g}, {high[1]:g}); write {one.remedy}"
        )
        if one.everywhere:
            raise DataError(text)
        numbers = listed(people.number[one.rows], _NAMED)
        text += f" in {counted(len(one.rows), 'annotation')}: {numbers}; taken as it stands"
        notes.append(Note(kind="box-spelling", text=text))
    return notes


def _clipped(people: People, sizes: NDArray[np.int64], clip: str) -> tuple[People, list[Note]]:
    """People with what the picture holds of their boxes; instead of boxes outside, one around the joints."""
    boxes, everybody = clipped(people.box, sizes, clip), counted(len(people), "person", "people")
    outside, notes = ~(boxes[:, 2:] > 0).all(axis=1), []
    boxes[outside] = clipped(boxes_around(people.joints[outside]), sizes[outside], clip)
    people.box[:] = boxes
    lost = np.asarray(~(boxes[:, 2:] > 0).all(axis=1))
    if (outside & ~lost).any():
        text = (
            f"of the 'bbox' of {int((outside & ~lost).sum())} of {everybody} nothing lies in the picture; the "
            "box around their labelled joints, grown by 10 % of its longer side, stands in"
        )
        notes.append(Note(kind="box-outside", text=text))
    if lost.any():
        text = (
            f"box and joints of {int(lost.sum())} of {everybody} lie outside the picture, such as those of "
            f"annotation {people.number[lost][0]}; left out of training and scoring"
        )
        notes.append(Note(kind="person-outside", text=text))
        people = people.take(~lost)
    return people, notes


def truth_of(annotations: str | Path | Mapping[str, Any], num_keypoints: int) -> dict[str, list[dict[str, Any]]]:
    """Labels of a file, or of its content, put right as an opened set puts them, but for what pictures tell.

    People of so many keypoints are taken, if there are several kinds.

    Raises:
        DataError: they are not as they should be.
    """
    if isinstance(annotations, Mapping):
        file, content = "the annotations", annotations
    else:
        file, content = str(annotations), read_content(Path(annotations))
    pictures = read_pictures(content, file, named=False)
    categories = people_categories(content, file, num_keypoints=num_keypoints)
    return CocoLabels.read(content, pictures, categories, num_keypoints, file).truth()
