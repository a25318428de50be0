"""``hrformer push``: a model to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from hrformer.checkpoints.download import resolve_weights
from hrformer.checkpoints.hub import check_repository, push_weights
from hrformer.checkpoints.model_card import loading_line
from hrformer.cli.arguments import PushArguments
from hrformer.cli.messages import say
from hrformer.train.run_folder import BEST_WEIGHTS


def run_push(arguments: PushArguments) -> int:
    """Upload, and say where the model is and how to load it."""
    check_repository(arguments.repository)  # before weights are downloaded
    name, folder = arguments.weights, Path(arguments.weights).expanduser()
    if folder.is_dir():
        if not (folder / BEST_WEIGHTS).is_file():
            raise ValueError(f"{name} holds no {BEST_WEIGHTS}, which a training run writes once it has validated")
        name = str(folder / BEST_WEIGHTS)
    weights, published = resolve_weights(name)
    pushed = push_weights(
        weights,
        arguments.repository,
        published=published,
        card=arguments.card,
        private=arguments.private,
        message=arguments.message,
    )
    say(f"pushed to {pushed.address}")
    say(loading_line(arguments.repository, pushed.task))
    return 0
