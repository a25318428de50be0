"""HRNet: the same trunk with convolutional branches, the baseline HRFormer is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from hrformer.models.blocks import BasicBlock
from hrformer.models.fusion import UpsampleMode
from hrformer.models.trunk import HighResolutionTrunk, TrunkConfig


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
