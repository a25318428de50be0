"""``hrformer export``: a model as one file for another runtime, with its proof; and the proof again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from hrformer.checkpoints.download import resolve_weights
from hrformer.checkpoints.model_card import CardFacts
from hrformer.checkpoints.weight_files import read_weights
from hrformer.cli.arguments import ExportArguments
from hrformer.cli.evaluate import open_set
from hrformer.cli.messages import note, say, wide_console
from hrformer.cli.runs import find_run, speaking_of_options
from hrformer.export.export import REPORT, export, verify
from hrformer.export.files import ExportError
from hrformer.export.proof import CaseResult
from hrformer.export.scores import scores_before_and_after
from hrformer.files import sha256_of
from hrformer.models.model import VisionModel
from hrformer.predict.exported import ExportedFile
from hrformer.predict.predictors import AnyPredictor, load
from hrformer.train.config import with_fields
from hrformer.train.progress import bars


def run_export(arguments: ExportArguments) -> int:
    """Export and report, or verify; returns 0."""
    if arguments.verify is not None:
        return _verify(arguments)
    if not arguments.weights:
        raise ValueError("name the weights first: hrformer export WEIGHTS --to onnx --out FOLDER")
    score = _scorer(arguments)
    path, published = resolve_weights(arguments.weights)
    predictor = load(arguments.weights, "cpu")
    licence = CardFacts.of(predictor.info, read_weights(path).metadata, published).licence
    note(f"{predictor.info.name} ({arguments.weights}) to {arguments.to}, {arguments.graph}, {arguments.precision}")
    report = export(
        predictor,
        arguments.out,
        to=arguments.to,
        graph=arguments.graph,
        precision=arguments.precision,
        pictures=arguments.pictures,
        licence=licence,
        score=score,
        told=note,
        **_options(arguments, predictor),
    )
    show_results(report.results, report.facts["precision"])
    times = ", ".join(f"{name} {value:.1f}" for name, value in report.milliseconds.items())
    say(f"one picture takes ms: {times}")
    if report.scores:
        scores = report.scores
        say(
            f"{scores['score']} on {scores['items']} items of {scores['set']}: {scores['before']:.4g} before, "
            f"{scores['after']:.4g} after"
        )
    say(f"exported: {report.file} ({report.megabytes:.1f} MB); report: {report.file.parent / REPORT}")
    return 0


def _options(arguments: ExportArguments, predictor: AnyPredictor) -> dict[str, Any]:
    """Changes to the predictor's options, from what was typed."""
    options: dict[str, Any] = {}
    if arguments.flip is not None:
        options["flip"] = arguments.flip
    if arguments.short_side is not None:
        if predictor.task != "segmentation":
            raise ValueError(f"--short-side is for segmentation, {arguments.weights} is for {predictor.task}")
        options["short_side"] = arguments.short_side or None
    if options and arguments.graph == "network":
        raise ValueError("--flip and --short-side are part of --graph pipeline; a network has neither")
    return options


def _scorer(arguments: ExportArguments) -> Callable[[VisionModel, Path], dict[str, Any]] | None:
    """What scores a model and its file on the set that is named."""
    if arguments.data is None:
        if arguments.data_root is not None or arguments.limit is not None:
            raise ValueError("--data-root and --limit need --data, the recipe or run whose set is scored")
        return None
    if arguments.to == "torch":
        raise ValueError("--data scores --to onnx and --to openvino; a program of torch computes what the model does")
    config, _ = find_run(arguments.data)
    if arguments.data_root is not None:
        config = with_fields(config, {"data.root": arguments.data_root})
    with speaking_of_options(config):
        source = open_set(config, "val")

    def score(model: VisionModel, file: Path) -> dict[str, Any]:
        note(f"scoring both on {source.name}")
        with bars(after=2.0) as look:
            return scores_before_and_after(model, file, source, config.evaluation, limit=arguments.limit, progress=look)

    return score


def _verify(arguments: ExportArguments) -> int:
    """Prove a file again with the weights it was made from: those given, else found by their recorded name."""
    assert arguments.verify is not None
    file = ExportedFile(arguments.verify)
    source = file.facts["source"]
    name = arguments.weights or Path(source["weights"]).stem
    try:
        path, _ = resolve_weights(name)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{file.path.name} was made from {source['weights'] or 'a model in memory'}, which is not found here; name "
            f"the weights: hrformer export WEIGHTS --verify {file.path}"
        ) from error
    if sha256_of(path) != source["sha256"]:
        raise ExportError(f"{file.path.name} was made from other weights: sha256 {source['sha256']}, not {path.name}")
    results = verify(file.path, load(name, "cpu"), pictures=arguments.pictures)
    show_results(results, file.facts["precision"])
    say(f"{file.path} answers as {path.name} does")
    return 0


def show_results(results: Sequence[CaseResult], precision: str) -> None:
    """A table with a row for each run."""
    table = Table(title=f"against the float64 network ({precision})", title_justify="left")
    for column in ("run", "largest error", "mean error", "float32 PyTorch", "answer"):
        table.add_column(column, justify="left" if column in ("run", "answer") else "right")
    for one in results:
        answer = []
        if one.shift is not None:
            answer.append(f"joints off by {one.shift:.2g} pixels at most, {one.undecided} undecided")
        if one.changed is not None:
            answer.append(f"{one.changed:.3%} changed")
        table.add_row(
            one.case, f"{one.error:.2g}", f"{one.mean_error:.2g}", f"{one.float32_error:.2g}", "; ".join(answer)
        )
    wide_console().print(table)
