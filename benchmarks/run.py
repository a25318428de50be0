"""Measure speed and memory side by side, to a table, JSON, a picture, and Markdown: ``make bench`` calls this."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal

import torch
import tyro
from pydantic import TypeAdapter
from rich.console import Console
from rich.markdown import Markdown
from tyro.conf import UseAppendAction

import chart
from candidates import Candidate, HalfBy, Job, Layout, Origin, Precision, Way, default_size, find_baseline
from conditions import Settings
from hrformer.data.images import load_image
from hrformer.files import write_file
from hrformer.models.model import Task
from hrformer.zoo import list_models
from measuring import run_plan
from peers import REPOSITORIES, has_peer, parse_peers
from plan import Group, Plan, Sweep, sweep_group
from presets import PRESETS
from records import Document, Kind, write_document
from report import figures_file, markdown, put_into

FAILED = 1
"""Exit code where some candidates could not be measured."""

TITLES = {"cpu": "CPU", "cpu-bf16": "CPU, bfloat16", "gpu": "GPU", "custom": "Measurements"}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure speed and memory side by side: our models, baselines, and other implementations, all in turn.

    Without --preset: --model in each of --paths, --baselines and --peer in each of --baseline-paths, at every --batch.
    Weights are random. Writes results.json, results.md and chart.svg. Exit code 1 if some could not be measured.
    """

    preset: Literal["none", "cpu", "cpu-bf16", "gpu"] = "none"
    """The standard run, with the project's targets; the options up to --sweep-values are then not looked at."""
    model: tuple[str, ...] = ("hrformer_small",)
    """Models of ours; `hrformer models` lists them."""
    task: Task = "pose"
    """Which head."""
    size: tuple[int, int] | None = None
    """Height and width of the input. Default: the task's usual one."""
    batch: tuple[int, ...] = (1,)
    """Batch sizes; candidates of one batch size take turns."""
    paths: tuple[Way, ...] = ("eager", "fast")
    """Ways to run ours: plain, torch.compile (also with CUDA graphs), hrformer.optimize with a backend or its own
    choice."""
    baselines: tuple[str, ...] = ()
    """Others to compare with: HRNet in our trunk (hrnet_w32), timm's (timm_hrnet_w32, deit_b, swin_t, timm/NAME),
    vitpose_b from transformers."""
    baseline_paths: tuple[Way, ...] = ("eager",)
    """Ways to run --baselines and --peer."""
    peer: UseAppendAction[tuple[str, ...]] = ()
    """Checkout of another implementation, as official=PATH or mmpose=PATH; may be given for both."""
    kind: tuple[Kind, ...] = ("forward",)
    """What to measure: forward pass, training step, their peak memory, a prediction stage by stage, the start of a
    process."""
    layouts: tuple[Layout, ...] = ("contiguous",)
    """Memory formats of input and weights."""
    precision: tuple[Precision, ...] = ("fp32",)
    """Of the arithmetic."""
    half_by: HalfBy = "cast"
    """How half precision is reached in a forward pass: everything cast to it, or autocast. Training: autocast."""
    sweep: Literal["none"] | Sweep = "none"
    """Measure growth over batch, size or window instead of single points."""
    sweep_values: tuple[float, ...] = ()
    """Points of the sweep; for size factors on both sides."""
    baseline: str = ""
    """Candidate that ratios are taken against, as the tables name it. Default: the first that is not our HRFormer."""
    only: str = ""
    """Only the groups whose title holds this word."""
    rounds: int = Settings().rounds
    """How often each candidate has its turn."""
    seconds: float = Settings().seconds
    """Seconds of timed calls in one turn, at least one call."""
    threads: int = 0
    """Of torch and the CPU runtimes. Default: as many as cores."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run. Default: the GPU if there is one; the presets say it themselves."""
    picture: Path | None = None
    """Picture for the kinds stages and start. Default: a generated one of 640x480."""
    out: Path = Path("runs/bench")
    """Folder for results; made if absent."""
    results: Path | None = None
    """Markdown file into which the tables are put as well, in a section named after the preset; the figures go to the
    folder results beside it."""


def main(typed: Sequence[str]) -> int:
    """Measure, print and write.

    Args:
        typed: command line behind the script's name.

    Returns:
        0; ``FAILED``; 2 for wrong usage and errors of files, with one line that says which; 130 after Ctrl-C.
    """
    stderr = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    try:
        arguments = tyro.cli(Arguments, args=typed, prog="benchmarks/run.py")
        document = measure(arguments, typed, stderr)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        stderr.print("interrupted")
        return 130
    except (ValueError, OSError, ImportError) as error:
        stderr.print(f"error: {error}")
        return 2
    return FAILED if any(record.failure for record in document.records) else 0


def measure(arguments: Arguments, typed: Sequence[str], stderr: Console) -> Document:
    """Carry out what the options ask for; progress goes to ``stderr``.

    Raises:
        ValueError: options that name nothing or do not go together, or the picture cannot be read.
        OSError: results cannot be written.
    """
    checkouts = parse_peers(arguments.peer)
    plan = make_plan(arguments, list(checkouts))
    if arguments.picture is not None:
        load_image(arguments.picture)
    settings = Settings(
        device=_device(arguments),
        threads=arguments.threads,
        checkouts=checkouts,
        picture=arguments.picture,
        rounds=arguments.rounds,
        seconds=arguments.seconds,
    )
    # Found out now rather than after ten minutes of measuring.
    arguments.out.mkdir(parents=True, exist_ok=True)
    document = run_plan(
        plan, settings, repeatable(typed), stderr.print, lambda so_far: write_results(so_far, arguments.out, None)
    )
    text = write_results(document, arguments.out, arguments.results)
    # For a file or a pipe as wide as the tables.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(Markdown(text))
    written = sorted(path.name for path in arguments.out.iterdir())
    stderr.print(f"results: {', '.join(written)} in {arguments.out}")
    if not chart.can_draw():
        stderr.print("no chart.svg: pip install matplotlib")
    return document


def repeatable(typed: Sequence[str]) -> str:
    """The command line for the results: without the folders of this machine, which say nothing to anybody else."""
    words = []
    for word in typed:
        name, equals, _ = word.partition("=")
        if equals and name in REPOSITORIES:
            word = f"{name}=PATH"
        elif Path(word).is_absolute():
            word = Path(word).name
        words.append(word)
    return shlex.join(["python", "benchmarks/run.py", *words])


def write_results(document: Document, out: Path, results: Path | None) -> str:
    """Write the run's files, each whole; returns the Markdown.

    Raises:
        OSError: a file cannot be written.
        ValueError: the Markdown file is not one that sections can be put into.
    """
    preset, _, part = document.name.partition(": ")
    title = TITLES[preset] + (f": {part}" if part else "")
    write_document(document, out / "results.json")
    # Of the numbers as they are kept: 1.484999 is 1.48, and 1.485 after it was shortened 1.49.
    document = TypeAdapter(Document).validate_json((out / "results.json").read_bytes())
    text = markdown(document, title)
    write_file(out / "results.md", lambda part: part.write_text(text, encoding="utf-8"))
    if chart.can_draw():
        chart.draw(document, title, out / "chart.svg")
    if results is not None:
        put_into(results, document.name, text)
        write_document(document, figures_file(results, document.name))
    return text


def _device(arguments: Arguments) -> str:
    wanted = {"cpu": "cpu", "cpu-bf16": "cpu", "gpu": "cuda"}.get(arguments.preset, arguments.device)
    if arguments.device not in ("auto", wanted):
        raise ValueError(f"--preset {arguments.preset} runs on {wanted}, not on {arguments.device}")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return wanted


def make_plan(arguments: Arguments, peers: Sequence[Origin]) -> Plan:
    """The plan that the options ask for.

    Raises:
        ValueError: options that name nothing or do not go together.
    """
    if arguments.preset != "none":
        plan = PRESETS[arguments.preset](peers)
    else:
        plan = Plan(name="custom", groups=tuple(_groups(arguments, peers)))
    plan = replace(plan, baseline=arguments.baseline)
    labels = {job.candidate.label for group in plan.groups for job in group.jobs}
    if arguments.baseline and arguments.baseline not in labels:
        raise ValueError(f"--baseline {arguments.baseline!r} is none of the candidates: {'; '.join(sorted(labels))}")
    return plan.only(arguments.only) if arguments.only else plan


def _groups(arguments: Arguments, peers: Sequence[Origin]) -> Iterator[Group]:
    size, candidates = arguments.size or default_size(arguments.task), _candidates(arguments, peers)
    if not arguments.batch:
        raise ValueError("--batch needs one or more batch sizes")
    if arguments.sweep != "none":
        kinds: list[Kind] = [kind for kind in arguments.kind if kind in ("forward", "train")]
        if not kinds:
            raise ValueError("--sweep needs --kind forward or train")
        if arguments.sweep == "window":
            candidates = [one for one in candidates if one.origin == "ours" and one.model.startswith("hrformer")]
        for kind in kinds:
            title, batch = f"{kind} over {arguments.sweep}", arguments.batch[0]
            able = [one for one in candidates if _fits(one, kind)]
            yield sweep_group(title, able, arguments.sweep, arguments.sweep_values, batch=batch, size=size, kind=kind)
        return
    for kind, batch in dict.fromkeys(product(arguments.kind, arguments.batch)):
        jobs = tuple(Job(candidate=one, batch=batch, size=size) for one in candidates if _fits(one, kind))
        if not jobs:
            raise ValueError(f"--kind {kind}: none of the candidates can be measured so")
        yield Group(title=f"{kind}, {arguments.task} {size[0]}x{size[1]}, batch {batch}", kind=kind, jobs=jobs)


def _fits(candidate: Candidate, kind: Kind) -> bool:
    """Whether a kind applies: training has no fast path, the start is that of ``hrformer.load``."""
    if kind in ("train", "train-memory"):
        return not candidate.way.startswith("fast")
    if kind == "start":
        return candidate.origin == "ours" and candidate.way in ("eager", "fast") and candidate.precision == "fp32"
    return kind != "stages" or candidate.origin in ("ours", "timm")


def _candidates(arguments: Arguments, peers: Sequence[Origin]) -> list[Candidate]:
    """All of them, ours first. Layouts apply to plain and compiled modules only."""
    if unknown := [name for name in arguments.model if name not in list_models()]:
        raise ValueError(f"--model {unknown[0]}: no model of ours; there are {', '.join(list_models())}")
    task = arguments.task
    networks: list[tuple[Origin, str, tuple[Way, ...]]] = [("ours", name, arguments.paths) for name in arguments.model]
    for name in arguments.baselines:
        networks.append((*find_baseline(name, task), arguments.baseline_paths))
    for origin in peers:
        found = [name for name in arguments.model if has_peer(origin, name, task)]
        if not found:
            raise ValueError(f"--peer {origin}: it has none of {', '.join(arguments.model)} for {task}")
        networks += [(origin, name, arguments.baseline_paths) for name in found]
    candidates = [
        Candidate(
            origin=origin,
            model=name,
            task=task,
            way=way,
            layout=layout if not way.startswith("fast") else "contiguous",
            precision=precision,
            half_by=arguments.half_by,
        )
        for origin, name, ways in networks
        for way, layout, precision in product(ways, arguments.layouts, arguments.precision)
    ]
    # Layouts fall together where they do not apply.
    return list(dict.fromkeys(candidates))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
