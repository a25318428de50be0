"""Labels of one file in COCO's keypoint format, put right once for training, scoring and inspection.

Labelling tools differ in how they write numbers, areas, boxes and joints without label; what is meant is taken, and
said once per file. N people, K joints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrformer.data.coco_boxes import boxes_around, clipped, joint_extents, misread, relative_units
from hrformer.data.coco_file import (
    Pictures,
    list_of,
    people_categories,
    read_categories,
    read_content,
    read_pictures,
    told_of,
    whole,
)
from hrformer.data.coco_people import BARE, CROWD, OUTSIDE, PERSON, People, read_people
from hrformer.data.set_types import DataError, Note
from hrformer.data.source_config import Exif
from hrformer.data.turned_labels import canvas_of
from hrformer.geometry.oks import MASK_SHARE
from hrformer.geometry.orientation import upright_boxes, upright_points
from hrformer.wording import counted, listed

SMALLEST_SHARE, LARGEST_SHARE = 0.01, 1.5
"""Areas outside of these shares of the box are none of the person's; masks may be small shares of their boxes."""

_NAMED = 5
_AROUND_JOINTS = "the box around their labelled joints, grown by 10 % of its longer side, stands in"


class CocoLabels:
    """Everybody in a file.

    Args:
        content: of the file, as ``pictures``.
        categories: those to look at.
        num_keypoints: K.
        file: what to call it in messages.

    Attributes:
        people: in the order of the file.
        notes: what was put right.

    Raises:
        DataError: an annotation is not as it should be.
    """

    def __init__(
        self,
        content: Mapping[str, Any],
        pictures: Pictures,
        categories: list[dict[str, Any]],
        num_keypoints: int,
        file: str,
    ) -> None:
        self.pictures, self.categories, self.file = pictures, categories, file
        known, taken = ({one["id"] for one in some} for some in (read_categories(content, file), categories))
        records = list_of(content, "annotations", file)
        with told_of(file):
            self.people, claimed, outlined, foreign = read_people(records, pictures, taken, known, num_keypoints)
        self.notes: tuple[Note, ...] = ()
        self._clean()
        self._count_joints(claimed)
        self._put_boxes()
        self._put_areas(outlined)
        if foreign:
            what = counted(foreign, "annotation")
            self._note("unknown-category", f"{what} of categories that the file does not list; left out")

    @property
    def persons(self) -> NDArray[np.bool_]:
        """(N,) who has a labelled joint."""
        return self.people.kind == PERSON

    def _note(self, kind: str, text: str) -> None:
        self.notes += (Note(kind=kind, text=f"{self.file}: {text}"),)

    def _share(self, some: NDArray[np.bool_]) -> str:
        """How many of the people these are."""
        return f"{np.count_nonzero(some)} of {counted(int(self.persons.sum()), 'person', 'people')}"

    def _refuse(self, wrong: NDArray[np.bool_], what: str) -> None:
        """Name the first of those that are wrong, and how many more there are; nothing where none is."""
        if wrong.any():
            raise DataError(f"{self.file}: annotation {listed(self.people.number[wrong], _NAMED)}: {what}")

    def _clean(self) -> None:
        """Take joints that are partly or wholly NaN as not labelled."""
        joints = self.people.keypoints
        finite = np.isfinite(joints)
        if not finite.all():
            self._refuse(np.isinf(joints).any(axis=(1, 2)), "'keypoints' must be finite numbers of pixels")
            joints[~finite.all(axis=2)] = 0
        odd = ~np.isin(joints[..., 2], (0, 1, 2))
        if odd.any():
            what = "the flags in 'keypoints' must be 0 (not labelled), 1 (hidden) or 2 (visible), got "
            self._refuse(np.asarray(odd.any(axis=1)), f"{what}{joints[..., 2][odd][0]:g}")

    def _count_joints(self, claimed: NDArray[np.float64]) -> None:
        """Compare with ``num_keypoints``, NaN where it is not said."""
        people = self.people
        counts, single = (people.keypoints[..., 2] > 0).sum(axis=1), people.kind != CROWD
        if wrong := int((single & ~np.isnan(claimed) & (claimed != counts)).sum()):
            self._note(
                "num-keypoints",
                f"'num_keypoints' of {wrong} of {counted(int(single.sum()), 'person', 'people')} is not the number of "
                "their labelled joints; the flags in 'keypoints' are counted",
            )
        empty = self.persons & (counts == 0)
        people.kind[empty], people.keypoints[empty] = BARE, 0

    def _put_boxes(self) -> None:
        """Give people without a box one around their joints."""
        people, persons = self.people, self.persons
        # A box without extent excuses no result near crowds and people without joints, as if they were not there.
        people.box[np.isnan(people.box) & ~persons[:, None]] = 0
        flat = persons & ~(people.box[:, 2:] > 0).all(axis=1)
        if flat.any():
            people.box[flat] = boxes_around(people.keypoints[flat])
            remedy = "needs a 'bbox' [x, y, width, height] with a width and height above 0, since the labelled joints "
            self._refuse(flat & ~(people.box[:, 2:] > 0).all(axis=1), f"{remedy}do not span one")
            self._note("flat-box", f"no 'bbox' with width and height in {self._share(flat)}; {_AROUND_JOINTS}")

    def _put_areas(self, outlined: NDArray[np.bool_]) -> None:
        """Put the usual share of the box in place of areas that are none."""
        people, persons = self.people, self.persons
        whole_box = np.prod(np.maximum(people.box[:, 2:], 0), axis=1)
        lacking = ~(people.area > 0)
        senseless = ~lacking & ~outlined & (people.area < SMALLEST_SHARE * whole_box)
        senseless |= people.area > LARGEST_SHARE * whole_box
        odd = np.where(persons, lacking | senseless, lacking | np.isinf(people.area))
        people.area[odd] = MASK_SHARE * whole_box[odd]
        counts = {"without an area above 0": lacking, "with an area that does not fit the box": senseless}
        told = [f"{np.count_nonzero(rows & persons)} {what}" for what, rows in counts.items() if (rows & persons).any()]
        if told:
            what = f"{MASK_SHARE} x width x height of the box stands in, in training and scoring"
            self._note("no-area", f"'area' of {self._share(odd & persons)}: {', '.join(told)}; {what}")

    def place(self, used: Sequence[int], path_of: Callable[[int], str], clip: str, exif: Exif) -> None:
        """Put boxes and joints on the pixels that training sees, boxes clipped to the picture.

        The headers of the pictures at the places ``used`` count; for ``clip`` and ``exif`` see ``PoseSource``.

        Raises:
            DataError: a picture has another size than the file says, or boxes are written in another way.
        """
        people = self.people
        with told_of(self.file):
            canvas = canvas_of(self.pictures, used, path_of, exif, "PoseSource", "boxes and joints")
            seen = people.take(self.persons)
            if relative := relative_units(seen.box, seen.keypoints, canvas.sizes[seen.picture]):
                raise DataError(relative)
        for note in canvas.notes:
            self._note(note.kind, note.text)
        self._tell_copies(seen)
        self._tell_misread(seen, canvas.sizes[seen.picture])
        for row in np.flatnonzero(np.isin(people.picture, [*canvas.turned])).tolist():
            place = int(people.picture[row])
            size, orientation = tuple(canvas.sizes[place].tolist()), canvas.turned[place]
            people.box[row] = upright_boxes(people.box[row], size, orientation)
            labelled = people.keypoints[row, :, 2] > 0
            people.keypoints[row, labelled, :2] = upright_points(people.keypoints[row, labelled, :2], size, orientation)
        self.pictures = replace(self.pictures, sizes=canvas.upright)
        self._clip(clip)

    def _tell_copies(self, people: People) -> None:
        """People with picture, box and joints of another one: perfect predictions find only one of two in scoring."""
        joints = people.keypoints
        # Copies come to stand behind each other, as sorting by all numbers would have it, in a tenth of the memory.
        order = np.lexsort((joints.sum(axis=(1, 2)), *people.box.T, people.picture))
        before, after = order[:-1], order[1:]
        near = (people.picture[before] == people.picture[after]) & (people.box[before] == people.box[after]).all(axis=1)
        before, after = before[near], after[near]
        same = (joints[before] == joints[after]).all(axis=(1, 2))
        copies, originals = after[same], before[same]
        if len(copies):
            first, what = int(copies.argmin()), counted(len(copies), "annotation")
            self._note(
                "copies",
                f"{what} of {counted(len(people), 'person', 'people')} with the picture, box and joints of another "
                f"one, such as number {people.row[copies[first]]} in 'annotations', a copy of annotation "
                f"{people.number[originals[first]]}; counted as people of their own in training and scoring",
            )

    def _tell_misread(self, people: People, sizes: NDArray[np.int64]) -> None:
        """What is to be said of boxes that fit their joints in another spelling; a DataError where all do."""
        for one in misread(people.box, people.keypoints, sizes):
            first = one.rows[0]
            (width, height), box = sizes[first], ", ".join(f"{value:g}" for value in people.box[first])
            low, high = (corner[0] for corner in joint_extents(people.keypoints[[first]]))
            text = (
                f"'bbox' of {len(one.rows)} of {counted(len(people), 'person', 'people')} does not suit their "
                f"joints as [x, y, width, height], and fits as {one.spelling}, such as [{box}] of annotation "
                f"{people.number[first]} in {width} x {height} pixels, with joints from ({low[0]:g}, {low[1]:g}) to "
                f"({high[0]:g}, {high[1]:g}); write {one.remedy}"
            )
            if one.everywhere:
                raise DataError(f"{self.file}: {text}")
            some = f"{counted(len(one.rows), 'annotation')}: {listed(people.number[one.rows], _NAMED)}"
            self._note("box-spelling", f"{text} in {some}; taken as it stands")

    def _clip(self, rule: str) -> None:
        """Keep what the picture holds of boxes; instead of boxes outside, one around the joints."""
        people, rows = self.people, np.flatnonzero(self.persons)
        sizes, joints = self.pictures.sizes[people.picture[rows]], people.keypoints[rows]
        boxes = clipped(people.box[rows], sizes, rule)
        outside = np.asarray((boxes[:, 2:] <= 0).any(axis=1))
        boxes[outside] = clipped(boxes_around(joints[outside]), sizes[outside], rule)
        people.box[rows] = boxes
        lost = np.asarray((boxes[:, 2:] <= 0).any(axis=1))
        if (outside & ~lost).any():
            share = self._share(outside & ~lost)
            self._note("box-outside", f"of the 'bbox' of {share} nothing lies in the picture; {_AROUND_JOINTS}")
        if lost.any():
            text = f"box and joints of {self._share(lost)} lie outside the picture, such as those of annotation "
            self._note("person-outside", f"{text}{people.number[rows[lost]][0]}; left out of training and scoring")
            people.kind[rows[lost]] = OUTSIDE

    def nobody(self, content: Mapping[str, Any]) -> str:
        """Why there is nobody to train on or to score: what applied to how many annotations of the file's content."""
        rows, taken = list_of(content, "annotations", self.file), [one["id"] for one in self.categories]
        kinds = [whole(one, "category_id", self.file, taken[0]) for one in rows]
        foreign = [kind for kind in kinds if kind not in taken]
        _, crowds, bare, outside = np.bincount(self.people.kind, minlength=4).tolist()
        there, looked_at = listed(sorted({*foreign}), _NAMED), ", ".join(map(str, taken))
        counts = {
            f"of category_id {there}, and those looked at are of {looked_at}: correct 'category_id', or name the "
            "category in PoseSource.category": len(foreign),
            "crowds: write 'iscrowd' 0 for single people": crowds,
            "without a labelled joint: label them, joints count with flag 1 or 2": bare,
            "with box and joints outside of the picture: correct them": outside,
        }
        counts["of pictures that 'images' does not list: add these"] = len(rows) - sum(counts.values())
        everybody = counted(len(rows), "annotation")
        told = "; ".join(f"{count} of {everybody} {what}" for what, count in counts.items() if count)
        told = told or "'annotations' is empty: label people in these pictures, or export the labels again"
        return f"{self.file}: nobody is left: {told}"

    def truth(self) -> dict[str, list[dict[str, Any]]]:
        """Everybody in COCO's form, in the order of the file: what scores compare with."""
        ids, people = self.pictures.ids, self.people
        pictures = zip(ids, self.pictures.names, self.pictures.sizes.tolist(), strict=True)
        counts = (people.keypoints[..., 2] > 0).sum(axis=1)
        return {
            "images": [
                {"id": number, "file_name": name, "width": width, "height": height}
                for number, name, (width, height) in pictures
            ],
            "annotations": [
                {
                    "id": int(people.number[n]),
                    "image_id": ids[people.picture[n]],
                    "category_id": int(people.category[n]),
                    "iscrowd": int(people.kind[n] == CROWD),
                    "keypoints": people.keypoints[n].ravel().tolist(),
                    "num_keypoints": int(counts[n]),
                    "area": float(people.area[n]),
                    "bbox": people.box[n].tolist(),
                }
                for n in np.flatnonzero(people.kind != OUTSIDE)
            ],
            "categories": [dict(one) for one in self.categories],
        }


def truth_of(annotations: str | Path | Mapping[str, Any], num_keypoints: int) -> dict[str, list[dict[str, Any]]]:
    """Labels of a file, or of its content, put right as an opened set puts them, but for what pictures tell.

    People of so many keypoints are taken, if there are several kinds. A ``DataError`` says what is not as it should be.
    """
    if isinstance(annotations, Mapping):
        file, content = "the annotations", annotations
    else:
        file, content = str(annotations), read_content(Path(annotations))
    pictures = read_pictures(content, file, named=False)
    categories = people_categories(content, file, num_keypoints=num_keypoints)
    return CocoLabels(content, pictures, categories, num_keypoints, file).truth()
