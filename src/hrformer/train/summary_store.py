"""Keeps the pictures of the summary page, so that it can be written again without the model and the data."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hrformer.files import write_file
from hrformer.train.summary_pictures import Panel, ValidationPicture

FILE = "pictures.json"


def store_pictures(out: Path, groups: dict[str, Sequence[ValidationPicture]]) -> None:
    """Write groups of pictures to ``pictures.json`` of a run directory."""
    content = {name: [_to_json(picture) for picture in pictures] for name, pictures in groups.items()}
    text = json.dumps(content, ensure_ascii=False)
    write_file(out / FILE, lambda part: part.write_text(text, encoding="utf-8"))


def stored_pictures(out: Path) -> dict[str, list[ValidationPicture]]:
    """The groups written last; none where there is no such file, or it is not whole."""
    try:
        content = json.loads((out / FILE).read_text(encoding="utf-8"))
        return {name: [_from_json(picture) for picture in pictures] for name, pictures in content.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _to_json(picture: ValidationPicture) -> dict[str, Any]:
    return {
        "file": picture.file,
        # JSON has no NaN.
        "score": picture.score if picture.score == picture.score else "nan",
        "text": picture.text,
        "legend": picture.legend,
        "panels": [
            {"title": p.title, "size": p.size, "jpeg": base64.b64encode(p.jpeg).decode()} for p in picture.panels
        ],
    }


def _from_json(values: dict[str, Any]) -> ValidationPicture:
    panels = tuple(
        Panel(title=panel["title"], size=(panel["size"][0], panel["size"][1]), jpeg=base64.b64decode(panel["jpeg"]))
        for panel in values["panels"]
    )
    legend = tuple((name, (red, green, blue)) for name, (red, green, blue) in values["legend"])
    score = float(values["score"])
    return ValidationPicture(file=values["file"], score=score, text=values["text"], panels=panels, legend=legend)
