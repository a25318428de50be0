"""Reads the machine code of compiled kernels: uniform registers that are used although nothing wrote them.

ptxas 12.8 dropped such a write in the window attention kernel: descriptors of shared memory started from whatever the
register held. Nothing before the machine code shows it, the interpreter least of all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]+)\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)\s*(.*?)\s*;", re.MULTILINE)
"""Address, operation and operands of a line of ``cuobjdump -sass``."""
UNIFORM = re.compile(r"\bUR(\d+)(\.64)?\b")
FROM_OTHERS = ("R2UR", "S2UR", "VOTEU", "REDUX")
"""Operations that write a uniform register without being uniform themselves."""


def undefined_reads(sass: str) -> list[str]:
    """Instructions, "address: text", that read a uniform register which no earlier one wrote."""
    written: set[int] = set()
    found = []
    for address, operation, operands in INSTRUCTION.findall(sass):
        target, sources = _split(operation, operands)
        if not set(_read(sources, wide=operation.startswith("U") and ".64" in operation)) <= written:
            found.append(f"{address}: {operation} {operands}")
        if target is not None:
            written |= set(range(target, target + _width(operation)))
    return found


def _split(operation: str, operands: str) -> tuple[int | None, str]:
    """The uniform register that is written, if any, and the operands that are read."""
    first, _, rest = operands.partition(",")
    writes = operation.startswith(("U", *FROM_OTHERS)) and re.fullmatch(r"UR\d+", first.strip())
    return (int(first.strip()[2:]), rest) if writes else (None, operands)


def _width(operation: str) -> int:
    return 4 if ".128" in operation else 2 if ".64" in operation or ".WIDE" in operation else 1


def _read(operands: str, *, wide: bool) -> Iterator[int]:
    def descriptor(match: re.Match[str]) -> str:
        """A descriptor in four registers, of which the upper two hold the right operand's, or in two."""
        start, pair = int(match[2]), 2 if match[1] == "g" else 0
        return f"UR{start + pair}.64"

    for number, pair in UNIFORM.findall(re.sub(r"(g?)desc\[UR(\d+)\]", descriptor, operands)):
        yield int(number)
        if pair or wide:
            yield int(number) + 1
