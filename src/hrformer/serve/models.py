"""A model as it is served: its way from the bytes of a picture to a typed result, and what clients are told of it."""

from __future__ import annotations

import asyncio
import io
import json
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, replace
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from starlette.exceptions import HTTPException

from hrformer.data.draw import color_of
from hrformer.data.images import DAMAGE, LoadedImage, load_image
from hrformer.fast.choice import Precision
from hrformer.fast.optimize import optimize
from hrformer.predict.boxes import WHOLE, Detector, PersonBoxes, found_boxes, given_boxes
from hrformer.predict.detectors import MaskDetector, detector_for
from hrformer.predict.exported import ExportedFile
from hrformer.predict.pose import PosePredictor
from hrformer.predict.predictors import AnyPredictor
from hrformer.predict.results import Keypoints, Result, Segmentation, encode_picture
from hrformer.predict.segment import SegmentationPredictor
from hrformer.serve.batcher import Batcher, Lane, QueueFull
from hrformer.serve.fields import OPTIONS, Box, Upload, fields_of, with_images
from hrformer.serve.options import ServeOptions
from hrformer.wording import shortened

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF")
"""What Pillow calls the formats that are taken from strangers; others have readers that start programs."""

BATCH_PIXELS = 1_000_000
"""Most pixels in a batch of whole pictures: 2.5 GB, see ``hrformer.predict.segment``."""

MOST_SCANS = 200
"""Passes over a JPEG file; cameras and encoders write up to a dozen."""

_RUN_OPTIONS = {"classification": ("flip",), "segmentation": ("flip", "scales", "pad"), "pose": ("flip", "shift")}
"""Options that the pass through the network depends on: parts share a batch where they are equal."""

Value = TypeVar("Value")


class Places:
    """Room for what is in work at a time. For one event loop."""

    def __init__(self, most: int) -> None:
        self.most, self.used = most, 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def take(self, number: int) -> None:
        """Take room; QueueFull if there is too little. Who is alone gets any amount."""
        if self.used and self.used + number > self.most:
            raise QueueFull
        self.used += number

    @asynccontextmanager
    async def room(self, number: int) -> AsyncIterator[None]:
        """Room within a block, waited for in the order of asking."""
        if self._waiting or (self.used and self.used + number > self.most):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((number, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._leave(number)
                raise
        else:
            self.used += number
        try:
            yield
        finally:
            self._leave(number)

    def _leave(self, number: int) -> None:
        self.used -= number
        while self._waiting:
            wanted, turn = self._waiting[0]
            if not turn.cancelled():
                if self.used and self.used + wanted > self.most:
                    return
                self.used += wanted
                turn.set_result(None)
            self._waiting.popleft()


def picture_size(data: bytes, most: int) -> tuple[int, int]:
    """Width and height of a picture file, from its header.

    Raises:
        HTTPException: 422 for no picture in one of the ``FORMATS``, or one that would take long to decode for its size;
            413 for more than ``most`` pixels.
    """
    Image.init()  # before that Pillow does not know all; without effect from the second call on
    known = [name for name in FORMATS if name in Image.OPEN]  # AVIF since Pillow 11.3
    try:
        with Image.open(io.BytesIO(data), formats=known) as image:
            width, height = image.size
            kind = image.format
    except Image.DecompressionBombError:
        raise HTTPException(413, f"the picture has more than {most} pixels: shrink it first") from None
    except (Image.UnidentifiedImageError, *DAMAGE):
        kinds = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF"
        raise HTTPException(422, f"not a picture that can be read here; send one of {kinds}") from None
    if width * height > most:
        raise HTTPException(
            413, f"the picture has {width} x {height} pixels, at most {most} are taken: shrink it first"
        )
    if (kind == "PNG" and _inflates_past(data, 8 * (width + 8) * (height + 8) + 65536)) or (
        kind == "JPEG" and data.count(b"\xff\xda") > MOST_SCANS
    ):
        raise HTTPException(422, "the file holds far more data than a picture of its size")
    return width, height


def _inflates_past(png: bytes, most: int) -> bool:
    """Whether the pixels of a PNG file inflate to more bytes than ``most``; readers would go through all of them."""
    inflating, total, place = zlib.decompressobj(), 0, 8
    while place + 8 <= len(png):
        length = int.from_bytes(png[place : place + 4], "big")
        if png[place + 4 : place + 8] == b"IDAT":
            rest = png[place + 8 : place + 8 + length]
            while rest and not inflating.eof:
                try:
                    total += len(inflating.decompress(rest, 1 << 20))
                except zlib.error:
                    return False  # damaged: the reader says so
                if total > most:
                    return True
                rest = inflating.unconsumed_tail
        place += length + 12
    return False


class ServedModel:
    """A predictor behind the batcher.

    Args:
        name: in addresses.
        predictor: on its device.
        options: of the server.
        batcher: runs the networks.
        pool: threads for everything else: decoding, cutting out, drawing, encoding.
        detector: pose: who finds people, see ``PosePredictor.stream``; None takes the predictor's default.
        fast: run a detector's network through ``hrformer.optimize``, too.
        precision: of that network's products, with ``fast``.
        pixels: room for decoded pictures, shared by all models.
        people: room for people cut out of them.
    """

    def __init__(
        self,
        name: str,
        predictor: AnyPredictor,
        options: ServeOptions,
        *,
        batcher: Batcher,
        pool: ThreadPoolExecutor,
        pixels: Places,
        people: Places,
        detector: str | None = None,
        fast: bool = True,
        precision: Precision = "fp32",
    ) -> None:
        self.name, self.predictor, self.options = name, predictor, options
        self._batcher, self._pool = batcher, pool
        self._pixels, self._people_places = pixels, people
        self.places = Places(options.queue)
        if isinstance(predictor, PosePredictor) and predictor.info.skeleton is None:
            predictor.options = replace(predictor.options, flip=False)  # left and right are unknown
        whole = predictor.task == "segmentation" or self.file is not None
        self.lane = Lane(name=name, probe=self._probe, pixels=BATCH_PIXELS if whole else None)
        self.detector_name, self._detector = self._found_detector(detector, fast, precision)
        finder = Lane(name=f"{name} detector", probe=self._probe_detector, pixels=BATCH_PIXELS)
        self._detector_lane = finder
        self.fields = fields_of(name, predictor, options.pictures, options.people)
        self.json_body = with_images(self.fields, options.pictures)

    @property
    def file(self) -> ExportedFile | None:
        """The exported file that it runs; None for weights."""
        return getattr(self.predictor, "file", None)

    @property
    def fixed(self) -> tuple[str, ...]:
        """Options that are part of an exported graph."""
        return tuple(set(getattr(self.predictor, "fixed", ())) & set(OPTIONS[self.predictor.task]))

    def warm_up(self) -> None:
        """Run it once, so that kernels are compiled and what is broken is found before anybody asks.

        Raises:
            ValueError: it answers with what is no number.
        """
        for lane in (self.lane, self._detector_lane) if self._detector else (self.lane,):
            self._batcher.call(lane, lane.probe).result()

    async def predict(
        self, upload: Upload, wanted: dict[str, Any], boxes: list[Box] | None, scores: list[float] | None
    ) -> Result:
        """The result of one picture.

        Args:
            upload: the picture.
            wanted: fields of the request.
            boxes: pose: people as (x, y, width, height) in pixels; None finds them, or as ``wanted`` says.
            scores: pose: one for each box.

        Raises:
            HTTPException: 413 or 422, see ``picture_size``.
            ValueError: the picture is damaged, or an option is out of range.
            QueueFull: too much is in work.
            WorkerDied: nothing runs any more.
        """
        predictor: Any = self.predictor
        try:
            asked = {name: wanted[name] for name in OPTIONS[predictor.task]}
            if "scales" in asked:
                asked["scales"] = tuple(asked["scales"])
            options: Any = predictor.merged_options(asked)
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
        size = await self._aside(picture_size, upload.data, self.options.pixels)
        self._check_work(size, options)
        async with AsyncExitStack() as room:
            await room.enter_async_context(self._pixels.room(size[0] * size[1]))
            image = await self._aside(load_image, upload.data)
            image = replace(image, path=upload.name)
            item: Any = image
            if predictor.task == "pose":
                item = image, await self._people(image, wanted, boxes, scores, options.box_threshold)
                await room.enter_async_context(self._people_places.room(len(item[1].boxes)))
            job, parts = await self._aside(predictor.prepare, item, options)
            key = tuple(getattr(options, name) for name in _RUN_OPTIONS[predictor.task])
            answers = await _all(self._batcher.submit(self.lane, key, lambda x: predictor.run(x, options), parts))
            if parts and predictor.task != "segmentation":
                return await self._aside(predictor.finish, job, answers, options)
            # Masks are enlarged where the network ran; without parts, finishing runs the network.
            done = self._batcher.call(self.lane, lambda: predictor.finish(job, answers, options))
            result: Result = await asyncio.wrap_future(done)
            return result

    def _check_work(self, size: tuple[int, int], options: Any) -> None:
        """The network may not be kept busy for long by one picture; HTTPException 422."""
        if not isinstance(self.predictor, SegmentationPredictor) or self.file is not None:
            return
        width, height = self.predictor.network_size(size, options)
        work = width * height * sum(min(scale, 1e6) ** 2 for scale in options.scales)
        if work > self.options.network_pixels:
            scales = shortened(str(options.scales), 80)
            raise HTTPException(
                422,
                f"the network would see {width} x {height} pixels at scales {scales}; at most "
                f"{self.options.network_pixels} are taken: set a smaller short_side",
            )

    async def _people(
        self,
        image: LoadedImage,
        wanted: dict[str, Any],
        boxes: list[Box] | None,
        scores: list[float] | None,
        least: float,
    ) -> PersonBoxes:
        detector = None if wanted.get("detector") == WHOLE else self._detector
        if boxes is not None or detector is None:
            return given_boxes(boxes, scores, image)
        if isinstance(detector, MaskDetector):
            part = await self._aside(detector.network_input, image.pixels)
            network, options = detector.predictor, detector.predictor.options
            submitted = self._batcher.submit(self._detector_lane, "", lambda x: network.run(x, options), [part])
            logits = (await _all(submitted))[0]
            answer: Any = await self._aside(detector.boxes, logits, image.size)
        else:
            asked = self._batcher.call(self._detector_lane, lambda: detector(image.pixels))
            answer = await asyncio.wrap_future(asked)
        found = found_boxes(answer, least)
        best = np.sort(np.argsort(-found.scores, kind="stable")[: self.options.people])
        return replace(found, boxes=found.boxes[best], scores=found.scores[best])

    async def _aside(self, function: Callable[..., Value], *arguments: Any) -> Value:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    def _found_detector(self, name: str | None, fast: bool, precision: Precision) -> tuple[str | None, Detector | None]:
        if not isinstance(self.predictor, PosePredictor):
            return None, None
        name = name or self.predictor.default_detector
        if name == WHOLE:
            return name, None
        detector = detector_for(name, device=self.predictor.device)
        if fast and isinstance(detector, MaskDetector):
            detector.predictor.model = optimize(detector.predictor.model, precision=precision)
        return name, detector

    def _probe(self) -> None:
        """Answer for a grey picture; ValueError where that is no number."""
        grey = np.full((48, 64, 3), 127, np.uint8)
        options = {"detector": WHOLE} if self.predictor.task == "pose" else {}
        result: Result = self.predictor(grey, **options)
        try:
            json.dumps(result.to_dict(), allow_nan=False)
        except ValueError:
            raise ValueError(f"{self.name} answers a grey picture with NaN or infinity") from None

    def _probe_detector(self) -> None:
        assert self._detector is not None
        self._detector(np.full((48, 64, 3), 127, np.uint8))

    def describe(self) -> dict[str, Any]:
        """What ``GET /v1/models`` says: task, classes or joints, options with their defaults."""
        info, task = self.predictor.info, self.predictor.task
        names = info.class_names or tuple(str(number) for number in range(info.num_classes))
        classes: list[dict[str, Any]] = [{"class_id": number, "label": label} for number, label in enumerate(names)]
        if task == "segmentation":
            classes = [row | {"color": color_of(row["class_id"], info.palette)} for row in classes]
        joints = None
        if isinstance(self.predictor, PosePredictor):
            joint_names = self.predictor.joint_names
            sides = {
                side: [i for i, name in enumerate(joint_names) if side in name.lower()] for side in ("left", "right")
            }
            joints = {"names": joint_names, "edges": info.skeleton.edges if info.skeleton else (), **sides}
        options = asdict(self.predictor.options)
        return {
            "name": self.name,
            "task": task,
            "architecture": info.name,
            "precision": self.predictor.precision,
            "input_size": info.input_spec.size,
            "classes": [] if task == "pose" else classes,
            "keypoints": joints,
            "detector": self.detector_name,
            "options": {name: options[name] for name in OPTIONS[task]},
            "fixed": self.fixed,
        }


async def _all(futures: list[Future[Any]]) -> list[Any]:
    """Answers of all; where one fails, or nobody waits any more, the others are called off."""
    try:
        return list(await asyncio.gather(*map(asyncio.wrap_future, futures)))
    finally:
        for future in futures:
            future.cancel()


def content_of(result: Result, wanted: dict[str, Any]) -> dict[str, Any]:
    """The result as JSON: its ``to_dict()``, and where asked for the mask as run lengths, row by row."""
    content = result.to_dict()
    if isinstance(result, Segmentation) and wanted.get("mask"):
        flat = result.mask.ravel()
        starts = np.flatnonzero(np.diff(flat, prepend=flat[0] ^ 1))
        lengths = np.diff(starts, append=len(flat))
        content["mask"] = {"class_ids": flat[starts].tolist(), "lengths": lengths.tolist()}
    return content


def png_of(result: Result, wanted: dict[str, Any]) -> bytes:
    """The picture with the result drawn in, or the class ids of a mask, as a PNG file."""
    if isinstance(result, Segmentation) and wanted.get("picture") == "mask":
        return encode_picture(result.mask, ".png")
    if isinstance(result, Keypoints):
        return encode_picture(result.draw(joint_threshold=wanted["joint_threshold"]), ".png")
    return encode_picture(result.draw(), ".png")


def quiet_thread() -> None:
    """For threads beside that of the networks: torch's work in them takes one core."""
    torch.set_num_threads(1)
