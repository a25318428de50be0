"""Boxes and joints of N labelled people that are shares or percent of their pictures instead of pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hrformer.data.coco_boxes import holds_joints, misread
from hrformer.data.coco_records import People
from hrformer.wording import counted

_SHARES, _PERCENT = 1, 100

_FEWEST, _LARGE, _SURE = 3, 250, 3.9
"""So many people or more within 100 pixels of the corner of pictures whose sides are at least so long are no chance, if
that is the power of ten against it for people who lie anywhere: five in 250 x 250 pixels, three in 500 x 500."""

_ROUNDING, _OUTSIDE, _MOST = 1.01, 1.2, 0.95
"""How far most numbers, and the others, may pass the whole: tools round, and a joint or two lie beyond the edge."""

_AGREE, _DIFFER = 0.7, 0.5
"""Of more people box and joints must fit once they are pixels, and of fewer as they stand."""


def relative_units(people: People, sizes: NDArray[np.int64], file: str) -> str:
    """What to say of a file whose labels are no pixels; empty for pixels.

    Shares in the joints alone are left to the inspection, which sees them person by person.

    Args:
        people: with a labelled joint in everybody.
        sizes: (M, 2) (width, height) of the pictures, 0 where unknown.
        file: what to call it.
    """
    if not len(people):
        return ""
    assert people.keypoints is not None
    own, shown = sizes[people.picture], people.keypoints[..., 2] > 0
    numbers = {"keypoints": people.keypoints[..., :2][shown], "bbox": people.box}
    for whole, what in ((_SHARES, "shares"), (_PERCENT, "percent")):
        fields = [field for field, values in numbers.items() if _within(values, whole)]
        if fields and own.min() > 2 and _believed(fields, people, own, whole):
            farthest, part = max(float(numbers[field].max()) for field in fields), "" if whole == 1 else f" / {whole}"
            everybody = f"{'all ' * (len(people) > 1)}{counted(len(people), 'person', 'people')}"
            sides = ("x and width", "y and height") if "bbox" in fields else ("x", "y")
            other = ", unlike 'bbox'" if fields == ["keypoints"] else ", unlike 'keypoints'" if len(fields) == 1 else ""
            return (
                f"{file}: {' and '.join(map(repr, fields))} of {everybody} end at {farthest:g}{other}, in pictures of "
                f"{own.min()} pixels and more: {what} of the picture instead of pixels. Multiply {sides[0]} by the "
                f"picture's width{part}, {sides[1]} by its height{part}{_spelling(fields, people, own, whole)}"
            )
    return ""


def _within(values: NDArray[np.floating], whole: int) -> bool:
    """Whether numbers end where the whole does."""
    most, last = float(np.quantile(values, _MOST)), float(values.max())
    return most <= whole * _ROUNDING and last <= whole * _OUTSIDE and (whole == _SHARES or last > whole / 2)


def _believed(fields: list[str], people: People, sizes: NDArray[np.int64], whole: int) -> bool:
    """Whether numbers within the whole are relative indeed."""
    if whole == _SHARES:
        return "bbox" in fields
    many = len(people) >= _FEWEST and sizes.min() >= _LARGE
    many = many and float(np.log10(sizes.prod(axis=1) / _PERCENT**2).sum()) > _SURE
    if len(fields) == 2:
        return many
    joints, boxes = _in_pixels(fields, people, sizes, whole)
    middle = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)
    fits = float((holds_joints(boxes, joints) | holds_joints(middle, joints)).mean())
    assert people.keypoints is not None
    return fits > _AGREE and (many or float(holds_joints(people.box, people.keypoints).mean()) < _DIFFER)


def _in_pixels(
    fields: list[str], people: People, sizes: NDArray[np.int64], whole: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Joints and boxes, those of the named fields multiplied by their picture's size."""
    assert people.keypoints is not None
    joints, boxes, scale = people.keypoints.copy(), people.box.astype(np.float64), sizes / whole
    if "keypoints" in fields:
        joints[..., :2] *= scale[:, None]
    if "bbox" in fields:
        boxes *= np.tile(scale, 2)
    return joints, boxes


def _spelling(fields: list[str], people: People, sizes: NDArray[np.int64], whole: int) -> str:
    """What else is to be done to boxes that are not even corner and size, as those of YOLO."""
    joints, boxes = _in_pixels(fields, people, sizes, whole)
    odd = next((one for one in misread(boxes, joints, sizes) if one.everywhere), None)
    return f"; and the boxes are {odd.spelling}, so write {odd.remedy} then" if odd else ""
