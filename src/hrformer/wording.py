"""Words for messages: counts, lists and values that stay short."""

from __future__ import annotations

from collections.abc import Iterable


def counted(number: int, thing: str, things: str = "") -> str:
    """``1 picture``, ``2 pictures``."""
    return f"{number} {thing if number == 1 else things or thing + 's'}"


def listed(names: Iterable[object], limit: int = 5) -> str:
    """The first names, and how many more there are: ``a, b and 7 more``."""
    words = [str(name) for name in names]
    more = f" and {len(words) - limit} more" if len(words) > limit else ""
    return ", ".join(words[:limit]) + more


def shortened(text: str, limit: int) -> str:
    """A text of at most so many letters, the last three of them dots where it was longer."""
    return text if len(text) <= limit else text[: limit - 3] + "..."
