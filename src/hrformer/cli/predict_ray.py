"""``hrformer predict --engine ray``: lists of pictures of any size, on the workers of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from hrformer.cli.arguments import PoseArguments, PredictArguments
from hrformer.cli.inputs import expand
from hrformer.cli.messages import note, say
from hrformer.cli.predicting import check, interrupted, options_of, predictor_of, recorded, terminable
from hrformer.cluster.folder import JobFolder
from hrformer.cluster.job import Machines, check_ray, cluster, run_job
from hrformer.cluster.rows import MOST_ROWS
from hrformer.data.addresses import file_system
from hrformer.data.images import is_url
from hrformer.data.picture_lists import MANIFEST, manifest_rows
from hrformer.predict.exported import is_exported
from hrformer.predict.pose import PosePredictor
from hrformer.predict.predictors import AnyPredictor
from hrformer.train.progress import bars
from hrformer.wording import counted

_ERRORS_SHOWN = 10


def run_on_cluster(arguments: PredictArguments, typed: Sequence[str]) -> int:
    """Predict on all inputs; arguments and exit codes as of ``hrformer.cli.predict.run_predict``."""
    check(arguments)
    if "--pictures" in typed:
        raise ValueError("--engine ray draws no pictures: leave out --pictures, or use --engine plain")
    if arguments.device not in (None, "cpu", "cuda"):
        raise ValueError(f"--device must be cpu or cuda with --engine ray, got {arguments.device}")
    check_ray()
    there = _anywhere(arguments)
    # On this machine only to find errors before the work begins; a slow start of --fast is for the workers.
    here = predictor_of(replace(there, device="cpu", fast=there.fast and is_exported(there.weights)))
    options_of(replace(there, device="cpu"), here)
    task, folder = here.task, JobFolder(there.out)
    typed_inputs = [name if is_url(name) else _absolute(name) for name in there.inputs]
    # The precision as asked for: what "auto" is, each machine says for itself.
    run = {"task": task, "weights": arguments.weights, "inputs": typed_inputs, "precision": arguments.precision}
    run |= recorded(arguments)
    with folder.locked():
        number = folder.prepare(
            run, _pictures(there), names=_names(here), resume=arguments.resume, largest=MOST_ROWS[task]
        )
        folder.settle()
        before = folder.done()
        try:
            if before < number:
                # Ray decides what SIGTERM does when it connects.
                with cluster(arguments.ray_address) as nodes, terminable(), bars() as show:
                    machines = Machines.of(nodes, cpu=arguments.device == "cpu")
                    kind = "GPU" if machines.gpus else "core"
                    note(f"{here.info.name} ({arguments.weights}) on {counted(machines.workers, kind)}")
                    run_job(folder, partial(make_predictor, there), task, number, machines, show)
        except KeyboardInterrupt as stop:
            return interrupted(stop, arguments, typed, f"{folder.done()} of {number} pictures are done, ")
        return _report(folder, arguments.out, number, before)


def make_predictor(arguments: PredictArguments) -> tuple[AnyPredictor, dict[str, Any]]:
    """The predictor and what its ``stream`` takes, on the machine that will use them."""
    predictor = predictor_of(arguments)
    return predictor, options_of(arguments, predictor)


def _anywhere(arguments: PredictArguments) -> PredictArguments:
    """The same with absolute paths, since workers run in folders of their own."""
    changed: dict[str, Any] = {"out": Path(_absolute(str(arguments.out)))}
    if Path(arguments.weights).expanduser().exists():
        changed["weights"] = _absolute(arguments.weights)
    if isinstance(arguments, PoseArguments):
        given = {"detections": arguments.detections, "detector_weights": arguments.detector_weights}
        changed |= {name: Path(_absolute(str(path))) for name, path in given.items() if path is not None}
    return replace(arguments, **changed)


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _names(predictor: AnyPredictor) -> Sequence[str]:
    """Of joints or classes."""
    return predictor.joint_names if isinstance(predictor, PosePredictor) else predictor.info.class_names


def _pictures(arguments: PredictArguments) -> Iterator[list[str]]:
    """All inputs; those of manifests some at a time. What is not there gets a row, too, in which that is said."""
    manifests = [name for name in arguments.inputs if name.lower().endswith(MANIFEST)]
    others = expand([name for name in arguments.inputs if name not in manifests], arguments.out)
    if not (manifests or others.files):
        raise ValueError("no pictures: " + "; ".join(f"{name}: {reason}" for name, reason in others.missing.items()))
    if others.left_out:
        note(f"{counted(len(others.left_out), 'file')} left out, whose ending is no picture's")
    first = [name if is_url(name) else _absolute(name) for name in [*others.files, *others.missing]]
    known = {"http", "https"}
    for some in chain([first], *map(manifest_rows, manifests)):
        # One of each kind of address.
        for kind, name in {name.partition("://")[0]: name for name in some if "://" in name}.items():
            if kind not in known:
                known.add(kind)
                _check_package(name)
        yield some


def _check_package(address: str) -> None:
    """ImportError where a package is missing without which no address of this kind can be read."""
    # An address of no kind that is known is its own row's error.
    with suppress(ValueError):
        file_system(address)


def _report(folder: JobFolder, out: Path, number: int, before: int) -> int:
    errors, first = folder.errors(_ERRORS_SHOWN)
    already = f", {before} had been done before" if before else ""
    say(f"{counted(number - errors, 'picture')} predicted{already}")
    say(f"results: Parquet files in {out / folder.results.name}")
    if errors:
        note(f"could not be read or failed ({errors}):")
    for name, reason in first:
        note(f"  {name}: {reason}")
    if errors > len(first):
        note(f"  and {errors - len(first)} more, the rows with an error")
    return 1 if errors else 0
