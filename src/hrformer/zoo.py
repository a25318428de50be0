"""Named variants: one function each, and the function that adds a head to any of them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

from torch import nn

from hrformer.fast.coat import put_on
from hrformer.geometry.input_spec import InputSpec
from hrformer.geometry.skeleton_inference import SkeletonLike, read_skeleton
from hrformer.geometry.skeletons import skeleton_for
from hrformer.models.fusion import UpsampleMode
from hrformer.models.heads import ClassificationConfig, ClassificationHead, FCNHead, OCRConfig, OCRHead, PoseHead
from hrformer.models.model import TASKS, ModelInfo, Task, VisionModel, init_pose_weights
from hrformer.models.trunk import HighResolutionTrunk, HRFormerConfig, HRNetConfig, build_hrformer, build_hrnet
from hrformer.timm_backbones import TimmBackbone, TimmClassifier, is_timm_name, timm_names

BackboneConfig = HRFormerConfig | HRNetConfig

DEFAULT_CLASSES: Mapping[Task, int] = {"classification": 1000, "pose": 17, "segmentation": 19}
"""ImageNet-1K, COCO keypoints, Cityscapes."""

INPUT_SPECS: Mapping[Task | None, InputSpec] = {
    "classification": InputSpec(size=(224, 224), interpolation="bicubic"),
    "pose": InputSpec(size=(256, 192)),
    "segmentation": InputSpec(size=(520, 520), interpolation="bicubic"),
    None: InputSpec(),
}


def hrformer_nano() -> HRFormerConfig:
    """Ours, not the paper's: T with one module per stage, for tests, bundled weights and small machines."""
    return replace(hrformer_tiny(), num_modules=(1, 1, 1))


def hrformer_tiny() -> HRFormerConfig:
    """HRFormer-T (paper, table of instances)."""
    return HRFormerConfig(channels=(18, 36, 72, 144), num_heads=(1, 2, 4, 8), num_modules=(1, 3, 2))


def hrformer_small() -> HRFormerConfig:
    """HRFormer-S (paper, table of instances)."""
    return HRFormerConfig(channels=(32, 64, 128, 256), num_heads=(1, 2, 4, 8), num_modules=(1, 4, 2))


def hrformer_base() -> HRFormerConfig:
    """HRFormer-B (paper, table of instances)."""
    return HRFormerConfig(channels=(78, 156, 312, 624), num_heads=(2, 4, 8, 16), num_modules=(1, 4, 2))


def hrnet_w18() -> HRNetConfig:
    """HRNet-W18."""
    return HRNetConfig(width=18)


def hrnet_w32() -> HRNetConfig:
    """HRNet-W32."""
    return HRNetConfig(width=32)


def hrnet_w48() -> HRNetConfig:
    """HRNet-W48."""
    return HRNetConfig(width=48)


def _windowed(variant: Callable[[], HRFormerConfig], window: int) -> Callable[[], HRFormerConfig]:
    def config() -> HRFormerConfig:
        return replace(variant(), window=window)

    config.__doc__ = f"{variant.__name__} with {window} x {window} windows, as some segmentation runs use."
    return config


VARIANTS: dict[str, Callable[[], BackboneConfig]] = {
    "hrformer_nano": hrformer_nano,
    "hrformer_tiny": hrformer_tiny,
    "hrformer_small": hrformer_small,
    "hrformer_base": hrformer_base,
    "hrformer_tiny_window13": _windowed(hrformer_tiny, 13),
    "hrformer_tiny_window15": _windowed(hrformer_tiny, 15),
    "hrformer_small_window13": _windowed(hrformer_small, 13),
    "hrformer_small_window15": _windowed(hrformer_small, 15),
    "hrformer_base_window13": _windowed(hrformer_base, 13),
    "hrformer_base_window15": _windowed(hrformer_base, 15),
    "hrnet_w18": hrnet_w18,
    "hrnet_w32": hrnet_w32,
    "hrnet_w48": hrnet_w48,
}

# Drop path at the full depth (recipes of the three repositories): task -> variant stem -> rate.
DROP_PATH: Mapping[Task, Mapping[str, float]] = {
    "classification": {"hrformer_base": 0.2},
    "pose": {"hrformer_small": 0.1, "hrformer_base": 0.2},
    "segmentation": {"hrformer_small": 0.2, "hrformer_base": 0.2},
}

AUX_HEADS: Mapping[str, Mapping[str, Any]] = {
    "openseg": {},
    "wide": {"aux_channels": None},
    "hrnet": {"aux_channels": None, "aux_kernel": 1, "attention_bias": False},
}
"""Auxiliary head of OCR models: as wide as the pixel features (HRFormer; openseg's ``HRNet_W48_OCR_B``), as wide as
the input (openseg's ``HRNet_W48_OCR``, the 74.5 M baseline), or HRNet's own repository's."""

BACKBONE_OPTIONS = ("window_size", "position_bias", "upsample", "drop_path_rate", "mlp_ratio", "ffn_kernel", "in_chans")
HEAD_OPTIONS: Mapping[Task | None, tuple[str, ...]] = {
    "classification": ("head_planes", "head_width", "drop_rate"),
    "pose": (),
    "segmentation": ("head", "ocr_channels", "ocr_key_channels", "aux", "dropout"),
    None: (),
}


def list_models() -> list[str]:
    """Names that ``create_model`` builds itself; any timm name with feature maps works too."""
    return list(VARIANTS)


def _reject_unknown(options: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise ValueError(f"unknown option {name!r} for {what}{hint} Known: {', '.join(known)}")


def backbone_config(name: str, task: Task | None = None, **options: Any) -> BackboneConfig:
    """Configuration of a named variant with options applied.

    Args:
        name: one of ``list_models()``.
        task: sets the task's defaults: bilinear fusion and one output for pose, drop path.
        **options: ``window_size``, ``position_bias``, ``upsample``, ``drop_path_rate``, ``mlp_ratio``,
            ``ffn_kernel``, ``in_chans``; None means the default.

    Raises:
        ValueError: an option does not apply to the variant.
    """
    config = VARIANTS[name]()
    options = {k: v for k, v in options.items() if v is not None}
    config = replace(config, multi_scale=task != "pose", in_chans=options.pop("in_chans", 3))
    is_former = isinstance(config, HRFormerConfig)
    # HRFormer's pose code fuses bilinearly, its other code and HRNet nearest.
    default: UpsampleMode = "bilinear" if is_former and task == "pose" else "nearest"
    config = replace(config, upsample=options.pop("upsample", default))
    if not isinstance(config, HRFormerConfig):
        if options:
            raise ValueError(f"{name} is convolutional and takes no {', '.join(sorted(options))}")
        return config
    rate = DROP_PATH[task].get(name.partition("_window")[0], 0.0) if task else 0.0
    return replace(
        config,
        window=options.get("window_size", config.window),
        position_bias=options.get("position_bias", True),
        mlp_ratio=options.get("mlp_ratio", config.mlp_ratio),
        ffn_kernel=options.get("ffn_kernel", config.ffn_kernel),
        drop_path_rate=options.get("drop_path_rate", rate),
    )


def build_backbone(config: BackboneConfig) -> HighResolutionTrunk:
    """Trunk of either family, see ``hrformer.fast.coat.put_on``."""
    return put_on(build_hrformer(config) if isinstance(config, HRFormerConfig) else build_hrnet(config))


def build_head(backbone: Any, task: Task, num_outputs: int, *, depthwise: bool = True, **options: Any) -> nn.Module:
    """Head for any backbone with a ``feature_info`` list.

    Args:
        backbone: publishes named maps.
        task: which head.
        num_outputs: classes or keypoints.
        depthwise: classification: the published HRFormer head, or HRNet's with full convolutions.
        **options: ``head_planes``, ``head_width``, ``drop_rate`` (classification); ``head`` ("ocr" or "fcn"),
            ``ocr_channels``, ``ocr_key_channels``, ``aux`` ("openseg", "wide" or "hrnet"), ``dropout``
            (segmentation).

    Raises:
        ValueError: an option is unknown or out of range.
    """
    _reject_unknown(options, HEAD_OPTIONS[task], f"the {task} head")
    features = backbone.feature_info
    if task == "classification":
        names = {"head_planes": "planes", "head_width": "width", "drop_rate": "drop_rate"}
        config = ClassificationConfig(depthwise=depthwise, **{names[k]: v for k, v in options.items()})
        return ClassificationHead(features, num_outputs, config)
    if task == "pose":
        return PoseHead(features, num_outputs)
    kind = options.pop("head", "ocr")
    if kind not in ("ocr", "fcn"):
        raise ValueError(f"head must be 'ocr' or 'fcn', got {kind!r}")
    if kind == "fcn":
        _reject_unknown(options, ("head",), "the fcn head")
        return FCNHead(features, num_outputs)
    aux = options.pop("aux", "openseg")
    if aux not in AUX_HEADS:
        raise ValueError(f"aux must be one of {', '.join(AUX_HEADS)}, got {aux!r}")
    names = {"ocr_channels": "channels", "ocr_key_channels": "key_channels", "dropout": "dropout"}
    values: dict[str, Any] = {names[k]: v for k, v in options.items()}
    values["aux_channels"] = values.get("channels", OCRConfig().channels)
    values |= AUX_HEADS[aux]
    return OCRHead(features, num_outputs, OCRConfig(**values))


def _num_outputs(task: Task | None, num_classes: int | None, num_keypoints: int | None) -> int:
    if task is None:
        if num_classes is not None or num_keypoints is not None:
            raise ValueError("a bare backbone has no classes or keypoints; give a task as well")
        return 0
    if task == "pose":
        if num_classes is not None:
            raise ValueError("pose takes num_keypoints, not num_classes")
        count = num_keypoints
    else:
        if num_keypoints is not None:
            raise ValueError(f"{task} takes num_classes, not num_keypoints")
        count = num_classes
    count = DEFAULT_CLASSES[task] if count is None else count
    if count < 1:
        raise ValueError(f"the number of classes or keypoints must be at least 1, got {count}")
    return count


def _timm_spec(task: Task | None, backbone: TimmBackbone | TimmClassifier, img_size: Any) -> InputSpec:
    """Input contract: timm's pixel statistics; timm's size for its classifiers and where it takes no other."""
    cfg = cast(dict[str, Any], getattr(backbone.net, "pretrained_cfg", {}))
    spec = INPUT_SPECS[task]
    if len(cfg.get("mean", ())) == len(cfg.get("std", ())) == 3:
        spec = replace(spec, mean=tuple(cfg["mean"]), std=tuple(cfg["std"]))
    if task == "classification":
        crop = cfg.get("crop_pct") or spec.crop_ratio
        spec = replace(spec, interpolation=cfg.get("interpolation") or spec.interpolation, crop_ratio=crop)
    if img_size is None and (task in ("classification", None) or not backbone.any_size):
        img_size = cfg.get("input_size", (3, *spec.size))[1:]
    if img_size is None:
        return spec
    return replace(spec, size=(img_size, img_size) if isinstance(img_size, int) else tuple(img_size))


def _timm_model(name: str, task: Task | None, count: int, options: dict[str, Any]) -> VisionModel:
    name = name.removeprefix("timm/")
    if not is_timm_name(name):
        known = list_models()
        close = difflib.get_close_matches(name, dict.fromkeys([*known, *timm_names()]), 3)
        hint = f" Close: {', '.join(close)}." if close else ""
        raise ValueError(f"no model named {name!r}.{hint} Ours: {', '.join(known)}; or any timm model.")
    options = {k: v for k, v in options.items() if v is not None}
    backbone: TimmBackbone | TimmClassifier
    if task == "classification":
        backbone, head = TimmClassifier(name, count, **options), None
    else:
        head_options = {k: v for k, v in options.items() if k in HEAD_OPTIONS[task]}
        backbone = TimmBackbone(name, **{k: v for k, v in options.items() if k not in head_options})
        head = None if task is None else build_head(backbone, task, count, **head_options)
    info = ModelInfo(
        name=f"timm/{name}",
        task=task,
        num_classes=count,
        input_spec=_timm_spec(task, backbone, options.get("img_size")),
        options={k: v for k, v in options.items() if k != "pretrained"},
    )
    return VisionModel(backbone, head, info)


def _our_model(name: str, task: Task | None, count: int, options: dict[str, Any]) -> VisionModel:
    _reject_unknown(options, (*BACKBONE_OPTIONS, *HEAD_OPTIONS[task]), f"{name} with task {task}")
    head_options = {k: options[k] for k in HEAD_OPTIONS[task] if options.get(k) is not None}
    trunk_options = {k: options[k] for k in BACKBONE_OPTIONS if options.get(k) is not None}
    config = backbone_config(name, task, **trunk_options)
    backbone = build_backbone(config)
    depthwise = isinstance(config, HRFormerConfig)
    head = None if task is None else build_head(backbone, task, count, depthwise=depthwise, **head_options)
    info = ModelInfo(
        name=name, task=task, num_classes=count, input_spec=INPUT_SPECS[task], options=trunk_options | head_options
    )
    model = VisionModel(backbone, head, info)
    model.set_upsample(config.upsample)
    return model


def create_model(
    name: str,
    task: Task | None = None,
    *,
    num_classes: int | None = None,
    num_keypoints: int | None = None,
    window_size: int | None = None,
    skeleton: SkeletonLike | None = None,
    **options: Any,
) -> VisionModel:
    """Build a model with fresh weights, in training mode.

    Args:
        name: one of ``list_models()``, or a timm name (prefix "timm/" to mean timm's where both exist); timm
            classifiers keep their own head, other tasks put ours on timm's feature maps.
        task: "classification", "pose", "segmentation", or None for the bare backbone.
        num_classes: classes, for classification (default 1000) and segmentation (default 19).
        num_keypoints: keypoints, for pose (default the skeleton's, else 17).
        window_size: side of the attention windows in cells.
        skeleton: the joints of a pose model, see ``read_skeleton``; COCO's for 17 and LSPET's for 14 keypoints else.
        **options: backbone: ``position_bias`` (bool), ``upsample`` ("nearest", "bilinear",
            "bilinear_aligned", "bilinear_to_size"), ``drop_path_rate``, ``mlp_ratio``, ``in_chans``;
            classification head: ``head_planes``, ``head_width``, ``drop_rate``; segmentation head:
            ``head`` ("ocr", or "fcn" for HRNetV2's plain one, which has no auxiliary output), ``ocr_channels``,
            ``ocr_key_channels``, ``aux`` ("openseg", "wide" or "hrnet"), ``dropout``. For timm models: whatever
            ``timm.create_model`` takes.

    Returns:
        A ``VisionModel``; see its ``forward`` for shapes.

    Raises:
        ValueError: unknown name, task or option, with the closest valid one.
    """
    if task is not None and task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)} or None, got {task!r}")
    if skeleton is not None:
        if task != "pose":
            raise ValueError(f"a skeleton is for task 'pose', not {task!r}")
        skeleton = read_skeleton(skeleton, num_keypoints)
        num_keypoints = skeleton.num_keypoints
    count = _num_outputs(task, num_classes, num_keypoints)
    if task == "pose" and skeleton is None:
        skeleton = skeleton_for(count)
    if window_size is not None:
        options["window_size"] = window_size
    model = _our_model(name, task, count, options) if name in VARIANTS else _timm_model(name, task, count, options)
    model.info = replace(model.info, skeleton=skeleton)
    if task == "pose":
        init_pose_weights(cast(nn.Module, model.head) if isinstance(model.backbone, TimmBackbone) else model)
    return put_on(model)
