"""Exported files: written, proved, opened again, used without this package, and refused where they are wrong."""

from __future__ import annotations

import copy
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distribution, files, requires
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import hrformer
from exported_pose import POSE, exported_pose
from hrformer.export import export as front
from hrformer.export import files as writing
from hrformer.export.export import export, verify
from hrformer.export.files import ExportError, write_openvino
from hrformer.export.pipelines import pipeline_for
from hrformer.export.proof import cases_for, prove, read_pictures
from hrformer.models.model import VisionModel
from hrformer.predict.exported import ExportedFile
from hrformer.predict.pose import PosePredictor
from hrformer.predict.predictors import load, predictor_for
from hrformer.predict.segment import SegmentationPredictor

SmallModel = Callable[..., VisionModel]


def damage(path: Path) -> None:
    """Change one weight of an .onnx file."""
    model = onnx.load(path)
    weights = [one for one in model.graph.initializer if len(one.dims) == 4]
    values = onnx.numpy_helper.to_array(weights[len(weights) // 2]).copy()
    values.reshape(-1)[0] += np.abs(values).max()
    weights[len(weights) // 2].CopyFrom(onnx.numpy_helper.from_array(values, weights[len(weights) // 2].name))
    onnx.save(model, path)


def bare_python(folder: Path) -> Path:
    """Python of a virtual environment with numpy, pillow, onnxruntime and what these need, linked from this one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    pending, seen = ["numpy", "pillow", "onnxruntime"], set()
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        pending += [word.split(";")[0].strip() for word in map(_name_of, requires(name) or []) if word]
        for top in {file.parts[0] for file in files(name) or [] if file.parts[0] not in ("..", "__pycache__")}:
            (site / top).symlink_to(Path(str(distribution(name).locate_file(top))))
    return folder / "bin" / "python"


def _name_of(requirement: str) -> str:
    """Name of a requirement that is always wanted; empty for those of extras."""
    return (
        ""
        if "extra" in requirement
        else requirement.split(" ")[0].split(">")[0].split("=")[0].split("<")[0].split("!")[0]
    )


@pytest.mark.slow
def test_pose_pipeline_for_onnx(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, out = load(POSE, "cpu"), tmp_path / "pose"
    report, told = exported_pose(tmp_path_factory, out)
    assert sorted(one.name for one in out.iterdir()) == ["model.onnx", "predict.py", "report.json"]
    assert len(told) == 2
    _the_graph_has_no_size_of_its_example(out / "model.onnx")
    sizes = [result.case for result in report.results]
    assert any("7 boxes in 23 x 19" in size for size in sizes)
    assert any("optimisation disable_all" in size for size in sizes)
    assert all(result.error <= result.allowed for result in report.results)
    assert all((result.shift or 0) <= 0.05 for result in report.results)
    stored = json.loads((out / "report.json").read_text())
    assert stored["about"]["flip_pairs"] == [list(pair) for pair in predictor.info.skeleton.flip_pairs]  # type: ignore[union-attr]
    assert stored["about"]["source"]["licence"] == "mine"
    assert len(stored["about"]["source"]["sha256"]) == 64
    # The same predictor and results as from weights.
    exported = load(out / "model.onnx")
    assert isinstance(exported, PosePredictor)
    assert exported.info == predictor.info
    pixels = read_pictures([])[0]
    boxes = [[40.0, 10, 300, 380], [100, 20, 90, 200]]
    ours, theirs = predictor(pixels, boxes=boxes), exported(pixels, boxes=boxes, batch_size=1)
    assert np.median(np.abs(ours.keypoints - theirs.keypoints)) < 1e-3
    assert len(exported(pixels, boxes=np.empty((0, 4)))) == 0
    with pytest.raises(ValueError, match="exported with flip=True"):
        exported(pixels, boxes=boxes, flip=False)
    with pytest.raises(ValueError, match="finished program"):
        load(out / "model.onnx", fast=True)
    with pytest.raises(ValueError, match="precision and settings of weights do not apply"):
        load(out / "model.onnx", precision="bf16")
    assert exported.precision == "fp32"
    _as_the_docs_say(out, pixels, exported, monkeypatch)
    _without_this_package(tmp_path, out, pixels, theirs)
    _memory_stays(out / "model.onnx")
    assert len(verify(out / "model.onnx", predictor)) == len(report.results)
    damage(out / "model.onnx")
    with pytest.raises(ExportError, match="401 x 401 pixels"):
        verify(out / "model.onnx", predictor)


def _the_graph_has_no_size_of_its_example(path: Path) -> None:
    graph = onnx.load(path).graph
    shapes = {one.name: [d.dim_param or d.dim_value for d in one.type.tensor_type.shape.dim] for one in graph.input}
    assert [isinstance(side, str) for side in shapes["image"]] == [True, True, False]
    assert [isinstance(side, str) for side in shapes["boxes"]] == [True, False]
    assert [one.name for one in graph.output] == ["keypoints"]


def _as_the_docs_say(out: Path, pixels: np.ndarray, exported: PosePredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The three lines of docs/export.md."""
    text = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"pixels": pixels}
    monkeypatch.chdir(out)
    exec(text.split("```py\n")[1].split("```")[0], names)
    np.testing.assert_allclose(names["keypoints"], exported(pixels, boxes=[[40, 10, 300, 380]]).keypoints, atol=2e-3)


def _without_this_package(tmp_path: Path, out: Path, pixels: np.ndarray, expected: Any) -> None:
    """``predict.py`` beside a file, in an environment with numpy, pillow and onnxruntime alone."""
    python = bare_python(tmp_path / "env")
    assert len((out / "predict.py").read_text().splitlines()) <= 150
    Image.fromarray(pixels).save(tmp_path / "a b.png")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    absent = subprocess.run([python, "-c", "import torch"], capture_output=True, env=environment, check=False)
    assert absent.returncode != 0
    command = [python, out / "predict.py", tmp_path / "a b.png", "--out", tmp_path / "drawn"]
    boxes = ["--boxes", "40,10,300,380", "--boxes", "100,20,90,200"]
    run = subprocess.run([*command, *boxes], capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    people = json.loads(run.stdout)["answer"]
    found = np.array([[person[name] for name in expected.names] for person in people])
    np.testing.assert_allclose(found, expected.keypoints, atol=2e-3)
    assert (tmp_path / "drawn" / "a b.png").is_file()
    bad = subprocess.run(
        [*command[:2], out / "predict.py"], capture_output=True, text=True, env=environment, check=False
    )
    assert bad.returncode == 1
    assert "Traceback" not in bad.stderr


def _memory_stays(path: Path) -> None:
    """Pictures of ever new sizes must not each leave their memory behind."""
    file = ExportedFile(path)
    box = np.array([[5, 5, 60, 80]], np.float32)

    def run(first: int, last: int) -> None:
        for side in range(first, last):
            file.run(
                image=np.full((200 + 7 * side, 300 + 5 * side, 3), 90, np.uint8), boxes=np.repeat(box, 1 + side % 9, 0)
            )

    run(0, 12)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(12, 60)
    # Kilobytes; the pictures themselves grow by a few megabytes.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000


@pytest.mark.slow
def test_segmentation_for_onnx_and_openvino(tmp_path: Path, small_model: SmallModel) -> None:
    model = small_model("segmentation")
    report = export(model, tmp_path / "onnx")
    assert all(result.error <= result.allowed for result in report.results)
    assert max(result.changed or 0 for result in report.results) < 1e-3
    pixels = read_pictures([])[1]
    ours, theirs = predictor_for(model, device="cpu")(pixels), load(tmp_path / "onnx" / "model.onnx")(pixels)
    assert isinstance(load(tmp_path / "onnx" / "model.onnx"), SegmentationPredictor)
    assert theirs.mask.dtype == ours.mask.dtype  # type: ignore[union-attr]
    assert (theirs.mask != ours.mask).mean() < 1e-3  # type: ignore[union-attr]
    # The same graph in OpenVINO, whose writer makes 16-bit numbers of weights unless it is told not to.
    facts = ExportedFile(tmp_path / "onnx" / "model.onnx").facts
    path = tmp_path / "model.xml"
    write_openvino(onnx.load(tmp_path / "onnx" / "model.onnx"), path, facts)
    assert 'element_type="f16"' not in path.read_text()
    options = predictor_for(model, device="cpu").options
    results = prove(path, pipeline_for(model, options), options, read_pictures([]))
    assert all(result.error <= result.allowed for result in results)
    assert (load(path)(pixels).mask != ours.mask).mean() < 1e-3  # type: ignore[union-attr]


@pytest.mark.slow
def test_open_sizes_of_a_network(tmp_path: Path, small_model: SmallModel) -> None:
    model = small_model("segmentation", 13)
    export(model, tmp_path / "net", graph="network")
    exported = load(tmp_path / "net" / "model.onnx")
    assert exported.model(torch.zeros(2, 3, 41, 67)).shape == (2, 11, 41, 67)
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(exported.model(x), model(x), rtol=0, atol=1e-5)
    # A bare network takes all of the predictor's options.
    pixels = read_pictures([])[2]
    options: dict[str, Any] = {"flip": True, "scales": (0.75, 1.0), "short_side": 80}
    ours = predictor_for(model, device="cpu")(pixels, **options)
    assert (exported(pixels, **options).mask != ours.mask).mean() < 1e-3  # type: ignore[union-attr]
    assert not (tmp_path / "net" / "predict.py").exists()


Graphs = dict[tuple[Any, ...], onnx.ModelProto]


@pytest.fixture(scope="module")
def graphs() -> Graphs:
    """The ONNX graphs of small models, for formats that begin with the same one."""
    return {}


def graphs_made_once(graphs: Graphs, monkeypatch: pytest.MonkeyPatch, *name: object) -> None:
    """Let ``export`` record and convert each model once, by its name and dtype."""
    record, convert = front.traced, front.onnx_model

    def converted(given: tuple[Any, Any], module: Any) -> onnx.ModelProto:
        key = (*name, module.dtype)
        if key not in graphs:
            graphs[key] = convert(record(*given), module)
        return copy.deepcopy(graphs[key])

    monkeypatch.setattr(front, "traced", lambda module, example: (module, example))
    monkeypatch.setattr(front, "onnx_model", converted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "to", "precision", "window"),
    [
        ("pose", "torch", "fp32", 7),
        ("pose", "onnx", "fp16", 0),
        ("classification", "onnx", "int8", 7),
        ("classification", "openvino", "fp16", 7),
        ("pose", "openvino", "int8", 7),
        ("classification", "torch", "fp32", 7),
    ],
)
def test_formats_and_precisions(
    task: Any,
    to: Any,
    precision: Any,
    window: int,
    tmp_path: Path,
    small_model: SmallModel,
    graphs: Graphs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = small_model(task, window)
    if to != "torch":
        graphs_made_once(graphs, monkeypatch, task, window)
    report = export(model, tmp_path / "out", to=to, precision=precision)
    exported = load(report.file)
    pixels = read_pictures([])[0]
    ours = predictor_for(model, device="cpu")
    if task == "pose":
        boxes = [[40.0, 10, 300, 380]]
        scores = [one(pixels, boxes=boxes).keypoints[..., 2] for one in (ours, exported)]  # type: ignore[union-attr]
    else:
        scores = [np.sort(one(pixels, top_k=10).probabilities) for one in (ours, exported)]  # type: ignore[union-attr]
    bound = {"fp32": 1e-4, "fp16": 0.02, "int8": 0.1}[precision]
    np.testing.assert_allclose(scores[1], scores[0], atol=bound)
    weights = sum(value.numel() for value in model.state_dict().values()) * 4e-6
    assert report.megabytes < (3 if precision == "fp32" else 2.2) * weights + 3
    if precision == "fp32":
        assert max(result.error for result in report.results) == max(result.float32_error for result in report.results)


@pytest.mark.slow
def test_backbone(tmp_path: Path, small_model: SmallModel) -> None:
    """Of HRNet: windows of open sizes are in ``test_open_sizes_of_a_network``."""
    model = small_model(None, 0)
    report = export(model, tmp_path / "maps", graph="network")
    file = ExportedFile(report.file)
    x = torch.randn(2, 3, 50, 70)
    found = file.run(network_input=x.numpy())
    with torch.inference_mode():
        for name, want in model(x).items():
            np.testing.assert_allclose(found[name], want, atol=1e-4)
    with pytest.raises(ValueError, match="bare backbone"):
        load(report.file)


@pytest.mark.slow
def test_a_failed_check_leaves_nothing(
    tmp_path: Path, small_model: SmallModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = front.write_onnx

    def damaged(model: Any, path: Path, facts: Any) -> None:
        write(model, path, facts)
        damage(path)

    monkeypatch.setattr(front, "write_onnx", damaged)
    with pytest.raises(ExportError, match=r"1 of 96 x 72 pixels .*allowed is"):
        export(small_model("pose"), tmp_path / "out", graph="network")
    assert not list(tmp_path.iterdir())


def test_cases_cover_what_goes_wrong(small_model: SmallModel) -> None:
    model = small_model("segmentation")
    module = pipeline_for(model, predictor_for(model, device="cpu").options)
    shapes = [case.inputs["images"].shape for case in cases_for(module, read_pictures([]))]
    assert {shape[0] for shape in shapes} == {1, 2, 7}
    assert len({shape[1:3] for shape in shapes}) == 3
    assert min(min(shape[1:3]) for shape in shapes) < 28  # pixels of a window of 7 cells
    assert any(shape[1] % 2 and shape[2] % 2 for shape in shapes)


def test_what_cannot_be_exported(tmp_path: Path, small_model: SmallModel, monkeypatch: pytest.MonkeyPatch) -> None:
    pose, scene, out = small_model("pose"), small_model("segmentation"), tmp_path / "out"
    for model, match, options in (
        (pose, "no bf16", {"precision": "bf16"}),
        (pose, "int8 is for", {"to": "torch", "precision": "int8"}),
        (scene, "one scale", {"scales": (0.75, 1.0)}),
        (scene, "unknown option", {"colour": 1}),
        (small_model(None), "bare backbone", {}),
    ):
        with pytest.raises(ExportError, match=match):
            export(model, out, **options)  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="went through optimize"):
        export(hrformer.optimize(pose, backend="reference"), out)
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    with pytest.raises(ExportError, match="holds other files"):
        export(pose, out)
    with pytest.raises(ExportError, match="is a file"):
        export(pose, out / "thesis.tex")
    monkeypatch.setattr(writing, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs onnx: pip install 'hrformer\[export\]'"):
        export(pose, tmp_path / "new")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out"]


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no exported file"):
        load(tmp_path / "model.onnx")
    (tmp_path / "model.onnx").write_bytes(b"none")
    with pytest.raises(ValueError, match="cannot be opened by its runtime"):
        load(tmp_path / "model.onnx")
    info, graph = onnx.helper.make_tensor_value_info, onnx.helper.make_graph
    ends = [[info(name, onnx.TensorProto.FLOAT, [1])] for name in ("x", "y")]
    plain = graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "relu", *ends)
    onnx.save(
        onnx.helper.make_model(plain, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10),
        tmp_path / "a.onnx",
    )
    with pytest.raises(ValueError, match="does not describe itself"):
        load(tmp_path / "a.onnx")
