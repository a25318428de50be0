"""Start weights of a run that names none, and what follows from a run's start weights: the network and its input size.

A processor gets the small networks that come with the package, a GPU the published ones, which are downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hrformer.checkpoints.download import DownloadError, resolve_weights
from hrformer.checkpoints.pickles import CheckpointError
from hrformer.checkpoints.recognise import Recognised, recognise
from hrformer.checkpoints.registry import WeightEntry, find_weights, list_weights
from hrformer.checkpoints.weight_files import read_weights
from hrformer.geometry.skeletons import skeleton_for
from hrformer.models.model import ModelInfo, Task
from hrformer.train.config import AUTO, ModelConfig
from hrformer.zoo import HEAD_OPTIONS, INPUT_SPECS

BUNDLED: dict[Task, str] = {
    "classification": "hrformer_nano_cifar10",
    "pose": "hrformer_nano_lspet",
    "segmentation": "hrformer_nano_camvid",
}
"""Start weights on a processor."""

PUBLISHED: dict[Task, str] = {
    "classification": "hrformer_small_imagenet",
    "pose": "hrformer_small_coco_256x192",
    "segmentation": "hrformer_small_imagenet",
}
"""Start weights on a GPU."""

# Crops of the segmentation runs that start from a classifier, which says nothing about them.
_SEGMENTATION_SIZE = (480, 480)
# These say nothing about the sizes of the file's layers.
_NO_SIZES = ("drop_rate", "dropout")


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What a run begins with.

    Attributes:
        model: with the name, start weights and options of the head filled in where they were open.
        size: (height, width) of the crops that suit the weights.
        names: classes or joints that the weights tell already; empty where they have no head for the task.
    """

    model: ModelConfig
    size: tuple[int, int]
    names: tuple[str, ...] = ()


def find_start(model: ModelConfig, task: Task, *, gpu: bool) -> Start:
    """Fill in what the run leaves open about its network.

    Args:
        model: of the run; ``init`` may be "auto" and ``name`` empty.
        task: of the run.
        gpu: whether it runs on one.

    Raises:
        ValueError: no start weights are known for the network, or the file does not say which network it is of.
        FileNotFoundError: no such weight file.
        DownloadError: the weights cannot be fetched; the message names those in the package.
    """
    if model.init == AUTO:
        model = replace(model, init=_choose(model.name, task, gpu=gpu))
    if not model.init:
        return Start(model=model, size=_own_size(task, gpu=gpu))
    path, entry = first_weights_file(model.init, task)
    file = read_weights(path)
    try:
        found = recognise(file, entry)
    except CheckpointError:
        # Not a network of ours: only the registry, or the user, can say which of timm's.
        found = Recognised(file=file)
    name = model.name or found.model or (entry.model if entry else "")
    if not name:
        shape = found.network or "not one of HRFormer or HRNet"
        raise ValueError(f"model.init: {model.init} is {shape}; say which network it is of, with --model.name")
    if found.task != task:
        return Start(model=replace(model, name=name), size=_own_size(task, gpu=gpu))
    spec = found.info.input_spec if found.info is not None else entry.input_spec if entry else None
    options = _head_options(model, task, found) if name == found.model else {}
    kept = name == found.model and "head" not in model.fresh
    return Start(
        model=replace(model, name=name, **options),
        size=spec.size if spec is not None else _own_size(task, gpu=gpu),
        names=output_names(found.info, task, found.num_outputs) if kept else (),
    )


def output_names(info: ModelInfo | None, task: Task | None, count: int = 0) -> tuple[str, ...]:
    """Classes or joints in the order of a network's outputs; empty where they are not known.

    Args:
        info: of the network; None for files that have none.
        task: of the network.
        count: of its outputs, which tells the joints of published pose networks.
    """
    if info is not None and (info.skeleton is not None or info.class_names):
        return info.skeleton.keypoints if info.skeleton is not None else info.class_names
    skeleton = skeleton_for(count) if task == "pose" else None
    return skeleton.keypoints if skeleton is not None else ()


def first_weights_file(name: str, task: Task) -> tuple[Path, WeightEntry | None]:
    """``resolve_weights`` for training, which names the weights to take where there is no network.

    Returns:
        The file, and the registry's entry if it was given by name.

    Raises:
        ValueError: unknown name.
        FileNotFoundError: no such file.
        DownloadError: the file cannot be fetched.
    """
    try:
        return resolve_weights(name)
    except DownloadError as error:
        raise DownloadError(f"{error} To train without it: --model.init {BUNDLED[task]}") from error


def _head_options(model: ModelConfig, task: Task, found: Recognised) -> dict[str, Any]:
    """Sizes of the file's head, so that it can be kept; none where the run sets any."""
    names = [name for name in HEAD_OPTIONS[task] if name not in _NO_SIZES]
    if any(getattr(model, name) is not None for name in names):
        return {}
    return {name: found.options[name] for name in names if found.options.get(name) is not None}


def _choose(name: str, task: Task, *, gpu: bool) -> str:
    """Weights to start from, for any network or for the named one."""
    first = (PUBLISHED if gpu else BUNDLED)[task]
    known = [entry for entry in list_weights() if entry.task in (task, None) and name in ("", entry.model)]
    known.sort(key=lambda entry: (entry.name != first, entry.task != task, entry.origin != "bundled"))
    if not known:
        raise ValueError(
            f"model.init: no start weights are known for {name}; give a file or a name with --model.init, or begin "
            "from fresh weights with --model.init ''"
        )
    return known[0].name


def _own_size(task: Task, *, gpu: bool) -> tuple[int, int]:
    """Size of the crops where the start weights do not tell it."""
    if not gpu:
        return find_weights(BUNDLED[task]).input_spec.size
    return _SEGMENTATION_SIZE if task == "segmentation" else INPUT_SPECS[task].size
