"""Residual blocks: the transformer block of HRFormer and the convolutional ones of HRNet."""

from __future__ import annotations

from torch import Tensor, nn

from hrformer.models.attention import WindowAttention

BN_MOMENTUM = 0.1
BN_EPS = 1e-5
LN_EPS = 1e-6


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm as every published model has it: momentum 0.1, eps 1e-5."""
    return nn.BatchNorm2d(channels, eps=BN_EPS, momentum=BN_MOMENTUM)


def conv_bn_relu(
    in_channels: int, out_channels: int, kernel: int = 1, *, stride: int = 1, bias: bool = False
) -> list[nn.Module]:
    """Convolution padded to keep the size at stride 1 (odd ``kernel``), batch norm, ReLU: parts for a Sequential."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=bias)
    return [conv, batch_norm(out_channels), nn.ReLU(inplace=True)]


class ConvFFN(nn.Module):
    """Feed-forward network with a depthwise 3x3 convolution between its pointwise ones.

    1x1, BN, GELU; depthwise 3x3, BN, GELU; 1x1, BN, GELU. The last BN and GELU come before the residual
    addition (HRFormer repository; the paper's figure leaves them out). All convolutions have a bias. With ``kernel`` 1
    the depthwise one is a factor a channel, so that attention windows exchange nothing (the paper's ablation).
    """

    def __init__(self, channels: int, hidden: int, kernel: int = 3) -> None:
        super().__init__()
        if hidden < 1:
            raise ValueError(f"mlp_ratio must give at least 1 hidden channel, got {hidden} for {channels} channels")
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.norm1 = batch_norm(hidden)
        self.dw3x3 = nn.Conv2d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden)
        self.norm2 = batch_norm(hidden)
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.norm3 = batch_norm(channels)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x = self.act(self.norm1(self.fc1(x)))
        x = self.act(self.norm2(self.dw3x3(x)))
        return self.act(self.norm3(self.fc2(x)))


class DropPath(nn.Module):
    """Stochastic depth: in training, leave out the residual branch of a sample with probability ``rate``.

    What stays is divided by 1 - ``rate`` (Huang et al., ECCV 2016; the same random numbers as timm's).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same."""
        if not self.training:
            return x
        kept = 1 - self.rate
        mask = x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(kept)
        return x * mask.div_(kept)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class TransformerBlock(nn.Module):
    """Pre-norm block: window attention, then the convolutional feed-forward network, both residual.

    Maps stay (B, C, H, W) in channels-last memory, where the token view (B, H, W, C) costs nothing.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        *,
        window: int = 7,
        mlp_ratio: float = 4.0,
        ffn_kernel: int = 3,
        position_bias: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=LN_EPS)
        self.attn = WindowAttention(channels, num_heads, window, position_bias)
        self.norm2 = nn.LayerNorm(channels, eps=LN_EPS)
        self.ffn = ConvFFN(channels, int(channels * mlp_ratio), ffn_kernel)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        tokens = x.permute(0, 2, 3, 1)
        tokens = tokens + self.drop_path(self.attend(tokens))
        tokens = tokens + self.drop_path(self.feed_forward(tokens))
        return tokens.permute(0, 3, 1, 2)

    def attend(self, tokens: Tensor) -> Tensor:
        """Attention of the normalised tokens: (B, H, W, C) -> (B, H, W, C)."""
        return self.attn(self.norm1(tokens))

    def feed_forward(self, tokens: Tensor) -> Tensor:
        """Feed-forward network on the normalised tokens: (B, H, W, C) -> (B, H, W, C)."""
        return self.ffn(self.norm2(tokens).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a residual: HRNet's branch block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = batch_norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = batch_norm(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + x)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a residual; the middle may be depthwise, as in HRFormer's classification head.

    Args:
        in_channels: of the input.
        planes: of the middle; the output has 4 * planes.
        depthwise: make the 3x3 convolution depthwise.
    """

    expansion = 4

    def __init__(self, in_channels: int, planes: int, *, depthwise: bool = False) -> None:
        super().__init__()
        out_channels = planes * self.expansion
        self.conv1 = nn.Conv2d(in_channels, planes, 1, bias=False)
        self.bn1 = batch_norm(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, groups=planes if depthwise else 1, bias=False)
        self.bn2 = batch_norm(planes)
        self.conv3 = nn.Conv2d(planes, out_channels, 1, bias=False)
        self.bn3 = batch_norm(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False), batch_norm(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 4 * planes, H, W)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + self.downsample(x))
