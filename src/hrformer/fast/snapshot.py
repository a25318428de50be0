"""Copies of models, and whether a copy has been changed since something was made from it."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from itertools import chain
from operator import attrgetter, eq, itemgetter
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hrformer.fast.eligibility import SAME_IN_TRAINING, plain_kind
from hrformer.models.attention import WindowAttention
from hrformer.models.fusion import FusionUnit
from hrformer.models.heads import FCNHead, OCRHead

Model = TypeVar("Model", bound=nn.Module)


def copied(model: Model) -> Model:
    """A deep copy, also of a model that keeps computed tensors as attributes, as pruning and ``weight_norm`` do."""
    values = chain.from_iterable(_flat(value) for part in model.modules() for value in vars(part).values())
    computed = [value for value in values if isinstance(value, Tensor) and not value.is_leaf]
    return deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in computed})


def _flat(value: Any) -> Iterator[Any]:
    """A value, or those in a list, tuple or dict of any depth."""
    if type(value) in (list, tuple, dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _flat(item)
    else:
        yield value


_version, _forward, _training = attrgetter("_version"), attrgetter("forward"), itemgetter("training")

SETTINGS: dict[type[nn.Module], Any] = {
    WindowAttention: itemgetter("num_heads", "window", "position_bias"),
    FusionUnit: itemgetter("upsample"),
    FCNHead: itemgetter("align_corners"),
    OCRHead: itemgetter("align_corners"),
}
"""Attributes that a call reads and methods of this package set."""


class Snapshot:
    """What a model was like when it was made ready: its parts, their weights and settings, and whether it had hooks.

    Weights that are written to count, as an optimizer and ``load_state_dict`` do it: PyTorch counts what is written to
    every tensor. So do parts and tensors that others took the place of, moved or cast parts, a ``forward`` that was
    replaced on an object or in its class, and training mode.

    Args:
        model: read; its parts' dicts are kept.
    """

    def __init__(self, model: nn.Module) -> None:
        tensors, parts = [*model.parameters(), *model.buffers()], list(model.modules())
        self._places = _places(tensors)
        self._tensors = [t for t in tensors if t.is_floating_point() and not t.is_inference()]
        self._registered, self._hooked = -1, False
        self._hooks = [hooks for part in parts for hooks in (part._forward_hooks, part._forward_pre_hooks)]
        self._held = [held for part in parts for held in _held(part)]
        self._copies = [dict(held) for held in self._held]
        self._firsts = [first for part in parts if (first := _moved_in_place(part)) is not None]
        self._memory = [first.detach() for first in self._firsts]  # so that nothing else gets their addresses
        self._attributes = [vars(part) for part in parts]
        self._modes = [
            vars(part) for part in parts if "training" in vars(part) and plain_kind(type(part)) not in SAME_IN_TRAINING
        ]
        self._settings = [
            (SETTINGS[kind], vars(part)) for part in parts if (kind := plain_kind(type(part))) in SETTINGS
        ]
        self._kinds = list({kind for part in parts for kind in (type(part), plain_kind(type(part)))})
        self._state = self._now()

    def _now(self) -> tuple[Any, ...]:
        return (
            sum(map(_version, self._tensors)),
            self._has_hooks(),
            any(map(_training, self._modes)),
            list(map(len, self._attributes)),
            list(map(Tensor.data_ptr, self._firsts)),
            list(map(_forward, self._kinds)),
            [read(attributes) for read, attributes in self._settings],
        )

    def _has_hooks(self) -> bool:
        """Looked at again where hooks were there, or PyTorch has numbered further ones."""
        if self._hooked or self._registered != RemovableHandle.next_id:
            self._registered, self._hooked = RemovableHandle.next_id, any(self._hooks)
        return self._hooked

    def still_holds(self) -> bool:
        """Whether the model is as it was; asked at every call, so its loops are those of builtin functions."""
        try:
            same = all(map(eq, self._held, self._copies))  # the same objects are equal without being asked
        except Exception:  # another tensor: what comparing the two gives is no truth value
            return False
        return same and self._now() == self._state

    def has_moved(self, model: nn.Module) -> bool:
        """Whether a tensor of the model lies elsewhere or has another precision."""
        return _places([*model.parameters(), *model.buffers()]) != self._places


def _held(part: nn.Module) -> Iterator[dict[str, Any]]:
    """The dicts of a module's tensors and children, where something is in them or children may come."""
    leaf = type(part).__module__.startswith("torch.nn.") and not isinstance(part, nn.Sequential | nn.ModuleList)
    for held in (part._parameters, part._buffers, part._modules):
        if isinstance(held, dict) and (held or (held is part._modules and not leaf)):
            yield held


def _moved_in_place(part: nn.Module) -> Tensor | None:
    """A tensor that keeps its identity when the part is moved or cast: buffers are replaced, and show by that."""
    if any(buffer is not None and buffer.is_floating_point() for buffer in part._buffers.values()):
        return None
    return next((weight for weight in part._parameters.values() if weight is not None), None)


def _places(tensors: list[Any]) -> list[tuple[Any, ...]]:
    return [(tensor.data_ptr(), tensor.dtype, tensor.device) for tensor in tensors]
