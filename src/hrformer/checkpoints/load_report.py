"""What happened to every entry of a weight file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hrformer.wording import listed


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadReport:
    """Outcome of loading one file into one model.

    Attributes:
        source: the file's name.
        format: layout it was recognised as.
        used: entries taken over under the same name, wrapper prefixes aside.
        converted: entry -> our name: renamed, joined (query, key, value) or resized (bias tables).
        ignored: entry -> reason.
        missing: our names that the file lacks and the task does not need.
        unexpected: entries that belong nowhere.
        fresh: layers that keep the values they had, because the file has none that fit.
        implied: settings that the file implies.
        assumed: setting -> value and reason, where the file cannot tell.
        given: settings chosen by the caller.
        notes: anything else worth knowing.
    """

    source: str
    format: str
    used: tuple[str, ...] = ()
    converted: Mapping[str, str] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    implied: Mapping[str, Any] = field(default_factory=dict)
    assumed: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"{self.source}: {self.format}; entries used {len(self.used)}, converted {len(self.converted)}, "
            f"ignored {len(self.ignored)}, missing but not needed {len(self.missing)}, "
            f"unexpected {len(self.unexpected)}"
        ]
        lines += [f"  ignored, {count}: {reason}" for reason, count in Counter(self.ignored.values()).most_common()]
        if self.unexpected:
            lines.append(f"  unexpected: {listed(self.unexpected, 8)}")
        if self.fresh:
            lines.append(f"  fresh, not from the file: {listed(self.fresh, 8)}")
        for title, values in (("implied", self.implied), ("given", self.given)):
            if values:
                lines.append(f"  {title}: {', '.join(f'{name} {value}' for name, value in values.items())}")
        lines += [f"  assumed: {name} {text}" for name, text in self.assumed.items()]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)
