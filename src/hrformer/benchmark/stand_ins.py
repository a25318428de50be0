"""Small replacements for what the official and the mmpose model files import, so that those files run by themselves.

The real packages (mmcv, mmengine, einops, old timm) need compilers or old versions, while the models use a handful of
their functions. Each one here does what the model files need of it and nothing else. None of them takes time in a
forward pass, except ``rearrange``, which costs the same two reshapes and one permutation as einops'.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import lru_cache, partial
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn, TypeVar

from timm.layers import DropPath, to_2tuple, trunc_normal_
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Decorated = TypeVar("Decorated")


def conv_layer(config: dict[str, Any] | None, *arguments: Any, **options: Any) -> nn.Conv2d:
    """mmcv's ``build_conv_layer`` for plain convolutions."""
    return nn.Conv2d(*arguments, **options)


def norm_layer(config: dict[str, Any], channels: int, postfix: int | str = "") -> tuple[str, nn.Module]:
    """mmcv's ``build_norm_layer`` for batch and layer norm: the name of the layer, and the layer."""
    kinds: dict[str, tuple[str, Callable[..., nn.Module]]] = {
        "BN": ("bn", nn.BatchNorm2d),
        "LN": ("ln", nn.LayerNorm),
    }
    name, kind = kinds[config["type"]]
    options = {key: value for key, value in config.items() if key not in ("type", "requires_grad")}
    return f"{name}{postfix}", kind(channels, **options)


def activation_layer(config: dict[str, Any]) -> nn.Module:
    """mmcv's ``build_activation_layer`` for the two functions that HRFormer uses."""
    kinds: dict[str, type[nn.Module]] = {"GELU": nn.GELU, "ReLU": nn.ReLU}
    return kinds[config["type"]]()


def dropout_layer(config: dict[str, Any]) -> nn.Module:
    """mmcv's ``build_dropout`` for stochastic depth."""
    return DropPath(config["drop_prob"])


def register_module() -> Callable[[Decorated], Decorated]:
    """A registry's decorator, without a registry."""
    return lambda decorated: decorated


def leave_as_it_is(*arguments: Any, **options: Any) -> None:
    """An initialiser: random weights of any kind take the same time."""


def refuse(*arguments: Any, **options: Any) -> NoReturn:
    """Something a model that starts from random weights has no use for."""
    raise NotImplementedError("this model is built for timing, with random weights")


class BaseModule(nn.Module):
    """mmengine's base class, which keeps the recipe of initial weights."""

    def __init__(self, init_cfg: Any = None) -> None:
        super().__init__()
        self.init_cfg = init_cfg


def rearrange(x: Tensor, pattern: str, **lengths: int) -> Tensor:
    """einops' function for patterns such as ``"n (qh ph) c -> (ph n) qh c"``: split, permute, merge.

    Args:
        x: its dimensions are the groups on the left.
        pattern: every name once on either side.
        **lengths: of all names.
    """
    split, order, groups = _recipe(pattern)
    permuted = x.reshape([lengths[name] for name in split]).permute(order)
    merged = []
    for group in groups:
        length = 1
        for name in group:
            length *= lengths[name]
        merged.append(length)
    return permuted.reshape(merged)


@lru_cache(maxsize=64)
def _recipe(pattern: str) -> tuple[tuple[str, ...], tuple[int, ...], tuple[tuple[str, ...], ...]]:
    """Names on the left in order, where each name on the right stands among them, and the groups on the right."""
    left, right = pattern.split("->")
    split = tuple(re.findall(r"\w+", left))
    groups = tuple(tuple(part.strip("()").split()) for part in re.findall(r"\([^)]*\)|\w+", right))
    return split, tuple(split.index(name) for group in groups for name in group), groups


def make_module(name: str, **members: Any) -> ModuleType:
    """A module with these members."""
    module = ModuleType(name)
    vars(module).update(members)
    return module


def common() -> dict[str, ModuleType]:
    """What the official files of all three tasks import: einops, and timm under its old names."""
    layers = {"DropPath": DropPath, "to_2tuple": to_2tuple, "trunc_normal_": trunc_normal_}
    return {
        "einops": make_module("einops", rearrange=rearrange),
        "timm.models.layers": make_module("timm.models.layers", **layers),
    }


def official_pose() -> dict[str, ModuleType]:
    """mmcv 1.x, and the parts of the old mmpose around its backbones."""
    initialisers = dict.fromkeys(("constant_init", "kaiming_init", "normal_init"), leave_as_it_is)
    loaders = dict.fromkeys(("load_checkpoint", "load_state_dict"), refuse)
    registry = SimpleNamespace(register_module=register_module)
    return common() | {
        "mmcv": make_module("mmcv"),
        "mmcv.cnn": make_module("mmcv.cnn", build_conv_layer=conv_layer, build_norm_layer=norm_layer, **initialisers),
        "mmcv.runner": make_module("mmcv.runner", **loaders),
        "mmcv.runner.checkpoint": make_module("mmcv.runner.checkpoint", **loaders),
        "mmcv.utils": make_module("mmcv.utils"),
        "mmcv.utils.parrots_wrapper": make_module("mmcv.utils.parrots_wrapper", _BatchNorm=_BatchNorm),
        "mmpose.utils": make_module("mmpose.utils", get_root_logger=partial(logging.getLogger, "mmpose")),
        "mmpose.models.builder": make_module("mmpose.models.builder", BACKBONES=registry),
    }


def official_segmentation(backbone: Callable[[], nn.Module]) -> dict[str, ModuleType]:
    """The parts of openseg around the network.

    Args:
        backbone: makes the trunk that the network asks its selector for.
    """

    def selector(configer: Any) -> SimpleNamespace:
        return SimpleNamespace(get_backbone=backbone)

    unused = "load_state_dict_from_url"
    return common() | {
        "timm.models.registry": make_module("timm.models.registry", register_model=lambda decorated: decorated),
        "torchvision.models.utils": make_module("torchvision.models.utils", **{unused: refuse}),
        "lib.utils.tools.logger": make_module("lib.utils.tools.logger", Logger=logging.getLogger("openseg")),
        "lib.models.backbones.backbone_selector": make_module("backbone_selector", BackboneSelector=selector),
    }


def mmpose() -> dict[str, ModuleType]:
    """mmcv 2.x, mmengine and mmpose's registry."""
    cnn = {"build_activation_layer": activation_layer, "build_conv_layer": conv_layer, "build_norm_layer": norm_layer}
    engine = {"BaseModule": BaseModule, "constant_init": leave_as_it_is, "trunc_normal_init": leave_as_it_is}
    wrapper = "mmengine.utils.dl_utils.parrots_wrapper"
    return {
        "mmcv": make_module("mmcv"),
        "mmcv.cnn": make_module("mmcv.cnn", ConvModule=refuse, **cnn),
        "mmcv.cnn.bricks": make_module("mmcv.cnn.bricks"),
        "mmcv.cnn.bricks.transformer": make_module("mmcv.cnn.bricks.transformer", build_dropout=dropout_layer),
        "mmengine": make_module("mmengine"),
        "mmengine.model": make_module("mmengine.model", **engine),
        "mmengine.utils": make_module("mmengine.utils"),
        "mmengine.utils.dl_utils": make_module("mmengine.utils.dl_utils"),
        wrapper: make_module(wrapper, _BatchNorm=_BatchNorm),
        "mmpose.registry": make_module("mmpose.registry", MODELS=SimpleNamespace(register_module=register_module)),
    }
