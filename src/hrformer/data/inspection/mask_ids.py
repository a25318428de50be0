"""What the ids in masks are, where the list of classes does not know them: said only where all masks make it sure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hrformer.data.sets import IGNORE

_LEAST_STEP, _LIGHT = 15, 30
"""Grey levels lie at least so far apart, 18 of them over 0..255, and the highest is at least so light."""

_MANY = 64
"""So many ids of no class in one set are no forgotten lines in a list."""

FIX_IDS = f"name all classes in data.classes, or list ids that are no class: --data.ignore ID; {IGNORE} is void anyway"


def advice(unknown: Sequence[int], found: Sequence[int], listed: Sequence[int]) -> str:
    """What to do about ids that no class has.

    Args:
        unknown: ids that occur in masks and belong to no class, ascending.
        found: all ids that occur, ascending.
        listed: ids of the classes, ascending.
    """
    used = [number for number in found if number != IGNORE]
    count = len(listed)
    if list(unknown) == [0]:
        return "add `0 background` to the list of classes if 0 is what lies around them; else --data.ignore 0"
    if tuple(listed) == tuple(range(count)):
        if list(unknown) == [count] and 0 not in used:
            return (
                f"labels count from 1: 0 is in no mask, and {count} has no class. List the classes as 1..{count} in "
                "data.classes, or subtract 1 from the ids in the masks"
            )
        if list(unknown) == [count]:
            return (
                f"the masks hold 0..{count}, one id more than the {count} classes of the list: list the missing one. "
                f"If labels count from 1 and 0 is no class, list the classes as 1..{count} and give --data.ignore 0"
            )
    if list(unknown) == [IGNORE]:
        return f"leave --data.ignore none out, so that {IGNORE} is void; or name what it stands for in data.classes"
    if are_grey_levels(found, listed):
        levels = ", ".join(map(str, found))
        return (
            f"{levels} look like grey levels, not ids: save each class as its id, 0, 1, 2 ..., or list these values as "
            "the ids of the classes"
            + (f" ({IGNORE} counts as void unless --data.ignore none is given)" if IGNORE in found else "")
        )
    if tuple(listed) == (0, 1) and list(unknown) == list(range(2, 2 + len(unknown))):
        return (
            f"{FIX_IDS}. If the numbers 1..{unknown[-1]} tell single objects of one class apart (instance masks), save "
            "1 for all of them"
        )
    if len(unknown) >= _MANY:
        return (
            f"so many different values ({len(unknown)} of no class) are no ids of classes: pictures in grey, edges "
            "that were smoothed in resizing (use nearest neighbour), or numbers of single objects? Save the id of "
            "its class for every pixel"
        )
    return FIX_IDS


def are_grey_levels(found: Sequence[int], listed: Sequence[int]) -> bool:
    """Whether values that are no ids of classes, but for 0, lie as far apart as what an editor shows as grey does.

    Args:
        found: all values that occur, ascending, such as 0 128 255 or 0 85 170 255.
        listed: ids of the classes.
    """
    apart = all(after - before >= _LEAST_STEP for before, after in pairwise(found))
    return apart and found[-1] >= _LIGHT and not ({*found} & {*listed}) - {0}
