"""Copies of models, and whether a copy has been changed since something was made from it."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from itertools import chain
from operator import attrgetter
from typing import Any, TypeVar

from torch import Tensor, nn

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


_version = attrgetter("_version")


class Snapshot:
    """What a model was like when it was made ready: the state of its weights, and whether it had hooks.

    Weights that are written to count, as an optimizer and ``load_state_dict`` do it: PyTorch counts what is written to
    every tensor. So do parts that moved as a whole: the first weight of every child shows that.

    Args:
        model: read, not kept.
    """

    def __init__(self, model: nn.Module) -> None:
        tensors = [*model.parameters(), *model.buffers()]
        self._places = _places(tensors)
        self._tensors = [t for t in tensors if t.is_floating_point() and not t.is_inference()]
        self._hooks = [hooks for part in model.modules() for hooks in (part._forward_hooks, part._forward_pre_hooks)]
        self._firsts = [found for child in model.children() if (found := _first_weight(child))]
        self._state = self._now()

    def _now(self) -> tuple[Any, ...]:
        firsts = [weights[name].data_ptr() for weights, name in self._firsts]
        return sum(map(_version, self._tensors)), any(self._hooks), firsts

    def still_holds(self) -> bool:
        """Whether the model is as it was; asked at every call, so it looks at as little as it can."""
        return self._now() == self._state

    def has_moved(self, model: nn.Module) -> bool:
        """Whether a tensor of the model lies elsewhere or has another precision."""
        return _places([*model.parameters(), *model.buffers()]) != self._places


def _first_weight(module: nn.Module) -> tuple[dict[str, Any], str] | None:
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                return part._parameters, name
    return None


def _places(tensors: list[Any]) -> list[tuple[Any, ...]]:
    return [(tensor.data_ptr(), tensor.dtype, tensor.device) for tensor in tensors]
