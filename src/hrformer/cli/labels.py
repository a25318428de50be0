"""``hrformer convert-labels``: labels of any form that training reads, as files in COCO's form."""

from __future__ import annotations

from hrformer.cli.arguments import ConvertLabelsArguments
from hrformer.cli.messages import note, say
from hrformer.data.labels.convert import convert_labels


def run_convert_labels(arguments: ConvertLabelsArguments) -> int:
    """Convert, and say what was written and what was left out; returns 0. Errors as in ``convert_labels``."""
    converted = convert_labels(arguments.source, arguments.out)
    for text in dict.fromkeys(text for one in converted for text in one.notes):
        note(f"warning: {text}")
    for one in converted:
        say(f"wrote {one.file}: {one.summary}")
    return 0
