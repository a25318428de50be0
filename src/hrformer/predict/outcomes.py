"""Many pictures of which some cannot be read or predicted: what became of each, whatever happened to the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from hrformer.data.images import ImageError, LoadedImage
from hrformer.predict.predictors import AnyPredictor
from hrformer.predict.results import Result

Source: TypeAlias = tuple[str, Callable[[], LoadedImage]]
"""A picture's name, each one another, and what loads it; its ``path`` must be that name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one picture.

    Attributes:
        name: of the picture.
        result: None where there is an error.
        error: why there is no result; empty where there is one.
        unreadable: whether the error is that of reading, and not of the network.
    """

    name: str
    result: Result | None = None
    error: str = ""
    unreadable: bool = False


def predict_each(
    predictor: AnyPredictor,
    pictures: Iterable[Source],
    options: Mapping[str, Any],
    told: Callable[[Outcome], object],
) -> None:
    """Predict on all pictures in shared batches; one that fails costs no other its result.

    After an error of the network the pictures of that batch go alone, to find out which one is to blame.

    Args:
        predictor: of any task.
        pictures: loaded as the network asks for them; ``ImageError`` stands for one that cannot be read. One may be
            loaded twice.
        options: of ``predictor.stream``.
        told: is called once per picture; with errors of reading before those that were read earlier have an answer.

    Raises:
        OSError: what says that this machine, not a picture, is at fault; and whatever ``told`` raises.
    """
    queue, unanswered = deque(pictures), deque[Source]()
    alone: set[str] = set()

    def readable() -> Iterator[LoadedImage]:
        while queue and not (unanswered and (queue[0][0] in alone or unanswered[0][0] in alone)):
            source = queue.popleft()
            name, load = source
            try:
                image = load()
            except ImageError as error:
                told(Outcome(name=name, error=str(error).removeprefix(f"{name}: "), unreadable=True))
                continue
            unanswered.append(source)
            yield image

    stream: Iterator[Result] = iter(())
    while True:
        try:
            result = next(stream, None)
        except OSError:
            raise
        except Exception as error:
            if not unanswered:
                raise
            if len(unanswered) == 1:
                told(Outcome(name=unanswered[0][0], error=str(error) or type(error).__name__))
            else:  # one of a batch: each goes alone, to find out which
                alone.update(name for name, _ in unanswered)
                queue.extendleft(reversed(unanswered))
            unanswered.clear()
            result = None  # an error ends a stream
        if result is not None:
            name = str(result.path)
            unanswered.remove(next(source for source in unanswered if source[0] == name))
            told(Outcome(name=name, result=result))
        elif queue:
            stream = predictor.stream(readable(), **options)
        else:
            return
