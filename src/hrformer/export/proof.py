"""Whether an exported file answers as the network does that it was made from: run in its own runtime on real pictures.

A file is judged at the three places where an error can arise. What goes into the network is compared with what PyTorch
makes of the picture by the same steps, in grey levels. What comes out is compared with the float64 network on the same
input, and may lie no further off than twice the plain float32 network does: the rule for kernels. And the answer must
be what the predictor's decoding makes of that output. One picture goes the whole way against the predictor, in float64.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hrformer.data.images import load_image
from hrformer.data.preprocess import normalise
from hrformer.export.files import ExportError
from hrformer.export.pipelines import ClassificationPipeline, Network, Pipeline, PosePipeline, SegmentationPipeline
from hrformer.models.model import VisionModel
from hrformer.predict.base import PredictOptions
from hrformer.predict.exported import NETWORK_INPUT, NETWORK_OUTPUT, ExportedFile
from hrformer.predict.predictors import predictor_for
from hrformer.predict.segment import SegmentationOptions

PICTURES = Path(__file__).parent / "pictures"
SMALLEST = (23, 19)
"""(height, width) of a picture smaller than an attention window, which covers 28 pixels of the network's input."""
ODD = (211, 157)
MOST = 640  # pixels of the longer side: a photograph of 12 megapixels proves no more and takes a minute
LEVELS = ("disable_all", "basic", "extended", "all")  # of ONNX Runtime

FACTOR = 2.0
"""How much further than the float32 network an exported one may lie from the float64 network (the rule for kernels)."""
FLOORS = {"onnx": 2e-6, "openvino": 5e-6, "torch": 2e-6}
"""Of the largest absolute output, by runtime: always allowed, as the plain network may be lucky. OpenVINO approximates
exponentials and the error function: up to 3e-6 was measured."""
SHIFT = 0.05  # pixels of the picture
GREY_LEVELS = 1.5  # rounding one way or the other is one, and mean and deviation may be 16-bit numbers
GREY_SHARE = 0.02  # of the values of the network's input that may differ by one grey level
HALF_BOUNDS = {"fp16": 0.02, "bf16": 0.1, "int8": 0.5}
"""Of the largest absolute output. Not a promise, but beyond it something is broken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One run of a file.

    Attributes:
        name: what was run, for messages.
        inputs: by name, as the file takes them.
    """

    name: str
    inputs: Mapping[str, NDArray[Any]] = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseResult:
    """How far one run lies off.

    Attributes:
        case: name of the run.
        input_levels: largest difference of the network's input from PyTorch's, in grey levels.
        input_share: share of its values that differ by half a grey level or more.
        error, mean_error: largest and mean difference of the network's output from the float64 network's.
        float32_error: the same of the plain float32 network, largest.
        scale: largest absolute output of the float64 network.
        floor: share of it that is always allowed, see ``FLOORS``.
        shift: pose: largest distance of a decided joint from the predictor's, in pixels of the picture.
        undecided: pose: joints whose heatmap has a second place as good, within the difference of the outputs.
        mean_shift: pose: mean distance over all joints.
        changed: segmentation: share of pixels, classification: share of pictures, whose class is another than the
            predictor's.
        decoding: largest difference of the answer from what is decoded from the file's own output.
    """

    case: str
    error: float
    mean_error: float
    float32_error: float
    scale: float
    floor: float
    input_levels: float = 0.0
    input_share: float = 0.0
    shift: float | None = None
    mean_shift: float | None = None
    undecided: int | None = None
    changed: float | None = None
    decoding: float = 0.0

    @property
    def allowed(self) -> float:
        """Largest error that float32 may have."""
        return max(FACTOR * self.float32_error, self.floor * self.scale)

    def faults(self, precision: str) -> Iterator[str]:
        """What is wrong, in words; nothing where all is well."""
        if self.input_levels > GREY_LEVELS or self.input_share > GREY_SHARE:
            yield (
                f"the network's input differs by up to {self.input_levels:.1f} grey levels and in "
                f"{self.input_share:.1%} of its values"
            )
        bound = self.allowed if precision == "fp32" else HALF_BOUNDS[precision] * self.scale
        if not self.error <= bound:
            yield f"the network's output is off by {self.error:.2g}, allowed is {bound:.2g}"
        if self.decoding > SHIFT:
            yield f"the answer is not what its own network output says, by {self.decoding:.2g}"
        if precision == "fp32" and self.shift is not None and self.shift > SHIFT:
            yield f"keypoints are off by {self.shift:.2g} pixels, allowed are {SHIFT}"


def read_pictures(paths: Sequence[str | Path]) -> list[NDArray[np.uint8]]:
    """(H, W, 3) uint8 RGB each, shrunk to ``MOST`` pixels; the bundled ones where none are given."""
    pictures = []
    for path in paths or sorted(PICTURES.glob("*.jpg")):
        pixels = load_image(path).pixels
        scale = MOST / max(pixels.shape[:2])
        if scale < 1:
            size = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
            pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        pictures.append(pixels)
    return pictures


def cases_for(module: Pipeline | Network, pictures: Sequence[NDArray[np.uint8]]) -> list[Case]:
    """Runs at three sizes or more, an odd one and one smaller than a window among them, with 1, 2 and 7 at a time."""
    sizes = [pictures[0].shape[:2], ODD, SMALLEST]
    if isinstance(module, Network) and len(module.open_axes[0]) == 1:
        sizes = [module.info.input_spec.size] * 3
    elif isinstance(module, Network):
        sizes = [_near(module.info.input_spec.size, odd) for odd in (0, 9)] + [(33, 45)]
    pairs = [(size, 1) for size in sizes] + [(sizes[1], 2), (sizes[2], 7)]
    return [make_case(module, pictures, size, number) for size, number in dict.fromkeys(pairs)]


def _near(size: tuple[int, int], more: int) -> tuple[int, int]:
    return size[0] + more, size[1] + 2 * more


def make_case(
    module: Pipeline | Network, pictures: Sequence[NDArray[np.uint8]], size: tuple[int, int], number: int
) -> Case:
    """Pictures brought to (height, width), one after the other until there are ``number``; for pose that many boxes."""
    name = f"{number} of {size[0]} x {size[1]} pixels (height x width)"
    height, width = size

    def sized(index: int) -> NDArray[np.uint8]:
        pixels = pictures[index % len(pictures)]
        if pixels.shape[:2] == tuple(size):
            return pixels
        return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)

    if isinstance(module, PosePipeline):
        # The whole, and parts of it that reach out of the picture.
        shares = [(0, 0, 1, 1), (0.2, 0.1, 0.6, 0.8), (-0.2, -0.1, 0.7, 0.9), (0.5, 0.3, 0.7, 0.8)]
        shares += [(0.1, 0.1, 0.3, 0.35), (0.31, 0.02, 0.43, 0.97), (0.05, 0.4, 0.9, 0.5)]
        boxes = np.array(shares[:number], np.float32) * np.array([width, height, width, height], np.float32)
        name = f"{number} boxes in {size[0]} x {size[1]} pixels (height x width)"
        return Case(name=name, inputs={"image": for_channels(sized(0), module), "boxes": boxes})
    images = np.stack([for_channels(sized(index), module) for index in range(number)])
    if isinstance(module, Network):
        return Case(
            name=name, inputs={NETWORK_INPUT: normalise(torch.from_numpy(images), module.info.input_spec).numpy()}
        )
    return Case(name=name, inputs={"images": images})


def for_channels(pixels: NDArray[np.uint8], module: Pipeline | Network) -> NDArray[np.uint8]:
    """With an opaque fourth channel for networks that take alpha."""
    if len(module.info.input_spec.mean) != 4:
        return pixels
    return np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=2)


class Judge:
    """Compares runs of a file with the network that it was made from.

    Args:
        module: what was exported, in float32, with the plain network.
        options: of the predictor, as they were exported; None for bare networks.
        runtime: of the file, see ``FLOORS``.
    """

    def __init__(self, module: Pipeline | Network, options: PredictOptions | None, runtime: str) -> None:
        self.module, self.floor = module, FLOORS[runtime]
        self.exact: VisionModel = deepcopy(module.model).double()
        if options is not None:
            # Of one picture in one piece, as in the graph.
            if isinstance(options, SegmentationOptions):
                options = replace(options, memory=1e9)
            predictor: Any = predictor_for(self.exact, device="cpu", dtype=torch.float64)
            predictor.options = options
            self.predictor = predictor

    @torch.inference_mode()
    def judge(self, case: Case, run: Callable[..., Mapping[str, NDArray[Any]]], *, whole: bool = False) -> CaseResult:
        """One run; ``run`` is the file's, with its inner tensors. ``whole`` also asks the predictor."""
        module = self.module
        found = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in run(**case.inputs).items()}
        if isinstance(module, Network):
            x = torch.from_numpy(case.inputs[NETWORK_INPUT])
            _, values = self._errors(x, [found[name] for name in module.outputs])
            return CaseResult(case=case.name, **values)
        inputs = {name: torch.from_numpy(value) for name, value in case.inputs.items()}
        parts = module(*inputs.values())
        # A program of torch shows no inner tensors; it is these very steps.
        x, raw = (found[NETWORK_INPUT], found[NETWORK_OUTPUT]) if NETWORK_INPUT in found else parts[1:]
        levels = (x - parts[1]).abs() * 255 * torch.tensor(module.info.input_spec.std).view(1, -1, 1, 1)
        exact, values = self._errors(torch.cat([x, x.flip(-1)]) if module.flip else x, [raw])
        values |= {"input_levels": float(levels.max()), "input_share": float((levels > 0.5).float().mean())}
        answer = found[module.outputs[0]]
        if isinstance(module, PosePipeline):
            values |= self._joints(module, inputs, answer, raw, exact, whole)
        else:
            values |= self._classes(inputs["images"], answer, raw, exact, whole)
        return CaseResult(case=case.name, **values)

    def _errors(self, x: Tensor, outputs: Sequence[Tensor]) -> tuple[Tensor, dict[str, Any]]:
        """The first output of the float64 network, and how far the file's and the float32 network's lie from it."""
        exact, plain = _listed(self.exact(x.double())), _listed(self.module.model(x))
        pairs = [(out.double() - want).abs() for out, want in zip(outputs, exact, strict=True)]
        return exact[0], {
            "error": max(float(pair.max()) for pair in pairs),
            "mean_error": max(float(pair.mean()) for pair in pairs),
            "float32_error": max(
                float((out.double() - want).abs().max()) for out, want in zip(plain, exact, strict=True)
            ),
            "scale": max(float(want.abs().max()) for want in exact),
            "floor": self.floor,
        }

    def _joints(
        self,
        module: PosePipeline,
        inputs: Mapping[str, Tensor],
        answer: Tensor,
        raw: Tensor,
        exact: Tensor,
        whole: bool,
    ) -> dict[str, Any]:
        """Keypoints against those decoded from the file's own heatmaps, and against float64's or the predictor's."""
        boxes = inputs["boxes"]
        centers, sizes = module.padded(boxes)
        own, want = (module.decode(maps, centers, sizes) for maps in (raw, exact))
        if whole:
            # Crops by OpenCV 4 would differ more from these than all else.
            result = self.predictor(inputs["image"].numpy(), boxes=boxes.numpy(), nms="off", fast_crop=True)
            want = torch.from_numpy(result.keypoints)
        distance = (answer[..., :2] - want[..., :2]).norm(dim=-1)
        decided = decided_joints(module, raw, exact)
        return {
            "decoding": float((answer - own).abs().max()),
            "shift": float(distance[decided].max()) if decided.any() else 0.0,
            "mean_shift": float(distance.mean()),
            "undecided": int((~decided).sum()),
        }

    def _classes(self, images: Tensor, answer: Tensor, raw: Tensor, exact: Tensor, whole: bool) -> dict[str, Any]:
        """Masks or probabilities in the same way."""
        module, pictures = self.module, list(images.numpy())
        if isinstance(module, ClassificationPipeline):
            want = module.decode(exact).argmax(1)
            if whole:
                want = torch.tensor([result.class_ids[0] for result in self.predictor(pictures, top_k=1)])
            far = float((answer - module.decode(raw)).abs().max())
            return {"decoding": far, "changed": float((answer.argmax(1) != want).float().mean())}
        assert isinstance(module, SegmentationPipeline)
        size = (images.shape[1], images.shape[2])
        own, want = (module.decode(logits, module.network_size(size), size) for logits in (raw, exact.float()))
        if whole:
            want = torch.from_numpy(np.stack([result.mask for result in self.predictor(pictures)]))
        return {
            "decoding": float((answer != own).float().mean()),
            "changed": float((answer != want).float().mean()),
        }


def decided_joints(module: PosePipeline, raw: Tensor, plain: Tensor) -> Tensor:
    """(N, K): joints that no difference as large as that between two outputs for the same people could move.

    A heatmap's highest cell must be higher than all others by more than twice that difference, and so must the larger
    of the two neighbours, towards which a quarter of a cell is gone.
    """
    maps, other = module.merged(raw), module.merged(plain)
    far = 2 * (maps - other).abs().flatten(2).amax(2)
    first, second = maps.flatten(2).topk(2).values.unbind(2)
    decided: Tensor = (first - second > far) & (first.abs() > far)
    if module.info.decoder in ("official", "mmpose"):
        width = maps.shape[3]
        peak = maps.flatten(2).argmax(2)
        x, y = peak % width, peak // width
        framed = F.pad(maps, (1, 1, 1, 1)).flatten(2)

        def at(right: int, down: int) -> Tensor:
            return framed.gather(2, ((y + 1 + down) * (width + 2) + x + 1 + right)[..., None])[..., 0]

        decided &= ((at(1, 0) - at(-1, 0)).abs() > far) & ((at(0, 1) - at(0, -1)).abs() > far)
    return decided


def _listed(found: Any) -> list[Tensor]:
    return list(found.values()) if isinstance(found, dict) else [found]


def latency(call: Callable[[], object], seconds: float = 1.0) -> float:
    """Median milliseconds of a call, after one to warm up."""
    call()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < seconds and len(times) < 50):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * median(times)


def prove(
    path: Path, module: Pipeline | Network, options: PredictOptions | None, pictures: Sequence[NDArray[np.uint8]]
) -> list[CaseResult]:
    """Run a file on all cases, and with every level of ONNX Runtime's optimisations on one.

    Raises:
        ExportError: it answers otherwise than it must; which size and how far.
    """
    file, cases = ExportedFile(path), cases_for(module, pictures)
    judge = Judge(module, options, file.runtime)
    pipeline = not isinstance(module, Network)
    inner = ExportedFile(path, inner=True) if pipeline and file.runtime != "torch" else file
    precision = file.facts["precision"]
    results = []
    for case in cases:
        results.append(judge.judge(case, inner.run, whole=case is cases[0]))
        _same_answers(case, file, inner, precision)
    levels = LEVELS if file.runtime == "onnx" else ()
    for level in levels:
        opened = ExportedFile(path, inner=pipeline, level=level)
        result = judge.judge(cases[1], opened.run)
        results.append(CaseResult(**(asdict(result) | {"case": f"{result.case}, optimisation {level}"})))
    for result in results:
        if faults := list(result.faults(precision)):
            raise ExportError(f"{path.name} does not answer as its network: {result.case}: {'; '.join(faults)}")
    return results


def _same_answers(case: Case, file: ExportedFile, inner: ExportedFile, precision: str) -> None:
    """The file as it is, whose inner tensors a runtime may merge, must answer as the one that shows them."""
    if file is inner:
        return
    name = file.facts["outputs"][0]
    plain, shown = file.run(**case.inputs)[name], inner.run(**case.inputs)[name]
    if plain.dtype.kind in "iu":
        far = float((plain != shown).mean())
        bound = 0.001 if precision == "fp32" else 0.05
    else:
        # A joint with a rival as good may jump: the middle of all must not.
        far, bound = float(np.median(np.abs(plain - shown))), SHIFT
    if far > bound:
        raise ExportError(
            f"{file.path.name}: {case.name}: its answers depend on which outputs are asked for ({far:.2g})"
        )
