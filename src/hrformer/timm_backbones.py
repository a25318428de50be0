"""timm's networks as backbones of our models: the baselines that users compare with."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hrformer.models.trunk import FeatureInfo

# What makes timm's models of a fixed input size take any; the first that a model knows is used.
_ANY_SIZE: tuple[dict[str, bool], ...] = (
    {"dynamic_img_size": True, "dynamic_img_pad": True},
    {"strict_img_size": False},
    {},
)


def timm_names() -> list[str]:
    """All models that timm builds, ours among them once they are registered."""
    import timm

    return timm.list_models()


def is_timm_name(name: str) -> bool:
    """Whether timm builds a model of this name."""
    import timm

    return bool(timm.is_model(name))


def _create_timm(name: str, **options: Any) -> tuple[nn.Module, bool]:
    """A timm model, and whether it takes images of any size."""
    import timm

    if not timm.is_model(name):
        raise ValueError(f"timm has no model named {name!r}")
    cfg = timm.get_pretrained_cfg(name)
    fixed = cfg is not None and cfg.fixed_input_size
    for any_size in _ANY_SIZE if fixed else ({},):
        try:
            return timm.create_model(name, **(any_size | options)), bool(any_size) or not fixed
        except TypeError as error:
            if not any_size:
                raise ValueError(f"timm's {name!r} does not take these options: {error}") from error
        except (RuntimeError, NotImplementedError, AssertionError, IndexError) as error:
            raise ValueError(f"timm's {name!r} cannot be built so: {error}") from error
    raise AssertionError("the last attempt returns or raises")


class TimmBackbone(nn.Module):
    """Any timm model that supports ``features_only``, publishing maps the way our trunk does.

    Maps finer than stride 4 are left out, as no head is meant for them, unless ``out_indices`` asks for them.

    Args:
        name: timm model name.
        pretrained: let timm download its weights.
        **options: passed to ``timm.create_model``, such as ``out_indices``, and ``img_size`` for models with
            position embeddings of a fixed size; where they can, those take other sizes too.

    Raises:
        ValueError: timm does not know the name or an option, or the model has no feature maps.
    """

    def __init__(self, name: str, *, pretrained: bool = False, **options: Any) -> None:
        super().__init__()
        self.net, self.any_size = _create_timm(name, pretrained=pretrained, features_only=True, **options)
        maps: Any = self.net.feature_info
        strides = maps.reduction()
        coarse = [i for i, stride in enumerate(strides) if stride >= 4]
        self.taken = coarse if coarse and "out_indices" not in options else list(range(len(strides)))
        self.feature_info = tuple(
            FeatureInfo(name=f"map{i}", channels=maps.channels()[index], stride=strides[index])
            for i, index in enumerate(self.taken)
        )
        self.channels_last = str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> maps (B, C, H / s, W / s) by name."""
        maps: list[Tensor] = self.net(x)
        if self.channels_last:
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        return {info.name: maps[i] for info, i in zip(self.feature_info, self.taken, strict=True)}


class TimmClassifier(nn.Module):
    """A whole timm classification network as a ``VisionModel`` backbone: the baseline with its own head.

    Raises:
        ValueError: timm does not know the name or an option.
    """

    feature_info: tuple[FeatureInfo, ...] = ()

    def __init__(self, name: str, num_classes: int, *, pretrained: bool = False, **options: Any) -> None:
        super().__init__()
        self.net, self.any_size = _create_timm(name, pretrained=pretrained, num_classes=num_classes, **options)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, num_classes)."""
        return self.net(x)
