"""Labels of one file in COCO's keypoint format, as training and scoring both see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hrformer.data.coco_boxes import boxes_around, clipped, joint_extents, misread
from hrformer.data.coco_fields import read_json, whole
from hrformer.data.coco_lists import Pictures, list_of, people_categories, read_pictures
from hrformer.data.coco_records import Labels, People, PeopleReader
from hrformer.data.coco_sizes import Exif, canvas_of
from hrformer.data.coco_units import relative_units
from hrformer.data.sets import DataError, Note
from hrformer.wording import counted


def read_content(file: Path) -> dict[str, Any]:
    """Content of a file in COCO's form; of outlines only whether there is one, since they are most of COCO's files.

    Raises:
        DataError: it cannot be read, or holds something else.
    """
    content = read_json(file, shorten=("segmentation",))
    if not isinstance(content, dict):
        raise DataError(f"{file} is not in COCO's format: it must hold 'images', 'annotations' and 'categories'")
    return content


_NAMED = 5


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CocoLabels:
    """Everybody in a file.

    Attributes:
        pictures: of the file.
        categories: those looked at.
        labels: who is in the pictures.
        file: what to call it in messages.
    """

    pictures: Pictures
    categories: list[dict[str, Any]]
    labels: Labels
    file: str

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
        taken, listed = ([one["id"] for one in categories], _ids(content))
        reader = PeopleReader(pictures, taken, listed, num_keypoints, file)
        for row, one in enumerate(list_of(content, "annotations", file)):
            reader.add(row, one)
        return cls(pictures=pictures, categories=categories, labels=reader.finish(), file=file)

    def placed(self, used: Sequence[int], path_of: Callable[[int], str], clip: str, exif: Exif) -> CocoLabels:
        """Boxes and joints on the pixels that training sees, boxes clipped to the picture.

        Args:
            used: places of the pictures whose headers count.
            path_of: path of the picture at a place.
            clip: see ``PoseSource``.
            exif: see ``PoseSource``.

        Raises:
            DataError: a picture has another size than the file says, or boxes are written in another way.
        """
        canvas = canvas_of(self.pictures, used, path_of, exif, self.file)
        people = self.labels.people
        if relative := relative_units(people, canvas.sizes, self.file):
            raise DataError(relative)
        odd = [*self._copies(people), *self._misread(people, canvas.sizes)]
        people, crowds, bare = (canvas.turned(one) for one in (people, self.labels.crowds, self.labels.bare))
        people, notes = self._clipped(people, canvas.upright, clip)
        labels = Labels(
            people=people, crowds=crowds, bare=bare, notes=(*self.labels.notes, *canvas.notes, *odd, *notes)
        )
        return replace(self, pictures=replace(self.pictures, sizes=canvas.upright), labels=labels)

    def nobody(self, content: Mapping[str, Any]) -> str:
        """Why there is nobody to train on or to score, where that is so: what applied to how many annotations.

        Args:
            content: that the labels were read from.
        """
        rows, labels, taken = (
            list_of(content, "annotations", self.file),
            self.labels,
            _ids({"categories": self.categories}),
        )
        kinds = [whole(one, "category_id", self.file, taken[0]) for one in rows]
        foreign = [kind for kind in kinds if kind not in taken]
        found = ", ".join(map(str, sorted(set(foreign))[:_NAMED]))
        counts = {
            f"of category_id {found}, and those looked at are of {', '.join(map(str, taken))}: correct 'category_id', "
            "or name the category in PoseSource.category": len(foreign),
            "crowds: write 'iscrowd' 0 for single people": len(labels.crowds),
            "without a labelled joint: label them, joints count with flag 1 or 2": len(labels.bare),
            "with box and joints outside of the picture: correct them": len(labels.people),
        }
        counts["of pictures that 'images' does not list: add these"] = len(rows) - sum(counts.values())
        told = "; ".join(
            f"{count} of {counted(len(rows), 'annotation')} {what}" for what, count in counts.items() if count
        )
        told = told or "'annotations' is empty: label people in these pictures, or export the labels again"
        return f"{self.file}: nobody is left: {told}"

    def _copies(self, people: People) -> list[Note]:
        """People with picture, box and joints of another one: perfect predictions find only one of two in scoring."""
        assert people.keypoints is not None
        joints = people.keypoints
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
            f"{self.file}: {counted(len(copies), 'annotation')} of {counted(len(people), 'person', 'people')} with "
            f"the picture, box and joints of another one, such as number {people.row[copies[first]]} in "
            f"'annotations', a copy of annotation {people.number[originals[first]]}; counted as people of their own "
            "in training and scoring"
        )
        return [Note(kind="copies", text=text)]

    def _misread(self, people: People, sizes: Any) -> list[Note]:
        """What is to be said of boxes that fit their joints in another spelling; a DataError where it is the file's."""
        assert people.keypoints is not None
        notes, own, everybody = [], sizes[people.picture], counted(len(people), "person", "people")
        for one in misread(people.box, people.keypoints, own):
            first, size = one.rows[0], own[one.rows[0]]
            box = ", ".join(f"{value:g}" for value in people.box[first])
            low, high = joint_extents(people.keypoints[[first]])
            numbers = ", ".join(map(str, people.number[one.rows[:_NAMED]]))
            more = " and others" if len(one.rows) > _NAMED else ""
            text = (
                f"{self.file}: 'bbox' of {len(one.rows)} of {everybody} does not suit their joints as [x, y, width, "
                f"height], and fits as {one.spelling}, such as [{box}] of annotation {people.number[first]} in "
                f"{size[0]} x {size[1]} pixels, with joints from ({low[0, 0]:g}, {low[0, 1]:g}) to ({high[0, 0]:g}, "
                f"{high[0, 1]:g})"
            )
            if one.everywhere:
                raise DataError(f"{text}; write {one.remedy}")
            where = f"{counted(len(one.rows), 'annotation')}: {numbers}{more}"
            text += f"; write {one.remedy} in {where}; taken as it stands"
            notes.append(Note(kind="box-spelling", text=text))
        return notes

    def _clipped(self, people: People, sizes: Any, clip: str) -> tuple[People, list[Note]]:
        """People with what the picture holds of their boxes; instead of boxes outside, one around the joints."""
        own, notes, everybody = sizes[people.picture], [], counted(len(people), "person", "people")
        boxes = clipped(people.box, own, clip)
        outside = ~(boxes[:, 2:] > 0).all(axis=1)
        if outside.any():
            assert people.keypoints is not None
            boxes[outside] = clipped(boxes_around(people.keypoints[outside]), own[outside], clip)
            lost = np.flatnonzero(~(boxes[:, 2:] > 0).all(axis=1))
            rest = int(outside.sum()) - len(lost)
            if rest:
                text = f"{self.file}: of the 'bbox' of {rest} of {everybody} nothing lies in the picture; "
                text += "the box around their labelled joints, grown by 10 % of its longer side, stands in"
                notes.append(Note(kind="box-outside", text=text))
            if len(lost):
                text = f"{self.file}: box and joints of {len(lost)} of {everybody} lie outside the "
                text += (
                    f"picture, such as those of annotation {people.number[lost][0]}; left out of training and scoring"
                )
                notes.append(Note(kind="person-outside", text=text))
                people, boxes = people.take(np.delete(np.arange(len(people)), lost)), np.delete(boxes, lost, axis=0)
        people.box[:] = boxes
        return people, notes

    def truth(self) -> dict[str, list[dict[str, Any]]]:
        """Everybody in COCO's form, in the order of the file: what scores compare with."""
        labels = self.labels
        rows = [*self._records(labels.people, 0), *self._records(labels.crowds, 1), *self._records(labels.bare, 0)]
        images = [
            {"id": number, "file_name": name, "width": width, "height": height}
            for number, name, (width, height) in zip(
                self.pictures.ids, self.pictures.names, self.pictures.sizes.tolist(), strict=True
            )
        ]
        annotations = [record for _, record in sorted(rows, key=lambda one: one[0])]
        return {"images": images, "annotations": annotations, "categories": [dict(one) for one in self.categories]}

    def _records(self, people: People, crowd: int) -> list[tuple[int, dict[str, Any]]]:
        assert self.labels.people.keypoints is not None
        shape = (len(people), self.labels.people.keypoints.shape[1], 3)
        joints = np.zeros(shape) if people.keypoints is None else people.keypoints
        counts = (joints[..., 2] > 0).sum(axis=1)
        return [
            (
                int(people.row[n]),
                {
                    "id": int(people.number[n]),
                    "image_id": self.pictures.ids[people.picture[n]],
                    "category_id": int(people.category[n]),
                    "iscrowd": crowd,
                    "keypoints": joints[n].ravel().tolist(),
                    "num_keypoints": int(counts[n]),
                    "area": float(people.area[n]),
                    "bbox": people.box[n].tolist(),
                },
            )
            for n in range(len(people))
        ]


def truth_of(annotations: str | Path | Mapping[str, Any], num_keypoints: int) -> dict[str, list[dict[str, Any]]]:
    """Labels of a file, or of its content, put right as an opened set puts them, but for what pictures tell.

    Args:
        annotations: in COCO's keypoint format.
        num_keypoints: K of the people to take.

    Raises:
        DataError: they are not as they should be.
    """
    mapped = isinstance(annotations, Mapping)
    file = "the annotations" if mapped else str(annotations)
    content = annotations if isinstance(annotations, Mapping) else read_content(Path(annotations))
    pictures = read_pictures(list_of(content, "images", file), file, named=False)
    categories = people_categories(content, file, num_keypoints=num_keypoints)
    return CocoLabels.read(content, pictures, categories, num_keypoints, file).truth()


def _ids(content: Mapping[str, Any]) -> list[int]:
    return [one["id"] for one in content.get("categories") or () if isinstance(one, Mapping) and "id" in one]
