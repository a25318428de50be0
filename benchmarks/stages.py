"""A prediction from file to drawn picture, timed stage by stage."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calls import Forward, input_dtype
from candidates import Job
from hrformer.data.images import load_image
from hrformer.data.preprocess import centre_crop, crop_people, normalise, resize
from hrformer.geometry.heatmaps import HeatmapCodec, cells_to_image
from hrformer.geometry.input_spec import InputSpec
from hrformer.geometry.tiles import label_map
from hrformer.models.model import ModelInfo
from hrformer.predict.results import Classification, Keypoints, Result, Segmentation

STAGES = ("decode picture", "crop", "model", "decode output", "draw")
TOTAL = "end to end"


def make_picture(path: Path, seed: int = 0) -> Path:
    """Write a JPEG of 480x640 pixels, COCO's most frequent size: smooth shapes and some noise, which compress about as
    a photograph does."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    smooth = resize(coarse, (640, 480), "bicubic")
    pixels = np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
    if not cv2.imwrite(str(path), pixels):
        raise OSError(f"{path} cannot be written")
    return path


def stage_runner(
    forward: Forward, info: ModelInfo, job: Job, picture: Path, device: torch.device
) -> Callable[[], dict[str, float]]:
    """A call that predicts once and returns seconds by stage, ``TOTAL`` included.

    Args:
        forward: (B, 3, H, W) -> the network's output.
        info: of the model.
        job: ``batch`` people in the picture for pose; copies of the picture else, of which one is drawn.
        picture: file.
        device: of the network.
    """
    decode = {"pose": _pose, "classification": _classify, "segmentation": _segment}[job.candidate.task]
    spec, dtype = replace(info.input_spec, size=job.size), input_dtype(job.candidate, device)

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def once() -> dict[str, float]:
        times = [now()]

        def network(crops: NDArray[np.uint8]) -> Tensor:
            x = normalise(torch.from_numpy(crops).to(device), spec).to(dtype)
            times.append(now())
            output: Tensor = forward(x)
            times.append(now())
            return output.float()

        pixels = load_image(picture).pixels
        times.append(now())
        result = decode(pixels, spec, job.batch, info, network)
        times.append(now())
        result.draw()
        times.append(now())
        seconds = {stage: times[number + 1] - times[number] for number, stage in enumerate(STAGES)}
        return seconds | {TOTAL: times[-1] - times[0]}

    return once


Network = Callable[[NDArray[np.uint8]], Tensor]


def _pose(pixels: NDArray[np.uint8], spec: InputSpec, batch: int, info: ModelInfo, network: Network) -> Result:
    """People side by side, each in a box as high as the picture."""
    height, width = pixels.shape[:2]
    each = width / batch
    boxes = np.array([[number * each, 0, each, height] for number in range(batch)])
    crops, centers, sizes = crop_people(pixels, boxes, spec)
    maps = network(crops)
    grid = (int(maps.shape[2]), int(maps.shape[3]))
    cells, scores = HeatmapCodec(input_size=spec.size, heatmap_size=grid).decode(maps)
    points = cells_to_image(cells.cpu().numpy(), centers, sizes, grid)
    keypoints = np.concatenate([points, scores.cpu().numpy()[..., None]], axis=2)
    return Keypoints(
        image=pixels,
        keypoints=keypoints,
        scores=np.ones(batch),
        boxes=boxes,
        box_scores=np.ones(batch),
        names=info.skeleton.keypoints if info.skeleton else (),
        skeleton=info.skeleton,
    )


def _classify(pixels: NDArray[np.uint8], spec: InputSpec, batch: int, info: ModelInfo, network: Network) -> Result:
    crops = np.stack([centre_crop(pixels, spec) for _ in range(batch)])
    best, ids = network(crops).softmax(dim=1).cpu().topk(5)
    numbers: list[int] = ids[0].tolist()
    labels = tuple(map(str, numbers))
    return Classification(image=pixels, labels=labels, probabilities=tuple(best[0].tolist()), class_ids=tuple(numbers))


def _segment(pixels: NDArray[np.uint8], spec: InputSpec, batch: int, info: ModelInfo, network: Network) -> Result:
    shape = (spec.size[1], spec.size[0])
    crops = np.stack([resize(pixels, shape, spec.interpolation) for _ in range(batch)])
    masks = [label_map(logits, (pixels.shape[1], pixels.shape[0])) for logits in network(crops)]
    return Segmentation(image=pixels, mask=masks[0])
