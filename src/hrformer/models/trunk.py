"""HRFormer, and HRNet that it is compared with: one multi-resolution trunk, and their blocks and fusion types.

Dimension letters: B batch, C channels of a branch, H and W input size. Branch i has stride 4 * 2 ** i.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hrformer.models.attention import WindowAttention
from hrformer.models.blocks import BasicBlock, Bottleneck, TransformerBlock, batch_norm, conv_bn_relu
from hrformer.models.fusion import UPSAMPLE_MODES, FusionUnit, UpsampleMode

STEM_CHANNELS = 64
STAGE1_PLANES = 64

BlockFactory = Callable[[int, int], nn.Module]
"""(branch, depth) -> block; depth counts the blocks of stages 2, 3, 4 from 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureInfo:
    """One named feature map of a backbone: (B, ``channels``, ceil(H / ``stride``), ceil(W / ``stride``))."""

    name: str
    channels: int
    stride: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TrunkConfig:
    """Shape of a trunk.

    Attributes:
        channels: of branches 0 to 3, finest first.
        num_modules: modules in stages 2, 3, 4.
        stage1_blocks: bottlenecks before the branches split: 2 in HRFormer, 4 in HRNet.
        num_blocks: blocks per branch and module.
        separable_fusion: depthwise-separable stride-2 steps in the fusion units (HRFormer), or full ones.
        upsample: fusion upsampling; nearest for classification and segmentation weights, bilinear for pose.
        multi_scale: publish all four branches; otherwise only the finest, and the last fusion unit has one row.
        in_chans: channels of the input image.
    """

    channels: tuple[int, int, int, int]
    num_modules: tuple[int, int, int]
    stage1_blocks: int
    num_blocks: int
    separable_fusion: bool
    upsample: UpsampleMode = "nearest"
    multi_scale: bool = True
    in_chans: int = 3

    def __post_init__(self) -> None:
        if len(self.channels) != 4 or len(self.num_modules) != 3:
            raise ValueError(f"channels needs 4 values and num_modules 3, got {self.channels} and {self.num_modules}")
        if min(*self.channels, *self.num_modules, self.stage1_blocks, self.num_blocks, self.in_chans) < 1:
            raise ValueError(f"channels, modules and blocks must be at least 1, got {self}")
        if self.upsample not in UPSAMPLE_MODES:
            raise ValueError(f"upsample must be one of {', '.join(UPSAMPLE_MODES)}, got {self.upsample!r}")

    @property
    def depth(self) -> int:
        """Blocks one after the other in stages 2 to 4: 12 or 14 in the published HRFormers."""
        return sum(self.num_modules) * self.num_blocks


class HighResolutionModule(nn.Module):
    """A few blocks on every branch, then one fusion unit."""

    def __init__(self, branches: Sequence[nn.Sequential], fuse: FusionUnit) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.fuse = fuse

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        """[(B, C_j, H_j, W_j)] -> the fused branches."""
        ys: list[Tensor] = []
        for i, branch in enumerate(self.branches):
            ys.append(branch(xs[i]))
        return self.fuse(ys)


class HighResolutionTrunk(nn.Module):
    """Stem, bottleneck stage, then three stages that add one branch each and exchange after every module.

    Args:
        config: the shape.
        make_block: builds the block of a branch at a depth.

    Attributes:
        feature_info: the maps that ``forward`` returns, finest first.
    """

    def __init__(self, config: TrunkConfig, make_block: BlockFactory) -> None:
        super().__init__()
        self.config = config
        self.feature_info = tuple(
            FeatureInfo(name=f"stride{4 * 2**i}", channels=config.channels[i], stride=4 * 2**i)
            for i in range(4 if config.multi_scale else 1)
        )
        self.names = [info.name for info in self.feature_info]
        self.conv1 = nn.Conv2d(config.in_chans, STEM_CHANNELS, 3, 2, 1, bias=False)
        self.bn1 = batch_norm(STEM_CHANNELS)
        self.conv2 = nn.Conv2d(STEM_CHANNELS, STEM_CHANNELS, 3, 2, 1, bias=False)
        self.bn2 = batch_norm(STEM_CHANNELS)
        self.relu = nn.ReLU(inplace=True)
        width = STAGE1_PLANES * Bottleneck.expansion
        self.layer1 = nn.Sequential(
            *(Bottleneck(STEM_CHANNELS if i == 0 else width, STAGE1_PLANES) for i in range(config.stage1_blocks))
        )
        c = config.channels
        same = nn.Sequential(*conv_bn_relu(width, c[0], 3))
        half = nn.Sequential(*conv_bn_relu(width, c[1], 3, stride=2))
        # The nesting is that of the published names.
        self.transition1 = nn.ModuleList([same, nn.Sequential(half)])
        self.transition2 = self._transition(2)
        self.transition3 = self._transition(3)
        self.stage2 = self._stage(2, make_block)
        self.stage3 = self._stage(3, make_block)
        self.stage4 = self._stage(4, make_block)

    def _transition(self, num_branches: int) -> nn.ModuleList:
        c = self.config.channels
        new = nn.Sequential(*conv_bn_relu(c[num_branches - 1], c[num_branches], 3, stride=2))
        return nn.ModuleList([*(nn.Identity() for _ in range(num_branches)), nn.Sequential(new)])

    def _stage(self, stage: int, make_block: BlockFactory) -> nn.ModuleList:
        """Stage s has s branches; only the last module of all may leave out the coarser outputs."""
        config, modules = self.config, []
        num_modules = config.num_modules[stage - 2]
        before = sum(config.num_modules[: stage - 2])
        for index in range(num_modules):
            depth = (before + index) * config.num_blocks
            branches = [
                nn.Sequential(*(make_block(branch, depth + i) for i in range(config.num_blocks)))
                for branch in range(stage)
            ]
            last = stage == 4 and index == num_modules - 1
            fuse = FusionUnit(
                config.channels[:stage],
                num_outputs=1 if last and not config.multi_scale else stage,
                separable=config.separable_fusion,
                upsample=config.upsample,
            )
            modules.append(HighResolutionModule(branches, fuse))
        return nn.ModuleList(modules)

    def high_resolution_modules(self) -> list[HighResolutionModule]:
        """All modules of stages 2, 3, 4, in order."""
        return [m for m in self.modules() if isinstance(m, HighResolutionModule)]

    def set_upsample(self, mode: UpsampleMode) -> None:
        """Change the fusion upsampling in place; it has no weights, so it cannot be seen in a file."""
        if mode not in UPSAMPLE_MODES:
            raise ValueError(f"upsample must be one of {', '.join(UPSAMPLE_MODES)}, got {mode!r}")
        for module in self.high_resolution_modules():
            module.fuse.upsample = mode

    def set_position_bias(self, enabled: bool) -> None:
        """Add the relative position bias in every attention, or do not; a no-op for HRNet."""
        for module in self.modules():
            if isinstance(module, WindowAttention):
                module.set_position_bias(enabled)

    def keep_only_half(self) -> None:
        """Drop everything behind ``forward_half``."""
        for name, _ in list(self.named_children()):
            if name not in ("conv1", "bn1", "relu"):
                setattr(self, name, nn.Identity())

    def forward_half(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> the map after the first convolution, at stride 2."""
        # Channels-last from here to the head: the token view of a map is then free.
        x = x.contiguous(memory_format=torch.channels_last)
        return self.relu(self.bn1(self.conv1(x)))

    def forward_stem(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> the maps after the first (stride 2) and second (stride 4) convolution."""
        half = self.forward_half(x)
        return half, self.relu(self.bn2(self.conv2(half)))

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """Stride-4 stem map -> the branches after stage 4."""
        x = self.layer1(x)
        xs = [self.transition1[0](x), self.transition1[1](x)]
        for module in self.stage2:
            xs = module(xs)
        xs = [xs[0], xs[1], self.transition2[2](xs[1])]
        for module in self.stage3:
            xs = module(xs)
        xs = [xs[0], xs[1], xs[2], self.transition3[3](xs[2])]
        for module in self.stage4:
            xs = module(xs)
        return xs

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, in_chans, H, W) normalised, any H and W >= 1 -> the maps named by ``feature_info``."""
        xs = self.forward_stages(self.forward_stem(x)[1])
        maps: dict[str, Tensor] = {}
        for i, name in enumerate(self.names):
            maps[name] = xs[i]
        return maps


@dataclass(frozen=True, kw_only=True, slots=True)
class HRFormerConfig:
    """Architecture of one HRFormer (paper, table of instances; HRFormer repository, configs).

    Attributes:
        channels, num_modules, num_blocks, upsample, multi_scale, in_chans: see ``TrunkConfig``.
        num_heads: heads of branches 0 to 3.
        window: side of the attention windows, in cells, on every branch.
        mlp_ratio: hidden width of the feed-forward network over its input.
        ffn_kernel: side of the depthwise convolution in the feed-forward network; 1 for none, see ``ConvFFN``.
        position_bias: add the relative position bias. Official pose weights need it off.
        drop_path_rate: of the last block; rates rise linearly from 0 over the depth.
    """

    channels: tuple[int, int, int, int]
    num_heads: tuple[int, int, int, int]
    num_modules: tuple[int, int, int]
    num_blocks: int = 2
    window: int = 7
    mlp_ratio: float = 4.0
    ffn_kernel: int = 3
    position_bias: bool = True
    drop_path_rate: float = 0.0
    upsample: UpsampleMode = "nearest"
    multi_scale: bool = True
    in_chans: int = 3

    def __post_init__(self) -> None:
        if len(self.num_heads) != 4:
            raise ValueError(f"num_heads needs 4 values, got {self.num_heads}")
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must lie in [0, 1), got {self.drop_path_rate}")
        if self.window < 1:
            raise ValueError(f"window must be at least 1 cell, got {self.window}")
        if self.ffn_kernel < 1 or self.ffn_kernel % 2 == 0:
            raise ValueError(f"ffn_kernel must be odd, got {self.ffn_kernel}")

    @property
    def trunk(self) -> TrunkConfig:
        """The part shared with HRNet; stage 1 has 2 bottlenecks here."""
        return TrunkConfig(
            channels=self.channels,
            num_modules=self.num_modules,
            stage1_blocks=2,
            num_blocks=self.num_blocks,
            separable_fusion=True,
            upsample=self.upsample,
            multi_scale=self.multi_scale,
            in_chans=self.in_chans,
        )


def build_hrformer(config: HRFormerConfig) -> HighResolutionTrunk:
    """Trunk with transformer blocks; drop path depends on depth only, the same on every branch."""
    trunk = config.trunk

    def make_block(branch: int, depth: int) -> nn.Module:
        return TransformerBlock(
            config.channels[branch],
            config.num_heads[branch],
            window=config.window,
            mlp_ratio=config.mlp_ratio,
            ffn_kernel=config.ffn_kernel,
            position_bias=config.position_bias,
            drop_path=config.drop_path_rate * depth / max(trunk.depth - 1, 1),
        )

    return HighResolutionTrunk(trunk, make_block)


@dataclass(frozen=True, kw_only=True, slots=True)
class HRNetConfig:
    """Architecture of one HRNet (Wang et al., TPAMI 2020; the width W is the channel count of branch 0).

    Attributes:
        width: W; branches have W, 2W, 4W, 8W channels.
        upsample, multi_scale, in_chans: see ``TrunkConfig``. The semantic segmentation repository resizes
            bilinearly with aligned corners, the others nearest.
    """

    width: int
    upsample: UpsampleMode = "nearest"
    multi_scale: bool = True
    in_chans: int = 3

    @property
    def trunk(self) -> TrunkConfig:
        """Modules 1, 4, 3 and four basic blocks each; stage 1 has 4 bottlenecks."""
        w = self.width
        return TrunkConfig(
            channels=(w, 2 * w, 4 * w, 8 * w),
            num_modules=(1, 4, 3),
            stage1_blocks=4,
            num_blocks=4,
            separable_fusion=False,
            upsample=self.upsample,
            multi_scale=self.multi_scale,
            in_chans=self.in_chans,
        )


def build_hrnet(config: HRNetConfig) -> HighResolutionTrunk:
    """Trunk with basic blocks."""
    trunk = config.trunk

    def make_block(branch: int, depth: int) -> nn.Module:
        return BasicBlock(trunk.channels[branch])

    return HighResolutionTrunk(trunk, make_block)
