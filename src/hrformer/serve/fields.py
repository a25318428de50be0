"""What a request may say: its fields per task, with the predictor's names and defaults, and how bodies are read."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, conlist, create_model
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from hrformer.predict.predictors import AnyPredictor
from hrformer.wording import shortened

OPTIONS = {
    "classification": ("flip", "top_k"),
    "segmentation": ("flip", "short_side", "scales"),
    "pose": ("flip", "shift", "joint_threshold", "box_threshold", "nms", "nms_threshold"),
}
"""Options of the predictors that a client may set; the others say how the server computes."""

MEANINGS = {
    "flip": "Also run the mirror image and merge both.",
    "top_k": "How many classes to report.",
    "short_side": "Bring the picture's short side to this many pixels first; null keeps its size.",
    "scales": "Factors on the network's input; raw outputs are summed over them.",
    "shift": "With flip, move the mirrored maps by one cell before averaging, unless the weights say otherwise.",
    "joint_threshold": "Joints must score above it to count in the person's score, and to be drawn in a PNG.",
    "box_threshold": "People found with a lower score are left out.",
    "nms": "Of several similar people keep the best (hard), damp the others (soft), keep all (off); auto: hard where "
    "people were found, off where boxes were given.",
    "nms_threshold": "People with a higher object keypoint similarity count as one.",
}

MOST_SCALES = 16
"""Passes over a picture that a client may ask for."""

Box: TypeAlias = tuple[float, float, float, float]

SMALLEST, LARGEST = 1e-3, 1e6
"""Pixels that a box has at least on each side, and beyond which no coordinate lies."""

MOST_VALUES = 100_000
"""In a body or a field, counted by commas before it is parsed: 32 pictures with 100 boxes have 12,800."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """A picture as it came: the client's name for it, and the bytes of the file."""

    name: str | None
    data: bytes


def fields_of(name: str, predictor: AnyPredictor, pictures: int, people: int) -> type[BaseModel]:
    """The fields of a request to a model, ``image`` aside, with that predictor's defaults.

    ``pictures`` and ``people`` are the most in a request and in a picture.
    """
    hints = get_type_hints(type(predictor.options)) | {"scales": _list(float, MOST_SCALES)}
    made: dict[str, Any] = {
        option: (hints[option], Field(getattr(predictor.options, option), description=MEANINGS[option]))
        for option in OPTIONS[predictor.task]
    }
    if predictor.task == "segmentation":
        made["mask"] = (bool, Field(False, description="Answer with the class of every pixel, as run lengths, too."))
        made["picture"] = (
            Literal["drawn", "mask"],
            Field("drawn", description="With Accept: image/png: the drawn picture, or the class ids as grey levels."),
        )
    if predictor.task == "pose":
        one, scores = _list(Box, people), _list(float, people)
        each = _list(one | None, pictures)
        made["boxes"] = (
            one | each | None,
            Field(
                None,
                description="People as [x, y, width, height] in pixels of the upright picture. For several pictures "
                "one such list each, or null. Without boxes people are found.",
            ),
        )
        made["box_scores"] = (
            scores | _list(scores | None, pictures) | None,
            Field(None, description="A score for each box; 1 where left out."),
        )
        made["detector"] = (
            Literal["picture"] | None,
            Field(None, description="'picture' takes the whole picture for one person; null finds people."),
        )
    config = ConfigDict(extra="forbid", allow_inf_nan=False, json_schema_extra={"title": f"Options of {name}"})
    return create_model(f"Options_{name.replace('-', '_').replace('.', '_')}", __config__=config, **made)


def _list(kind: Any, most: int) -> Any:
    """A list of at most so many; what comes after them is not looked at."""
    return conlist(kind, max_length=most)


def with_images(fields: type[BaseModel], most: int) -> type[BaseModel]:
    """The body of a request in JSON: the fields, and at most so many pictures as base64."""
    pictures = Field(description="A picture file in base64, or several.")
    made: Any = create_model(f"{fields.__name__}_json", __base__=fields, image=(str | _list(str, most), pictures))
    return made


def form_schema(fields: type[BaseModel]) -> dict[str, Any]:
    """The description of a form in OpenAPI: lists are JSON text, and an empty text says nothing."""
    schema: dict[str, Any] = {
        "image": {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
    }
    for name, field in fields.model_json_schema()["properties"].items():
        default, kind = field.get("default"), field.get("type")
        if kind == "array" or (default is None and "anyOf" in field):
            text = "" if default is None else json.dumps(default)
            schema[name] = {"type": "string", "default": text, "description": field.get("description", "")}
        else:
            schema[name] = field
    return {"type": "object", "properties": schema, "required": ["image"], "additionalProperties": False}


def parse_json(body: bytes, model: type[BaseModel]) -> tuple[list[Upload], dict[str, Any]]:
    """Pictures and fields of a JSON body; HTTPException 400 if it is not JSON, 422 if it is not what is known here."""
    _check_length(body.count(b","), "the body")
    try:
        found = model.model_validate_json(body).__dict__.copy()
    except ValidationError as error:
        raise refusal(error, model) from None
    texts = found.pop("image")
    uploads = []
    for number, text in enumerate([texts] if isinstance(texts, str) else texts):
        try:
            uploads.append(Upload(name=None, data=base64.b64decode("".join(text.split()), validate=True)))
        except (binascii.Error, ValueError):
            raise HTTPException(422, f"image {number} is not base64 of a file, without 'data:' before it") from None
    return uploads, found


def parse_form(form: FormData, model: type[BaseModel]) -> tuple[list[UploadFile], dict[str, Any]]:
    """Files and fields of a multipart body; HTTPException 422 if they are not what is known here."""
    files: list[UploadFile] = []
    values: dict[str, Any] = {}
    for name, value in form.multi_items():
        if name == "image":
            if not isinstance(value, UploadFile):
                raise HTTPException(422, "field 'image' must be a file: with curl, -F image=@picture.jpg")
            files.append(value)
        elif isinstance(value, UploadFile):
            raise HTTPException(422, f"field {name!r} must be text; only 'image' is a file")
        elif name in values:
            raise HTTPException(422, f"field {name!r} was given more than once")
        elif value:
            values[name] = _plain(name, value)
    try:
        return files, model.model_validate(values).__dict__.copy()
    except ValidationError as error:
        raise refusal(error, model) from None


def _plain(name: str, text: str) -> Any:
    """A form's text as a value: lists and null as in JSON, the rest as it is."""
    if not text.lstrip().startswith("[") and text.strip() != "null":
        return text
    _check_length(text.count(","), f"field {name!r}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise HTTPException(422, f"field {name!r} is not JSON: {text[:80]!r}") from None


def _check_length(values: int, what: str) -> None:
    if values > MOST_VALUES:
        raise HTTPException(422, f"{what} holds more than {MOST_VALUES} values")


def refusal(error: ValidationError, model: type[BaseModel]) -> HTTPException:
    """One sentence about the first thing that is wrong."""
    errors = error.errors(include_url=False)
    first = next((one for one in errors if one["type"] == "too_long"), errors[0])
    place = [str(part) for part in first["loc"]]
    if first["type"] == "json_invalid":
        return HTTPException(400, f"the body is not JSON: {first['msg']}")
    name = place[0] if place else "body"
    if first["type"] == "extra_forbidden":
        return HTTPException(422, f"unknown field {name!r}; known: {', '.join(['image', *_known(model)])}")
    if first["type"] == "too_long":
        return HTTPException(422, f"field {name!r} has a list of more than {first['ctx']['max_length']} entries")
    if name == "boxes":
        return HTTPException(
            422, "field 'boxes' must be [[x, y, width, height], ...], for several pictures one such list each"
        )
    value = shortened(repr(first["input"]), 80)
    return HTTPException(422, f"field {name!r}: {first['msg'][:1].lower()}{first['msg'][1:]}, got {value}")


def _known(model: type[BaseModel]) -> list[str]:
    return [name for name in model.model_fields if name != "image"]


def boxes_per_picture(found: Mapping[str, Any], pictures: int) -> list[tuple[list[Box] | None, list[float] | None]]:
    """Boxes and their scores for each picture of a request; None for a picture whose people are to be found.

    Raises:
        HTTPException: 422, for other numbers than there are pictures, or for empty or far away ones.
    """
    boxes, scores = found.get("boxes"), found.get("box_scores")
    if boxes is not None and found.get("detector") is not None:
        raise HTTPException(422, "give boxes or detector, not both")
    if scores is not None and boxes is None:
        raise HTTPException(422, "box_scores need boxes")
    rows = _each(boxes, pictures, "boxes", single=not boxes or isinstance(boxes[0], tuple))
    score_rows = _each(scores, pictures, "box_scores", single=not scores or isinstance(scores[0], float | int))
    for row, values in zip(rows, score_rows, strict=True):
        _check_boxes(row or [])
        if values is not None and max(map(abs, values), default=0) > LARGEST:
            raise HTTPException(422, f"box_scores must lie within {LARGEST:g} of 0")
        if values is not None and len(values) != len(row or []):
            raise HTTPException(422, f"{len(row or [])} boxes need as many box_scores, got {len(values)}")
    return list(zip(rows, score_rows, strict=True))


def _each(values: Any, pictures: int, name: str, *, single: bool) -> list[Any]:
    if values is None:
        return [None] * pictures
    rows = [values] if single else values
    if len(rows) != pictures:
        raise HTTPException(422, f"{name} must have one list for each of the {pictures} pictures, got {len(rows)}")
    return list(rows)


def _check_boxes(boxes: list[Box]) -> None:
    for box in boxes:
        if min(box[2:]) < SMALLEST or max(map(abs, box)) > LARGEST:
            raise HTTPException(
                422, f"a box must be [x, y, width, height] in pixels, width and height above 0, got {list(box)}"
            )
