"""``hrformer convert``: one weight file into another form."""

from __future__ import annotations

from hrformer.checkpoints.checkpoint import LOAD_SETTINGS, convert_checkpoint
from hrformer.cli.arguments import ConvertArguments
from hrformer.cli.messages import note, say


def run_convert(arguments: ConvertArguments) -> int:
    """Convert, and say what was found in the file.

    Raises:
        FileNotFoundError, ValueError: see ``convert_checkpoint``.
    """
    settings = {name: getattr(arguments, name) for name in LOAD_SETTINGS}
    report = convert_checkpoint(
        arguments.source, arguments.destination, to=arguments.to, half=arguments.half, **settings
    )
    note(str(report))
    say(f"wrote {arguments.destination}")
    return 0
