"""A backbone and a head made into one model, with what predictors need to know about its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn

from hrformer.geometry.heatmaps import Decoder, HeatmapCodec, check_decoder
from hrformer.geometry.input_spec import InputSpec
from hrformer.geometry.skeletons import Skeleton
from hrformer.models.fusion import UpsampleMode
from hrformer.models.heads import FCNHead, OCRHead
from hrformer.models.trunk import FeatureInfo, HighResolutionTrunk

Task = Literal["classification", "pose", "segmentation"]
TASKS: tuple[Task, ...] = ("classification", "pose", "segmentation")


class Backbone(Protocol):
    """What a head asks of a backbone."""

    @property
    def feature_info(self) -> Sequence[FeatureInfo]:
        """Name, channels and stride of every published map, finest first."""
        ...

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> the published maps by name."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """What travels with a set of weights besides the tensors.

    Attributes:
        name: variant, such as "hrformer_small".
        task: "classification", "pose", "segmentation", or None for a bare backbone.
        num_classes: classes or keypoints of the head; 0 without one.
        class_names: one per class, or empty where unknown.
        skeleton: pose only; None where unknown.
        input_spec: the input contract; brought to the number of channels that ``options`` name in ``in_chans``.
        decoder: pose only: how heatmaps are decoded, and for "udp" people cut out; see ``HeatmapCodec``.
        blur_kernel: pose only: of that decoder.
        shift_heatmap: pose only: whether the flip test may shift the mirrored maps; UDP's need no shift.
        dataset: what the weights were trained on; empty where unknown.
        source: where the weights come from; empty for fresh ones.
        temperature: classification only: logits are divided by it before they become probabilities, so that these say
            how often the model is right; 1 where nothing was fitted.
        palette: segmentation only: an RGB colour per class, or empty.
        options: the ``create_model`` options that rebuild the same architecture.
    """

    name: str
    task: Task | None = None
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    skeleton: Skeleton | None = None
    input_spec: InputSpec = field(default_factory=InputSpec)
    decoder: Decoder = "official"
    blur_kernel: int = 11
    shift_heatmap: bool = True
    dataset: str = ""
    source: str = ""
    temperature: float = 1.0
    palette: tuple[tuple[int, int, int], ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.task is not None and self.task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)} or None, got {self.task!r}")
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(f"class_names has {len(self.class_names)} names for {self.num_classes} classes")
        if self.skeleton is not None and self.skeleton.num_keypoints != self.num_classes:
            raise ValueError(f"skeleton has {self.skeleton.num_keypoints} keypoints, the head {self.num_classes}")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if self.task == "pose":
            check_decoder(self.decoder, self.blur_kernel)
        object.__setattr__(self, "input_spec", self.input_spec.for_channels(self.options.get("in_chans", 3)))

    def codec(self, heatmap_size: tuple[int, int]) -> HeatmapCodec:
        """Decoder of a pose model's maps of (height, width) cells."""
        size = self.input_spec.size
        return HeatmapCodec(
            input_size=size, heatmap_size=heatmap_size, decoder=self.decoder, blur_kernel=self.blur_kernel
        )


def find_device(wanted: str | torch.device | None) -> torch.device:
    """The device to run on.

    Args:
        wanted: such as "cpu" or "cuda:0"; None takes the GPU if there is one.

    Raises:
        ValueError: no such device, or it is not to be had on this machine.
    """
    if wanted is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ImportError) as error:
        here = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        here += ["mps"] if torch.backends.mps.is_available() else []
        raise ValueError(f"no device {str(wanted)!r} here; there is {', '.join(here)}") from error
    return device


class VisionModel(nn.Module):
    """Backbone plus head.

    Args:
        backbone: publishes named maps through ``feature_info``.
        head: called with the maps and the image size (H, W); None returns the maps themselves.
        info: what the weights stand for; may be replaced when other weights are loaded.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module | None, info: ModelInfo) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.info = info

    @property
    def task(self) -> Task | None:
        """Task of the head."""
        return self.info.task

    @property
    def feature_info(self) -> Sequence[FeatureInfo]:
        """Maps that the backbone publishes, finest first."""
        return cast(Backbone, self.backbone).feature_info

    def set_upsample(self, mode: UpsampleMode) -> None:
        """Change the fusion upsampling in place, and with it the resizing of a head that follows it.

        Raises:
            ValueError: the mode is unknown, or the backbone has no fusion units.
        """
        if not isinstance(self.backbone, HighResolutionTrunk):
            raise ValueError(f"{self.info.name} has no fusion units whose upsampling could be set")
        self.backbone.set_upsample(mode)
        if isinstance(self.head, FCNHead):
            self.head.align_corners = mode == "bilinear_aligned"
        elif isinstance(self.head, OCRHead):
            self.head.align_corners = mode != "bilinear"

    def forward(self, x: Tensor) -> Any:
        """Run the model.

        Args:
            x: (B, 3, H, W), normalised as ``info.input_spec`` says.

        Returns:
            Classification: logits (B, C). Pose: heatmaps (B, K, ceil(H / 4), ceil(W / 4)). Segmentation: logits
            (B, C, H, W), in training mode the pair (auxiliary, main) where the head has an auxiliary output. Without
            a head: maps by name.
        """
        features = self.backbone(x)
        if self.head is None:
            return features
        return self.head(features, (x.shape[-2], x.shape[-1]))


@torch.no_grad()
def init_pose_weights(model: nn.Module) -> None:
    """Initialise a pose model, or the part of it that is fresh, as the published runs did (HRFormer repository).

    Every convolution is drawn from a normal distribution of std 0.001 with zero bias, linear layers stay as they are.
    Classification and segmentation keep PyTorch's defaults throughout; bias tables are drawn at construction.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.001)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
