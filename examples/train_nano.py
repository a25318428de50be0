"""Train one of the three small models that the package bundles.

    python examples/train_nano.py cifar10 --data ../shared/data --out runs/cifar10

The sets are described in the README of the data folder. A run can be interrupted and started again with the
same command: it goes on after the last finished epoch. It ends with ``model.safetensors`` and ``metrics.jsonl``
in the run directory.
"""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

import hrformer
from hrformer.checkpoints.checkpoint import save_checkpoint
from hrformer.data.images import load_image
from hrformer.files import write_file
from hrformer.geometry.affine import crop_matrix, transform_points
from hrformer.geometry.boxes import box_to_crop
from hrformer.geometry.flips import flip_keypoints
from hrformer.geometry.heatmaps import HeatmapCodec, cells_to_image
from hrformer.geometry.input_spec import IMAGENET_MEAN, IMAGENET_STD, InputSpec
from hrformer.geometry.skeletons import LSPET14
from hrformer.losses import classification_cross_entropy, heatmap_mse, segmentation_losses
from hrformer.metrics.counts import Pck, SegmentationScores, reference_joints
from hrformer.models.model import VisionModel

Batch = tuple[Tensor, Tensor, Tensor]
MEAN, STD = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)


@dataclass(frozen=True)
class Args:
    """What to train and where.

    Attributes:
        task: the data set, which decides the task.
        data: folder that holds ``cifar10``, ``cifar10_full``, ``lspet`` and ``camvid``.
        out: run directory.
        phases: (height, width, epochs, batch) one after the other; small inputs first saves time.
        lr: peak learning rate of the one cosine cycle over all phases.
        weight_decay: of AdamW, on weights with two or more dimensions.
        seed: of weights and sampling.
        threads: processor threads.
    """

    task: tyro.conf.Positional[Literal["cifar10", "lspet", "camvid"]]
    data: Path
    out: Path
    phases: tuple[tuple[int, int, int, int], ...]
    lr: float = 2e-3
    weight_decay: float = 0.05
    seed: int = 0
    threads: int = 1


def to_tensor(images: list[np.ndarray]) -> Tensor:
    """RGB uint8 images of one size -> normalised (B, 3, H, W)."""
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    return (batch - MEAN) / STD


class Cifar:
    """49,000 training pictures from parquet, 1,000 for validation from folders."""

    score_name = "top-1"
    licence = "research use: CIFAR-10 states no licence (Krizhevsky, 2009)"

    def __init__(self, root: Path) -> None:
        import pyarrow.parquet as pq  # only this example needs it

        rows = [row for f in sorted((root / "cifar10_full").glob("*.parquet")) for row in pq.read_table(f).to_pylist()]
        decode = lambda b: cv2.cvtColor(cv2.imdecode(np.frombuffer(b, np.uint8), 1), cv2.COLOR_BGR2RGB)  # noqa: E731
        self.train = [(decode(r["image"]["bytes"]), r["label"]) for r in rows]
        self.names = tuple(sorted(p.name for p in (root / "cifar10" / "val").iterdir()))
        files = [(p, i) for i, n in enumerate(self.names) for p in sorted((root / "cifar10" / "val" / n).glob("*.jpg"))]
        self.val = [(load_image(p).pixels, i) for p, i in files]

    def model(self) -> VisionModel:
        model = hrformer.create_model("hrformer_nano", "classification", num_classes=10, head_planes=8, head_width=512)
        spec = InputSpec(size=(56, 56), crop_ratio=1.0, interpolation="bicubic")
        model.info = dataclasses.replace(model.info, class_names=self.names, dataset="CIFAR-10", input_spec=spec)
        return model

    def sample(self, index: int, size: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, int, int]:
        image, label = self.train[index]
        image = cv2.copyMakeBorder(image, 4, 4, 4, 4, cv2.BORDER_REFLECT_101)
        y, x = rng.integers(0, 9, 2)
        image = image[y : y + 32, x : x + 32]
        if rng.random() < 0.5:
            image = image[:, ::-1]
        image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_CUBIC)
        if rng.random() < 0.5:  # cutout of a quarter of each side
            cy, cx = rng.integers(0, size[0]), rng.integers(0, size[1])
            h, w = size[0] // 4, size[1] // 4
            image[max(cy - h // 2, 0) : cy + h // 2, max(cx - w // 2, 0) : cx + w // 2] = 124
        return image, label, 0

    def loss(self, output: Any, target: Tensor, weight: Tensor) -> Tensor:
        return classification_cross_entropy(output, target, label_smoothing=0.1)

    def evaluate(self, model: VisionModel, size: tuple[int, int]) -> float:
        right = 0
        for i in range(0, len(self.val), 100):
            chunk = self.val[i : i + 100]
            images = [cv2.resize(image, size[::-1], interpolation=cv2.INTER_CUBIC) for image, _ in chunk]
            right += int((model(to_tensor(images)).argmax(1) == torch.tensor([k for _, k in chunk])).sum())
        return right / len(self.val)


class CamVid:
    """Street scenes, 11 classes; pictures are trained at reduced size and scored at 480 x 360."""

    score_name = "mIoU"
    licence = "CC BY-NC 4.0: CamVid, personal and research use only"
    num_classes = 11

    def __init__(self, root: Path) -> None:
        self.root = root / "camvid"
        rows = [line.split() for line in (self.root / "classes.txt").read_text().splitlines() if line[0] != "#"]
        self.names = tuple(row[1] for row in rows)
        self.palette = tuple((int(r[2]), int(r[3]), int(r[4])) for r in rows)
        self.train, self.val = self._read("train"), self._read("val")
        counts = np.bincount(np.concatenate([m[m < 255] for _, m in self.train]), minlength=self.num_classes)
        share = counts / counts.sum()
        weights = np.sqrt(np.median(share) / share.clip(1e-6)).clip(0.4, 3.0)  # thin classes would vanish without it
        self.weights = torch.tensor(weights, dtype=torch.float32)

    def _read(self, split: str) -> list[tuple[np.ndarray, np.ndarray]]:
        pairs = []
        for path in sorted((self.root / "images" / split).glob("*.jpg")):
            mask = cv2.imread(str(self.root / "labels" / split / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED)
            pairs.append((load_image(path).pixels, mask))
        return pairs

    def model(self) -> VisionModel:
        options = {"num_classes": self.num_classes, "ocr_channels": 64, "ocr_key_channels": 32}
        model = hrformer.create_model("hrformer_nano", "segmentation", **options)
        info = {"class_names": self.names, "palette": self.palette, "dataset": "CamVid"}
        model.info = dataclasses.replace(model.info, **info)
        return model

    def sample(self, index: int, size: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
        image, mask = self.train[index]
        scale = size[0] / image.shape[0] * rng.uniform(1.0, 2.0)
        aspect = np.sqrt(rng.uniform(0.8, 1.25))
        wh = max(round(image.shape[1] * scale * aspect), size[1]), max(round(image.shape[0] * scale / aspect), size[0])
        image = cv2.resize(image, wh, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        mask = cv2.resize(mask, wh, interpolation=cv2.INTER_NEAREST)
        y, x = rng.integers(0, wh[1] - size[0] + 1), rng.integers(0, wh[0] - size[1] + 1)
        image, mask = image[y : y + size[0], x : x + size[1]], mask[y : y + size[0], x : x + size[1]]
        if rng.random() < 0.5:
            image, mask = image[:, ::-1], mask[:, ::-1]
        gain, shift = rng.uniform(0.7, 1.3), rng.uniform(-25, 25)
        return np.clip(image * gain + shift, 0, 255).astype(np.uint8), mask.astype(np.int64), 0

    def loss(self, output: Any, target: Tensor, weight: Tensor) -> Tensor:
        return segmentation_losses(*output, target, class_weights=self.weights)["loss"]

    def evaluate(self, model: VisionModel, size: tuple[int, int]) -> float:
        metric = SegmentationScores(self.names)
        for image, mask in self.val:
            small = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
            logits = F.interpolate(model(to_tensor([small])), mask.shape, mode="bilinear", align_corners=False)
            metric.update(logits[0].argmax(0), mask)
        return float(metric.compute()["mean_iou"])


class Lspet:
    """Single people in sports poses, 14 joints."""

    score_name = "PCK@0.2"
    licence = "research use: LSPET states no licence (Johnson and Everingham, CVPR 2011)"

    def __init__(self, root: Path) -> None:
        self.root = root / "lspet"
        self.train, self.val = self._read("train"), self._read("val")

    def _read(self, split: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        data = json.loads((self.root / "annotations" / f"person_keypoints_{split}.json").read_text())
        files = {image["id"]: image["file_name"] for image in data["images"]}
        people = []
        for row in data["annotations"]:
            image = load_image(self.root / "images" / split / files[row["image_id"]]).pixels
            people.append((image, np.array(row["bbox"]), np.array(row["keypoints"], dtype=np.float64).reshape(-1, 3)))
        return people

    def model(self) -> VisionModel:
        model = hrformer.create_model("hrformer_nano", "pose", num_keypoints=14)
        model.info = dataclasses.replace(model.info, skeleton=LSPET14, dataset="LSPET")
        return model

    def codec(self, size: tuple[int, int]) -> HeatmapCodec:
        return HeatmapCodec(input_size=size, heatmap_size=(size[0] // 4, size[1] // 4), sigma=size[0] / 72)

    def sample(
        self, index: int, size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        image, box, joints = self.train[index]
        points, visible = joints[:, :2], joints[:, 2] > 0
        centers, sizes = box_to_crop(box[None], size[1] / size[0])
        center = centers[0] + rng.uniform(-0.05, 0.05, 2) * sizes[0]
        if rng.random() < 0.5:
            image, center = image[:, ::-1], np.array([image.shape[1] - 1 - center[0], center[1]])
            joints = flip_keypoints(joints, image.shape[1], LSPET14.flip_pairs)
            points, visible = joints[:, :2], joints[:, 2] > 0
        rotation = rng.uniform(-180, 180) if rng.random() < 0.25 else rng.uniform(-45, 45)
        matrix = crop_matrix(center, sizes[0] * rng.uniform(0.75, 1.3), size[::-1], rotation)
        crop = cv2.warpAffine(np.ascontiguousarray(image), matrix, size[::-1], flags=cv2.INTER_LINEAR)
        crop = np.clip(crop * rng.uniform(0.7, 1.3) + rng.uniform(-25, 25), 0, 255).astype(np.uint8)
        targets, weights = self.codec(size).encode(transform_points(points, matrix)[None], visible[None])
        return crop, targets[0], weights[0]

    def loss(self, output: Any, target: Tensor, weight: Tensor) -> Tensor:
        return heatmap_mse(output, target, weight) * 1000  # scaled to readable numbers

    def evaluate(self, model: VisionModel, size: tuple[int, int]) -> float:
        metric = Pck(LSPET14.keypoints, torso=reference_joints(LSPET14))
        for i in range(0, len(self.val), 50):
            chunk = self.val[i : i + 50]
            centers, sizes = box_to_crop(np.stack([box for _, box, _ in chunk]), size[1] / size[0])
            crops = [
                cv2.warpAffine(image, crop_matrix(c, s, size[::-1]), size[::-1], flags=cv2.INTER_LINEAR)
                for (image, _, _), c, s in zip(chunk, centers, sizes, strict=True)
            ]
            codec = self.codec(size)
            cells, _ = codec.decode(model(to_tensor(crops)))
            points = cells_to_image(cells, centers, sizes, codec.heatmap_size)
            metric.update(points, np.stack([joints for _, _, joints in chunk]))
        return float(metric.compute()["pck@0.2"])


DATASETS: dict[str, Callable[[Path], Any]] = {"cifar10": Cifar, "lspet": Lspet, "camvid": CamVid}


def batches(data: Any, size: tuple[int, int], batch: int, seed: int) -> Iterator[Batch]:
    """One epoch in random order, the last incomplete batch left out."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(data.train))
    for i in range(0, len(order) - batch + 1, batch):
        images, targets, weights = zip(*(data.sample(k, size, rng) for k in order[i : i + batch]), strict=True)
        yield to_tensor(list(images)), torch.from_numpy(np.array(targets)), torch.from_numpy(np.array(weights))


def optimizer_for(model: VisionModel, args: Args) -> torch.optim.AdamW:
    """AdamW that decays matrices and kernels only."""
    weights = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    return torch.optim.AdamW([{"params": weights, "weight_decay": args.weight_decay}, {"params": rest}], args.lr)


def learning_rate(share: float, peak: float) -> float:
    """Linear warm-up over the first 5 % of the run, then cosine to zero; ``share`` in [0, 1]."""
    return peak * (share / 0.05 if share < 0.05 else 0.5 * (1 + math.cos(math.pi * (share - 0.05) / 0.95)))


def finish(model: VisionModel, data: Any, args: Args, size: tuple[int, int], score: float) -> None:
    """Write the half-precision model with everything a predictor needs."""
    source = "examples/train_nano.py in the hrformer repository"
    spec = dataclasses.replace(model.info.input_spec, size=size)
    model.info = dataclasses.replace(model.info, input_spec=spec, source=source)
    metadata = {"score": f"{data.score_name} {score:.3f} on the {args.task} val split", "licence": data.licence}
    save_checkpoint(model, args.out / "model.safetensors", half=True, metadata=metadata)


def train_epoch(
    model: VisionModel, data: Any, optimizer: torch.optim.Optimizer, args: Args, epoch: int, plan: Plan
) -> float:
    """One pass over the training pictures; returns the mean loss."""
    torch.manual_seed(args.seed * 10000 + epoch)  # dropout then does not depend on what ran before a resume
    model.train()
    (h, w, batch), (begin, end) = plan.epochs[epoch], plan.shares[epoch : epoch + 2]
    start, losses, steps = time.time(), [], len(data.train) // batch
    for step, (images, targets, weights) in enumerate(batches(data, (h, w), batch, args.seed * 10000 + epoch)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(begin + (end - begin) * step / steps, args.lr)
        loss = data.loss(model(images), targets, weights)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss became {loss.item()} in epoch {epoch}, step {step}; start again to resume")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        losses.append(loss.item())
        if step % 50 == 0:
            rate = (step + 1) * batch / (time.time() - start)
            left = (steps - step) * batch / rate
            mean = float(np.mean(losses[-50:]))
            print(
                f"epoch {epoch} step {step}/{steps} loss {mean:.4f} {rate:.1f} images/s, {left:.0f} s left", flush=True
            )
    return float(np.mean(losses))


@dataclass(frozen=True)
class Plan:
    """Height, width and batch of every epoch, and the share of the whole work done before each."""

    epochs: list[tuple[int, int, int]]
    shares: list[float]

    @classmethod
    def of(cls, phases: tuple[tuple[int, int, int, int], ...]) -> Plan:
        epochs = [(h, w, batch) for h, w, count, batch in phases for _ in range(count)]
        work = np.cumsum([0, *(h * w for h, w, _ in epochs)])
        return cls(epochs, [float(x) for x in work / work[-1]])


def main(args: Args) -> None:
    """Train, evaluate after every phase and every fifth epoch, save."""
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    versions = {"torch": torch.__version__, "python": platform.python_version(), "hrformer": hrformer.__version__}
    config = {**{k: str(v) for k, v in dataclasses.asdict(args).items()}, "versions": versions}
    (args.out / "config.json").write_text(json.dumps(config, indent=1))
    data = DATASETS[args.task](args.data)
    model: VisionModel = data.model()
    optimizer = optimizer_for(model, args)
    plan = Plan.of(args.phases)
    first, state_file = 0, args.out / "last.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["epoch"]
    for epoch in range(first, len(plan.epochs)):
        start, size = time.time(), plan.epochs[epoch][:2]
        loss = train_epoch(model, data, optimizer, args, epoch, plan)
        row = {"epoch": epoch, "size": size, "loss": loss, "seconds": time.time() - start}
        last = epoch + 1 == len(plan.epochs)
        if last or plan.epochs[epoch + 1][:2] != size or epoch % 5 == 4:
            model.eval()
            with torch.inference_mode():
                row[data.score_name] = data.evaluate(model, size)
            finish(model, data, args, size, row[data.score_name])
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1}
        write_file(state_file, partial(torch.save, state))
        print(json.dumps(row), flush=True)
        with (args.out / "metrics.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")
    print(f"done: {args.out / 'model.safetensors'}")


if __name__ == "__main__":
    main(tyro.cli(Args))
