"""``hrformer bench``: side-by-side measurements to a table, JSON, a picture, and Markdown."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal

import torch
from rich.table import Table
from tyro.conf import UseAppendAction

from hrformer.benchmark import chart, report
from hrformer.benchmark.candidates import (
    Candidate,
    HalfBy,
    Layout,
    Precision,
    Way,
    default_size,
    find_baseline,
)
from hrformer.benchmark.conditions import Conditions
from hrformer.benchmark.networks import Sources
from hrformer.benchmark.peers import ORIGINS, Origin, has_peer, parse_peers
from hrformer.benchmark.plan import Group, Job, Plan, Sweep, sweep_group
from hrformer.benchmark.presets import PRESETS
from hrformer.benchmark.records import Document, Kind, write_document
from hrformer.benchmark.run import Settings, run_plan
from hrformer.benchmark.timing import TimingConfig
from hrformer.cli.arguments import General
from hrformer.cli.messages import note, say, wide_console
from hrformer.data.images import load_image
from hrformer.files import write_file
from hrformer.models.model import Task
from hrformer.zoo import list_models

FAILED = 1
"""Exit code where some candidates could not be measured."""


@dataclass(frozen=True, kw_only=True)
class BenchArguments(General):
    """Measure speed and memory side by side: our models, baselines, and other implementations, all in turn.

    Without --preset: --model in each of --paths, --baselines and --peer in each of --baseline-paths, at every --batch.
    Weights are random. Writes results.json, results.md and chart.svg. Exit code 1 if some could not be measured.
    """

    preset: Literal["none", "cpu", "gpu"] = "none"
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
    rounds: int = TimingConfig().rounds
    """How often each candidate has its turn."""
    seconds: float = TimingConfig().seconds
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


def run_bench(arguments: BenchArguments, typed: Sequence[str]) -> int:
    """Measure, print and write.

    Args:
        arguments: parsed.
        typed: the command line behind the program's name, to be written beside the results.

    Returns:
        0, or ``FAILED``.

    Raises:
        ValueError: options that name nothing or do not go together.
        ImageError: the picture cannot be read.
        OSError: results cannot be written.
    """
    checkouts = parse_peers(arguments.peer)
    plan = make_plan(arguments, list(checkouts))
    if arguments.picture is not None:
        load_image(arguments.picture)
    settings = Settings(
        conditions=Conditions(device=_device(arguments), threads=arguments.threads),
        sources=Sources(checkouts=checkouts),
        timing=TimingConfig(rounds=arguments.rounds, seconds=arguments.seconds),
        picture=arguments.picture,
        tell=note,
        keep=lambda document: write_results(document, arguments.out, None),
    )
    # Found out now rather than after ten minutes of measuring.
    arguments.out.mkdir(parents=True, exist_ok=True)
    document = run_plan(plan, settings, repeatable(typed))
    show(document)
    write_results(document, arguments.out, arguments.results)
    say(f"results: {arguments.out / 'results.json'}, results.md, chart.svg")
    return FAILED if any(record.failure for record in document.records) else 0


def repeatable(typed: Sequence[str]) -> str:
    """The command line for the results: without the folders of this machine, which say nothing to anybody else."""
    words = []
    for word in typed:
        name, equals, _ = word.partition("=")
        if equals and name in ORIGINS:
            word = f"{name}=PATH"
        elif Path(word).is_absolute():
            word = Path(word).name
        words.append(word)
    return shlex.join(["hrformer", *words])


def make_plan(arguments: BenchArguments, peers: Sequence[Origin]) -> Plan:
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


def show(document: Document) -> None:
    """Print all tables."""
    console = wide_console()
    for one in report.tables(document):
        table = Table(title=one.title, title_justify="left", caption=one.note or None, caption_justify="left")
        for name in one.columns:
            right = name in ("batch", "median", "quartiles", "images/s", "first call", "ratio", "exponent", "R²")
            table.add_column(name, justify="right" if right else "left")
        for row in one.rows:
            table.add_row(*row)
        console.print(table)
    say(report.conditions_line(document))


def write_results(document: Document, out: Path, results: Path | None) -> None:
    """Write the run's files, each whole.

    Raises:
        OSError: a file cannot be written.
        ValueError: the Markdown file is not one that sections can be put into.
    """
    preset, _, part = document.name.partition(": ")
    title = TITLES[preset] + (f": {part}" if part else "")
    text, picture = report.markdown(document, title), chart.draw(document, title)
    write_document(document, out / "results.json")
    write_file(out / "results.md", lambda part: part.write_text(text, encoding="utf-8"))
    write_file(out / "chart.svg", lambda part: part.write_text(picture, encoding="utf-8"))
    if results is not None:
        report.put_into(results, document.name, text)
        write_document(document, report.figures_file(results, document.name))


TITLES = {"cpu": "CPU", "gpu": "GPU", "custom": "Measurements"}


def _device(arguments: BenchArguments) -> str:
    wanted = {"cpu": "cpu", "gpu": "cuda"}.get(arguments.preset, arguments.device)
    if arguments.device not in ("auto", wanted):
        raise ValueError(f"--preset {arguments.preset} runs on {wanted}, not on {arguments.device}")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return wanted


def _groups(arguments: BenchArguments, peers: Sequence[Origin]) -> list[Group]:
    size = arguments.size or default_size(arguments.task)
    if arguments.sweep != "none":
        sweep = arguments.sweep
        candidates = [one for one in _candidates(arguments, peers) if sweep != "window" or _has_windows(one)]
        return [
            sweep_group(
                f"{kind} over {sweep}",
                candidates,
                sweep,
                arguments.sweep_values,
                batch=arguments.batch[0],
                size=size,
                kind=kind,
            )
            for kind in _timed(arguments)
        ]
    if not arguments.batch:
        raise ValueError("--batch needs one or more batch sizes")
    groups = []
    for kind, batch in product(arguments.kind, arguments.batch):
        jobs = tuple(
            Job(candidate=one, batch=batch, size=size) for one in _candidates(arguments, peers) if _fits(one, kind)
        )
        if not jobs:
            raise ValueError(f"--kind {kind}: none of the candidates can be measured so")
        title = f"{kind}, {arguments.task} {size[0]}x{size[1]}, batch {batch}"
        groups.append(Group(title=title, kind=kind, jobs=jobs))
    return groups


def _timed(arguments: BenchArguments) -> list[Kind]:
    kinds: list[Kind] = [kind for kind in arguments.kind if kind in ("forward", "train")]
    if not kinds or not arguments.batch:
        raise ValueError("--sweep needs --kind forward or train, and a --batch")
    return kinds


def _has_windows(candidate: Candidate) -> bool:
    return candidate.origin == "ours" and candidate.model.startswith("hrformer")


def _fits(candidate: Candidate, kind: Kind) -> bool:
    """Whether a kind applies: training has no fast path, the start is that of ``hrformer.load``."""
    if kind in ("train", "train-memory"):
        return not candidate.way.startswith("fast")
    if kind == "start":
        return candidate.origin == "ours" and candidate.way in ("eager", "fast") and candidate.precision == "fp32"
    return kind != "stages" or candidate.origin in ("ours", "timm")


def _candidates(arguments: BenchArguments, peers: Sequence[Origin]) -> list[Candidate]:
    """All of them, ours first. Layouts apply to plain and compiled modules only."""
    if unknown := [name for name in arguments.model if name not in list_models()]:
        raise ValueError(f"--model {unknown[0]}: no model of ours; there are {', '.join(list_models())}")
    task = arguments.task
    networks: list[tuple[str, str, tuple[Way, ...]]] = [("ours", name, arguments.paths) for name in arguments.model]
    for name in arguments.baselines:
        networks.append((*find_baseline(name, task), arguments.baseline_paths))
    for origin in ORIGINS:
        found = [name for name in arguments.model if origin in peers and has_peer(origin, name, task)]
        if origin in peers and not found:
            raise ValueError(f"--peer {origin}: it has none of {', '.join(arguments.model)} for {task}")
        networks += [(origin, name, arguments.baseline_paths) for name in found]
    found_ones = [
        Candidate(
            origin=origin,  # type: ignore[arg-type]
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
    return list(dict.fromkeys(found_ones))
