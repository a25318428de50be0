"""``hrformer serve``: models behind an HTTP API and a page, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import tyro

from hrformer.cli.arguments import Command, ServeArguments
from hrformer.cli.messages import guarded, note, say

try:
    from hrformer.serve.options import ServeOptions
    from hrformer.serve.server import address_of, listen, load_service, run_server
except ImportError as error:
    missing: ImportError | None = error
else:
    missing = None

TOKEN = "HRFORMER_TOKEN"
"""Variable that holds the token where no file does."""


def main(typed: Sequence[str]) -> int:
    """Run ``hrformer serve``; see ``hrformer.__main__.main``."""
    return guarded(lambda: run_serve(_parse(typed)), typed)


def _parse(typed: Sequence[str]) -> ServeArguments:
    return cast(ServeArguments, tyro.cli(cast(Any, Command), args=typed, prog="hrformer"))


def run_serve(arguments: ServeArguments) -> int:
    """Load, listen and answer; returns 0 after SIGTERM or Ctrl-C, 1 where the networks failed on the way."""
    if missing is not None:
        raise ImportError(f"hrformer serve needs more packages: pip install 'hrformer[serve]' ({missing})")
    known = {field.name for field in fields(ServeOptions)}
    options = ServeOptions(**{name: getattr(arguments, name) for name in known if hasattr(arguments, name)})
    token = _token(arguments.token_file)
    # Before the models, which take long to load: a port that is taken is told at once.
    with listen(arguments.host, arguments.port) as listening:
        address = address_of(listening)
        service = load_service(
            arguments.weights,
            options,
            device=arguments.device,
            fast=arguments.fast,
            precision=arguments.precision,
            detector=arguments.detector,
            token=token,
            told=note,
        )
        if token is None and arguments.host not in ("127.0.0.1", "localhost", "::1"):
            note("everybody who reaches this address may use it; --token-file lets in only who has the token")
        code = run_server(service, listening, lambda _: say(f"serving on {address} (Ctrl-C ends)"))
    note("stopped" if code == 0 else f"error: {service.dead}")
    return code


def _token(file: Path | None) -> str | None:
    token = os.environ.get(TOKEN) if file is None else file.read_text(encoding="utf-8", errors="replace")
    if token is None:
        return None
    token = token.strip()
    if not token or not token.isascii() or any(letter.isspace() for letter in token):
        raise ValueError(f"{file or TOKEN} must hold one word of ASCII as token")
    return token
