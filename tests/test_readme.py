"""What README and the pages in docs/ show is true: code, output, commands, links, tables."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path

import cv2
import pytest

import hrformer
import hrformer.cli.main
import hrformer.cli.predict
import hrformer.cli.serve
from hrformer.__main__ import main
from hrformer.checkpoints.registry import bundled_folder, find_weights
from hrformer.cli.models import MEASURED
from hrformer.predict.classify import ClassificationOptions
from hrformer.predict.pose import PoseOptions
from hrformer.predict.segment import SegmentationOptions
from hrformer.recipes.catalogue import list_recipes
from hrformer.train.config import ClassificationRun, PoseRun, SegmentationRun
from hrformer.zoo import BACKBONE_OPTIONS, HEAD_OPTIONS
from serve_load import server

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "examples" / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(REPOSITORY)) for page in PAGES]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SERVER = "127.0.0.1:8000"
CARD_ROWS = "<!-- one row per src/hrformer/weights/*.md"


@dataclass(frozen=True)
class Example:
    """Python of a page, and what it prints."""

    code: str
    output: str


def fenced(text: str, language: str) -> list[str]:
    """Contents of the fenced blocks of one language."""
    return [block for found, block in FENCE.findall(text) if found == language]


def examples(text: str) -> Iterator[Example]:
    """Every Python block with the text block right behind it, if there is one."""
    blocks = list(FENCE.finditer(text))
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        if block[1] == "python":
            near = (
                following is not None and following[1] == "text" and not text[block.end() : following.start()].strip()
            )
            yield Example(block[2], following[2] if near and following else "")


def commands(text: str, program: str) -> list[list[str]]:
    """Arguments of every line of the shell blocks that calls the program."""
    lines = [line for block in fenced(text, "sh") for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line and line[0] == program]


def table(text: str, *titles: str) -> list[list[str]]:
    """Cells of the table with these column titles, without backticks."""
    wanted = [line for line in text.splitlines() if [cell.strip() for cell in line.strip("|").split("|")] == [*titles]]
    assert len(wanted) == 1, f"no table, or several, with the columns {titles}"
    rows = []
    for line in text.split(wanted[0] + "\n")[1].splitlines()[1:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().replace("`", "") for cell in line.strip().strip("|").split(" | ")])
    return rows


def anchors(text: str) -> set[str]:
    """The anchors that the code hosts give headings."""
    titles = re.findall(r"^#+ (.*)$", re.sub(FENCE, "", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_python_prints_what_the_page_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(examples(page.read_text(encoding="utf-8")))
    if not found:
        pytest.skip("no Python on this page")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    with contextlib.ExitStack() as stack:
        address = SERVER
        if any(SERVER in example.code for example in found):
            host, port, _ = stack.enter_context(server(["hrformer_tiny_people17"]))
            address = f"{host}:{port}"
        for example in found:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(example.code.replace(SERVER, address), names)
            assert printed.getvalue() == example.output


def test_readme_starts_with_python_and_its_output() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    first = next(examples(text))
    assert len([line for line in first.code.splitlines() if line and not line.startswith("import")]) == 5
    assert first.output
    screen = text[: text.index(first.code)]
    assert screen.count("\n") < 25
    assert "](docs/images/" in screen
    for command in ("make demo", "make serve", "make test", "pip install ."):
        assert command in screen


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(FENCE, "", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.is_file(), target
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_command_lines_are_understood(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"predict": hrformer.cli.predict, "serve": hrformer.cli.serve}
    others = (
        "models",
        "convert",
        "convert_labels",
        "convert_results",
        "push",
        "export",
        "train",
        "evaluate",
        "inspect",
    )
    others += ("bench",)
    for name in (*own, *others):
        module = own.get(name, hrformer.cli.main)
        monkeypatch.setattr(module, f"run_{name}", lambda *arguments: 0)
    text = page.read_text(encoding="utf-8")
    for arguments in commands(text, "hrformer"):
        assert main(arguments) == 0, arguments
        weights = arguments[arguments.index("--weights") + 1] if "--weights" in arguments else "."
        if "." not in weights and not weights.startswith("hf://"):
            find_weights(weights)
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = [*commands(text, "make"), *([line] for line in re.findall(r"`make (\w+)`", text))]
    for target, *_ in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_a_wrong_command_line_is_not_understood(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "pose", "a.jpg", "--no-such-option"]) == 2
    capsys.readouterr()


def test_pictures_are_small_and_readable() -> None:
    names = re.findall(r"!\[[^]]+\]\((docs/images/[^)]+)\)", PAGES[0].read_text(encoding="utf-8"))
    assert len(names) == 2
    for name in names:
        file = REPOSITORY / name
        assert file.stat().st_size < 400_000
        height, width = cv2.imread(str(file)).shape[:2]
        assert width > 1000
        assert width > height


def test_bundled_weights_are_the_cards() -> None:
    rows = []
    for card in sorted(bundled_folder().glob("*.md")):
        head = card.read_text(encoding="utf-8").split("---\n")[1]
        facts = dict(line.split(": ", 1) for line in head.splitlines() if ": " in line)
        link = f"[{card.stem}](src/hrformer/weights/{card.name})"
        rows.append([link, facts["task"], facts["data"], facts["score"], facts["size"]])
        weights = card.with_suffix(".safetensors")
        assert f"{weights.stat().st_size / 1e6:.1f} MB" == facts["size"]
        assert find_weights(card.stem).task == facts["task"]
    text = PAGES[0].read_text(encoding="utf-8")
    assert CARD_ROWS in text
    expected = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    assert len(rows) == 3
    assert table(text, "Weights", "Task", "Data", "Score", "Size") == rows, f"the rows should be:\n{expected}"


def test_published_scores_are_the_registry_s() -> None:
    rows = table(PAGES[0].read_text(encoding="utf-8"), "Weights", "Published score")
    assert len(rows) > 3
    assert rows == [[name, find_weights(name).score] for name, _ in rows]


def test_model_sizes_are_the_measured_ones() -> None:
    columns = ("Name", "Classification", "MACs", "Pose", "MACs", "Segmentation", "MACs")
    rows = table((REPOSITORY / "docs" / "models.md").read_text(encoding="utf-8"), *columns)
    names = [name for name in hrformer.list_models() if "_window" not in name]
    expected = []
    for name in names:
        sizes = MEASURED[name]
        expected.append([name, *(cell for p, m in sizes for cell in (f"{p / 1e6:.2f}", f"{m / 1e9:.3f}"))])
    assert rows == expected


def test_model_options_are_complete() -> None:
    rows = table((REPOSITORY / "docs" / "models.md").read_text(encoding="utf-8"), "Option", "For", "Meaning")
    listed = {name for row in rows for name in row[0].split(", ")}
    assert listed == {*BACKBONE_OPTIONS, *(name for names in HEAD_OPTIONS.values() for name in names)}


def test_prediction_options_and_their_defaults() -> None:
    text = (REPOSITORY / "docs" / "prediction.md").read_text(encoding="utf-8")
    rows = table(text, "Task", "Option", "Default", "Meaning")
    options = {"classification": ClassificationOptions, "pose": PoseOptions, "segmentation": SegmentationOptions}
    expected = {(task, field.name, repr(field.default)) for task, cls in options.items() for field in fields(cls)}
    assert MISSING not in {field.default for cls in options.values() for field in fields(cls)}
    assert {tuple(row[:3]) for row in rows} == expected


def test_helpers_see_blocks_and_tables() -> None:
    code = "```python\nprint(1)\n```\n\n```text\n1\n```\n```sh\nhrformer models # all\n```\n"
    text = f"# A (b)\n{code}| A | B |\n|-|-|\n| `x` | 2 |\n"
    assert list(examples(text)) == [Example("print(1)\n", "1\n")]
    assert commands(text, "hrformer") == [["models"]]
    assert table(text, "A", "B") == [["x", "2"]]
    assert anchors(text) == {"a-b"}


def test_recipes_of_the_page_are_those_of_the_catalogue() -> None:
    text = (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")
    rows = table(text, "Data", "`--data.root` holds", "Recipes")
    named = [name for row in rows for name in re.findall(r"\w+_\w+", row[2])]
    assert sorted(named) == sorted(list_recipes())


def test_sections_of_a_run_are_complete() -> None:
    text = (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")
    listed = {name for row in table(text, "Section", "Says") for name in row[0].split(", ")}
    runs = (ClassificationRun(), PoseRun(), SegmentationRun())
    assert listed == {field.name for run in runs for field in fields(run) if is_dataclass(getattr(run, field.name))}
