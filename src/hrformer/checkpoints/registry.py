"""Published and bundled weights: where each file is, what it expects, what it scored, under which terms.

Nothing here touches the network; ``hrformer.checkpoints.download`` fetches what an entry names. Addresses and hash
prefixes come from the publishers' own model tables (mmpose, timm, torchvision, HRNet); scores are theirs too, each
with its protocol. The weights in the package are not listed by hand: their safetensors headers are read.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from safetensors import safe_open

from hrformer.geometry.heatmaps import Decoder
from hrformer.geometry.input_spec import InputSpec

Origin = Literal["mmpose", "timm", "torchvision", "bundled", "official"]
Task = Literal["classification", "pose", "segmentation", "detection"]

HUB_SCHEME = "hf"  # hf://owner/repository/file, resolved by huggingface_hub
PACKAGE_SCHEME = "package"  # package://weights/file, a file of the installed package


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightEntry:
    """One set of weights.

    Attributes:
        name: What users type; unique.
        model: Name of the architecture: ours, timm's without its tag, or torchvision's builder for detectors.
        task: None for a backbone without a head. "detection" only for torchvision's person detectors.
        url: ``https://`` address, ``hf://owner/repository/file`` or ``package://weights/file``.
        sha256_prefix: Leading hex digits of the file's sha256 as its publisher gives them; None: not published.
        num_classes: Classes, or keypoints for pose; 0 without a head. Detectors count the background.
        input_spec: What the network expects.
        position_bias: HRFormer only: whether the relative position bias takes part. None: the question does not arise.
        decoder: Pose only: border rule of the published test code (see ``geometry.heatmaps``).
        dataset: Training data.
        licence: Terms of the file, and of the data where these may limit its use.
        source: Paper and repository.
        score: Published result with its protocol.
        origin: Who serves the file, which tells its layout.
    """

    name: str
    model: str
    task: Task | None
    url: str
    sha256_prefix: str | None = None
    num_classes: int = 0
    input_spec: InputSpec = field(default_factory=InputSpec)
    position_bias: bool | None = None
    decoder: Decoder = "official"
    dataset: str
    licence: str
    source: str
    score: str
    origin: Origin

    def __post_init__(self) -> None:
        if self.origin not in get_args(Origin):
            raise ValueError(f"origin of {self.name!r} must be one of {get_args(Origin)}, got {self.origin!r}")
        if self.task is not None and self.task not in get_args(Task):
            raise ValueError(f"task of {self.name!r} must be None or one of {get_args(Task)}, got {self.task!r}")
        if self.sha256_prefix is not None and not re.fullmatch(r"[0-9a-f]{8,64}", self.sha256_prefix):
            raise ValueError(
                f"sha256_prefix of {self.name!r} must be 8 to 64 lower-case hex digits, got {self.sha256_prefix!r}"
            )

    @property
    def filename(self) -> str:
        """Name of the file in the cache. Files of a hub all share one name there, so they take the entry's."""
        name = urlsplit(self.url).path.rpartition("/")[2]
        return self.name + Path(name).suffix if self.url.startswith(f"{HUB_SCHEME}://") else name

    @property
    def hub_location(self) -> tuple[str, str] | None:
        """(repository, file) for entries on the Hugging Face hub, else None."""
        parts = urlsplit(self.url)
        if parts.scheme != HUB_SCHEME:
            return None
        repository, _, file = parts.path.lstrip("/").partition("/")
        return f"{parts.netloc}/{repository}", file


_IMAGENET_TERMS = "trained on ImageNet-1K, whose terms are research and non-commercial"
_MMPOSE_LICENCE = f"Apache-2.0 (mmpose); pretraining {_IMAGENET_TERMS}"
_HRFORMER_PAPER = "HRFormer: High-Resolution Vision Transformer for Dense Prediction, NeurIPS 2021 (arXiv 2110.09408)"
_HRNET_PAPER = "Deep High-Resolution Representation Learning for Visual Recognition, TPAMI 2020 (arXiv 1908.07919)"
_HRNET_POSE_PAPER = "Deep High-Resolution Representation Learning for Human Pose Estimation, CVPR 2019"
_OCR_PAPER = "Object-Contextual Representations for Semantic Segmentation, ECCV 2020 (arXiv 1909.11065)"
_MMPOSE_URL = "https://download.openmmlab.com/mmpose/"
_TORCHVISION_URL = "https://download.pytorch.org/models/"
_OCR_URL = "https://github.com/hsfzxjy/models.storage/releases/download/HRNet-OCR/"


def _mmpose_pose(
    name: str, path: str, prefix: str, size: tuple[int, int], ap: float, ar: float, *, position_bias: bool | None
) -> WeightEntry:
    """COCO pose weights (trained and measured by mmpose)."""
    model = "_".join(name.split("_")[:2])
    return WeightEntry(
        name=name,
        model=model,
        task="pose",
        url=_MMPOSE_URL + path,
        sha256_prefix=prefix,
        num_classes=17,
        input_spec=InputSpec(size=size),
        position_bias=position_bias,
        decoder="mmpose",
        dataset="COCO keypoints train2017, backbone pretrained on ImageNet-1K",
        licence=_MMPOSE_LICENCE,
        source=f"{_HRFORMER_PAPER if model.startswith('hrformer') else _HRNET_POSE_PAPER}; open-mmlab/mmpose",
        score=f"COCO val2017 AP {ap}, AR {ar}: detector boxes of person AP 56.4, flip test (mmpose)",
        origin="mmpose",
    )


def _mmpose_backbone(model: str, prefix: str, file: str, *, score: str, hrformer: bool) -> WeightEntry:
    """ImageNet weights mmpose starts its pose models from. Classification keys inside are not our heads' keys."""
    return WeightEntry(
        name=f"{model}_imagenet",
        model=model,
        task=None,
        url=f"{_MMPOSE_URL}pretrain_models/{file}",
        sha256_prefix=prefix,
        input_spec=InputSpec(interpolation="bicubic") if hrformer else InputSpec(),
        position_bias=True if hrformer else None,
        dataset="ImageNet-1K",
        licence=f"{'Apache-2.0 (mmpose), MIT (HRNet/HRFormer)' if hrformer else 'MIT (HRNet)'}; {_IMAGENET_TERMS}",
        source=f"{_HRFORMER_PAPER if hrformer else _HRNET_PAPER}; copy in open-mmlab/mmpose",
        score=f"ImageNet val top-1 {score} for the authors' whole classifier, 224 px; a backbone here",
        origin="mmpose" if hrformer else "official",
    )


def _timm(
    timm_name: str, *, model: str | None = None, spec: InputSpec, licence: str, source: str, top1: str
) -> WeightEntry:
    """ImageNet classifiers on the hub under ``timm/``; the score is the one in timm's results table."""
    architecture = timm_name.partition(".")[0]
    return WeightEntry(
        name=timm_name.replace(".", "_"),
        model=model or architecture,
        task="classification",
        url=f"{HUB_SCHEME}://timm/{timm_name}/model.safetensors",
        num_classes=1000,
        input_spec=spec,
        dataset="ImageNet-1K",
        licence=f"{licence}; {_IMAGENET_TERMS}",
        source=f"{source}; timm {timm_name}",
        score=f"ImageNet val top-1 {top1}: 224 px centre crop, ratio {spec.crop_ratio} (timm)",
        origin="timm",
    )


def _hrnet_ocr(file: str, dataset: str, classes: int, size: tuple[int, int], score: str) -> WeightEntry:
    """HRNet-W48 + OCR segmentation weights of the HRNet authors."""
    return WeightEntry(
        name=f"hrnet_w48_ocr_{dataset.lower().replace('-10k', '').replace('-', '_')}",
        model="hrnet_w48",
        task="segmentation",
        url=_OCR_URL + file,
        num_classes=classes,
        input_spec=InputSpec(size=size),
        dataset=f"{dataset} train, backbone pretrained on ImageNet-1K",
        licence=f"MIT (HRNet, openseg); {dataset} and ImageNet-1K have their own research terms",
        source=f"{_OCR_PAPER}; HRNet/HRNet-Semantic-Segmentation",
        score=f"{dataset} val mIoU {score} (HRNet repository)",
        origin="official",
    )


def _detector(
    file: str, prefix: str, score: str, *, model: str = "", size: tuple[int, int] = (800, 1333)
) -> WeightEntry:
    """Detectors of torchvision. They normalise and resize inside, so they take RGB in [0, 1]; size is that limit."""
    model = model or file.removesuffix("_coco")
    return WeightEntry(
        name=f"{model}_coco",
        model=model,
        task="detection",
        url=f"{_TORCHVISION_URL}{file}-{prefix}.pth",
        sha256_prefix=prefix,
        num_classes=2 if model.startswith("keypoint") else 91,
        input_spec=InputSpec(size=size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
        dataset="COCO train2017",
        licence=f"BSD-3-Clause (torchvision); backbone {_IMAGENET_TERMS}",
        source="pytorch/vision",
        score=f"COCO val2017 {score} (torchvision)",
        origin="torchvision",
    )


_BICUBIC = InputSpec(interpolation="bicubic", crop_ratio=0.9)
_SSLD = InputSpec(crop_ratio=0.95)
_PADDLE = "Apache-2.0 (PaddleClas; timm's own table says MIT)"
_SSLD_SOURCE = f"{_HRNET_PAPER}; distilled by PaddleClas (SSLD)"
_DEIT = "Training data-efficient image transformers, ICML 2021 (arXiv 2012.12877); facebookresearch/deit"
_SWIN = "Swin Transformer, ICCV 2021 (arXiv 2103.14030); microsoft/Swin-Transformer"
_HRNET_CLS = f"{_HRNET_PAPER}; HRNet/HRNet-Image-Classification"
_TD = "top_down/hrformer/"
_V1 = "v1/body_2d_keypoint/topdown_heatmap/coco/td-hm_"
_SMALL, _LARGE = (256, 192), (384, 288)

# fmt: off
_PUBLISHED: tuple[WeightEntry, ...] = (
    _mmpose_backbone("hrformer_small", "09516375", "hrformer_small-09516375_20220226.pth", score="81.2", hrformer=True),
    _mmpose_backbone("hrformer_base", "32815020", "hrformer_base-32815020_20220226.pth", score="82.8", hrformer=True),
    # Trained with the relative position bias (mmpose, March 2022).
    _mmpose_pose("hrformer_small_coco_256x192", f"{_TD}hrformer_small_coco_256x192-5310d898_20220316.pth",
                 "5310d898", _SMALL, 73.8, 79.3, position_bias=True),
    _mmpose_pose("hrformer_small_coco_384x288", f"{_TD}hrformer_small_coco_384x288-98d237ed_20220316.pth",
                 "98d237ed", _LARGE, 75.7, 80.7, position_bias=True),
    _mmpose_pose("hrformer_base_coco_256x192", f"{_TD}hrformer_base_coco_256x192-6f5f1169_20220316.pth",
                 "6f5f1169", _SMALL, 75.4, 80.7, position_bias=True),
    _mmpose_pose("hrformer_base_coco_384x288", f"{_TD}hrformer_base_coco_384x288-ecf0758d_20220316.pth",
                 "ecf0758d", _LARGE, 77.4, 82.3, position_bias=True),
    # Trained without it (mmpose, February 2022), as the authors' own pose code does.
    _mmpose_pose("hrformer_small_coco_256x192_no_bias", f"{_TD}hrformer_small_coco_256x192-b657896f_20220226.pth",
                 "b657896f", _SMALL, 73.7, 79.2, position_bias=False),
    _mmpose_pose("hrformer_small_coco_384x288_no_bias", f"{_TD}hrformer_small_coco_384x288-4b52b078_20220226.pth",
                 "4b52b078", _LARGE, 75.5, 80.5, position_bias=False),
    _mmpose_pose("hrformer_base_coco_256x192_no_bias", f"{_TD}hrformer_base_coco_256x192-66cee214_20220226.pth",
                 "66cee214", _SMALL, 75.3, 80.6, position_bias=False),
    _mmpose_pose("hrnet_w32_coco_256x192", f"{_V1}hrnet-w32_8xb64-210e_coco-256x192-81c58e40_20220909.pth",
                 "81c58e40", _SMALL, 74.9, 80.4, position_bias=None),
    _mmpose_pose("hrnet_w32_coco_384x288", f"{_V1}hrnet-w32_8xb64-210e_coco-384x288-ca5956af_20220909.pth",
                 "ca5956af", _LARGE, 76.1, 81.1, position_bias=None),
    _mmpose_pose("hrnet_w48_coco_256x192", f"{_V1}hrnet-w48_8xb32-210e_coco-256x192-0e67c616_20220913.pth",
                 "0e67c616", _SMALL, 75.6, 80.9, position_bias=None),
    _mmpose_pose("hrnet_w48_coco_384x288", f"{_V1}hrnet-w48_8xb32-210e_coco-384x288-c161b7de_20220915.pth",
                 "c161b7de", _LARGE, 76.7, 81.7, position_bias=None),
    _mmpose_backbone("hrnet_w32", "36af842e", "hrnet_w32-36af842e.pth", score="78.5", hrformer=False),
    _mmpose_backbone("hrnet_w48", "8ef0771d", "hrnet_w48-8ef0771d.pth", score="79.3", hrformer=False),
    _timm("hrnet_w18.ms_in1k", spec=InputSpec(), licence="MIT", source=_HRNET_CLS, top1="76.77"),
    _timm("hrnet_w32.ms_in1k", spec=InputSpec(), licence="MIT", source=_HRNET_CLS, top1="78.45"),
    _timm("hrnet_w48.ms_in1k", spec=InputSpec(), licence="MIT", source=_HRNET_CLS, top1="79.33"),
    _timm("hrnet_w18_ssld.paddle_in1k", model="hrnet_w18", spec=_SSLD, licence=_PADDLE, source=_SSLD_SOURCE,
          top1="81.11"),
    _timm("hrnet_w48_ssld.paddle_in1k", model="hrnet_w48", spec=_SSLD, licence=_PADDLE, source=_SSLD_SOURCE,
          top1="83.66"),
    _timm("deit_tiny_patch16_224.fb_in1k", spec=_BICUBIC, licence="Apache-2.0", source=_DEIT, top1="72.19"),
    _timm("deit_small_patch16_224.fb_in1k", spec=_BICUBIC, licence="Apache-2.0", source=_DEIT, top1="79.86"),
    _timm("deit_base_patch16_224.fb_in1k", spec=_BICUBIC, licence="Apache-2.0", source=_DEIT, top1="81.98"),
    _timm("swin_tiny_patch4_window7_224.ms_in1k", spec=_BICUBIC, licence="MIT", source=_SWIN, top1="81.39"),
    _timm("swin_small_patch4_window7_224.ms_in1k", spec=_BICUBIC, licence="MIT", source=_SWIN, top1="83.23"),
    _timm("swin_base_patch4_window7_224.ms_in1k", spec=_BICUBIC, licence="MIT", source=_SWIN, top1="83.60"),
    _hrnet_ocr("hrnet_ocr_cs_8162_torch11.pth", "Cityscapes", 19, (512, 1024), "81.6, single scale, no flip"),
    _hrnet_ocr("hrnet_ocr_pascal_ctx_5618_torch11.pth", "PASCAL-Context", 59, (520, 520),
               "56.2, 59 classes, multi-scale and flip"),
    _hrnet_ocr("hrnet_ocr_cocostuff_3965_torch04.pth", "COCO-Stuff-10K", 171, (520, 520),
               "39.7 single scale, 40.6 multi-scale and flip"),
    _hrnet_ocr("hrnet_ocr_ade20k_4451_torch04.pth", "ADE20K", 150, (520, 520),
               "44.5 single scale, 45.5 multi-scale and flip"),
    _detector("fasterrcnn_resnet50_fpn_v2_coco", "dd69338a", "box mAP 46.7"),
    _detector("fasterrcnn_resnet50_fpn_coco", "258fb6c6", "box mAP 37.0"),
    _detector("fasterrcnn_mobilenet_v3_large_fpn", "fb6a3cc7", "box mAP 32.8"),
    _detector("fasterrcnn_mobilenet_v3_large_320_fpn", "907ea3f9", "box mAP 22.8", size=(320, 640)),
    _detector("ssdlite320_mobilenet_v3_large_coco", "a79551df", "box mAP 21.3", size=(320, 320)),
    _detector("retinanet_resnet50_fpn_v2_coco", "5905b1c5", "box mAP 41.5"),
    _detector("retinanet_resnet50_fpn_coco", "eeacb38b", "box mAP 36.4"),
    _detector("fcos_resnet50_fpn_coco", "99b0c9b7", "box mAP 39.2"),
    _detector("keypointrcnn_resnet50_fpn_coco", "fc266e95", "person box mAP 54.6, keypoint mAP 65.0"),
)
# fmt: on

_AUTHORS_FILES = (
    "The HRFormer authors' own files (ImageNet, COCO pose, segmentation) are behind OneDrive links, which only a "
    "browser can follow: download one from https://github.com/HRNet/HRFormer and pass the path of the local file."
)


def bundled_folder() -> Path:
    """Folder of the weights inside the installed package."""
    return Path(str(files("hrformer").joinpath("weights")))


def list_bundled(folder: Path | None = None) -> list[WeightEntry]:
    """Weights that come with the package, read from the headers of ``folder``'s safetensors files, sorted by name.

    Raises:
        ValueError: a file there was not written by this package.
    """
    folder = folder or bundled_folder()
    return [_bundled_entry(path) for path in sorted(folder.glob("*.safetensors"))]


def _bundled_entry(path: Path) -> WeightEntry:
    with safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
    if metadata.get("format") != "hrformer":
        raise ValueError(f"{path} has no hrformer metadata; expected format='hrformer', got {metadata.get('format')!r}")
    info: dict[str, Any] = json.loads(metadata["info"])
    options: dict[str, Any] = json.loads(metadata.get("options") or "{}")
    task: Any = metadata.get("task") or None
    return WeightEntry(
        name=path.stem,
        model=metadata["model"],
        task=task,
        url=f"{PACKAGE_SCHEME}://weights/{path.name}",
        num_classes=_num_outputs(task, info, options),
        input_spec=InputSpec.from_dict(info["input_spec"]),
        position_bias=options.get("position_bias"),
        decoder=info.get("decoder") or "official",
        dataset=info.get("dataset") or "not recorded",
        licence=metadata.get("licence") or info.get("licence") or f"see {path.stem}.md beside the file",
        source=info.get("source") or "hrformer",
        score=metadata.get("score") or info.get("score") or f"see {path.stem}.md beside the file",
        origin="bundled",
    )


def _num_outputs(task: str | None, info: dict[str, Any], options: dict[str, Any]) -> int:
    """Keypoints or classes of a bundled file: the skeleton or the names in its header, else the model's options."""
    if task == "pose":
        return len((info.get("skeleton") or {}).get("keypoints", ())) or int(options.get("num_keypoints") or 0)
    return len(info.get("class_names") or ()) or int(options.get("num_classes") or 0)


def list_weights() -> list[WeightEntry]:
    """Every entry: the bundled ones first, then the published ones."""
    return [*list_bundled(), *_PUBLISHED]


def find_weights(name: str) -> WeightEntry:
    """Entry called ``name``.

    Raises:
        ValueError: no such entry; the message names close matches and, for files that no program can
            download, how to use them.
    """
    entries = {entry.name: entry for entry in list_weights()}
    if name in entries:
        return entries[name]
    close = [known for known in entries if name and known.startswith(name)]
    close += [known for known in difflib.get_close_matches(name, entries, n=5, cutoff=0.6) if known not in close]
    message = f"no weights are called {name!r}."
    if close:
        message += f" Close matches: {', '.join(close[:8])}."
    message += " `hrformer models` lists all names; the path of a local file is accepted too."
    if re.search(r"hrformer|^hrt|onedrive|1drv\.ms", name.lower()):
        message += f" {_AUTHORS_FILES}"
    raise ValueError(message)
