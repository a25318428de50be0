"""The demo: what it writes, what it says, and how it takes bad input."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import cv2
import numpy as np
import pytest

import demo
import demo_photos as photos
import hrformer
from hrformer.geometry.skeletons import COCO17
from hrformer.predict.results import Classification, Keypoints, Segmentation

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
pytest.importorskip("skimage", reason="needs scikit-image, from the extra 'demo'")
pytest.importorskip("sklearn", reason="needs scikit-learn, from the extra 'demo'")


@dataclass
class Run:
    code: int
    out: Path
    said: str
    complained: str


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run with a picture of our own, one that is no picture, and one that is not there."""
    folder = tmp_path_factory.mktemp("demo")
    own, broken = folder / "my <i>own & only.png", folder / "broken.jpg"
    cv2.imwrite(str(own), np.random.default_rng(0).integers(0, 256, (90, 2000, 3), dtype=np.uint8))
    broken.write_bytes(b"no picture")
    capture = pytest.MonkeyPatch()
    with capture.context() as patch:
        said, complained = _Text(), _Text()
        patch.setattr(sys, "stdout", said)
        patch.setattr(sys, "stderr", complained)
        code = demo.main([str(own), str(broken), str(folder / "absent.jpg"), "--out", str(folder / "site")])
    return Run(code, folder / "site", said.text, complained.text)


class _Text:
    """A stream that keeps what is written."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return False


@dataclass
class Page(HTMLParser):
    """What a browser would look up, and the text."""

    resources: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    tags: list[str] = field(default_factory=list)
    unnamed: int = 0
    text: str = ""
    titles: list[str] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        if tag not in ("img", "meta", "br"):
            self.opened.append(tag)
        if tag == "img":
            self.unnamed += not values.get("alt")
        self.resources += [values[name] or "" for name in ("src", "srcset", "data", "poster") if name in values]
        self.links += [values["href"] or ""] if "href" in values else []
        self.ids |= {values["id"] or ""} if "id" in values else set()

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.opened[-1:] == ["dt"]:
            self.titles.append(data)


@pytest.fixture(scope="module")
def page(run: Run) -> Page:
    parser = Page()
    parser.feed((run.out / "index.html").read_text(encoding="utf-8"))
    return parser


def test_bad_pictures_are_named_and_the_rest_is_kept(run: Run) -> None:
    assert run.code == 1
    lines = [line for line in run.complained.splitlines() if line.startswith("could not be read: ")]
    assert [re.sub(r": \S*/", ": ", line) for line in lines] == [
        "could not be read: broken.jpg: not a picture in a format known here",
        "could not be read: absent.jpg: no such file",
    ]
    assert "Traceback" not in run.complained
    assert run.said == f"Open {run.out / 'index.html'} in a browser.\n"


def test_every_file_the_page_names_is_there(run: Run, page: Page) -> None:
    local = [*page.resources, *(link for link in page.links if not re.match(r"#|https?://", link))]
    assert len(page.resources) == page.tags.count("img") == 1 + 17 + 4
    assert [name for name in local if not (run.out / unquote(name)).is_file()] == []
    assert [name for name in local if name.startswith("/") or ".." in name] == []
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids


def test_page_is_whole_html_that_needs_no_network_and_no_script(run: Run, page: Page) -> None:
    assert page.opened == []
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    source = (run.out / "index.html").read_text(encoding="utf-8")
    assert "url(" not in source
    assert "@import" not in source
    assert "prefers-color-scheme: dark" in source
    assert page.unnamed == 0


def test_every_photograph_has_its_tasks_and_ones_own_all(run: Run) -> None:
    names = {path.stem for path in (run.out / "numbers").glob("*.json")}
    photographs = photos.package_photographs()
    assert len(photographs) == 9 + 1  # three of them side by side
    wanted = {f"{one.name}-{task}" for one in photographs for task in one.tasks}
    assert names == wanted | {f"own-1-{task}" for task in hrformer.models.model.TASKS}
    for path in (run.out / "numbers").iterdir():
        shown = cv2.imread(str(run.out / "pictures" / f"{path.stem}.jpg"))
        content = json.loads(path.read_text(encoding="utf-8"))
        assert shown is not None
        assert max(shown.shape) <= 1200
        ratio = shown.shape[1] / shown.shape[0]
        assert ratio == pytest.approx(content["width"] / content["height"], rel=0.02)


def test_nothing_temporary_is_left(run: Run) -> None:
    suffixes = {path.suffix for path in run.out.rglob("*") if path.is_file()}
    assert suffixes <= {".html", ".jpg", ".json", ".txt"}


def test_page_tells_models_data_terms_score_and_sources(page: Page) -> None:
    for text in ("hrformer_tiny_people17", "hrformer_tiny_petspeople", "hrformer_tiny_things"):
        assert text in page.text
    for title in ("Trained on", "Terms", "Score"):
        assert page.titles.count(title) == 3
    for text in ("by NASA, public domain", "by danielbuechele, CC BY 2.0", "CC0"):
        assert text in page.text
    assert len(re.findall(r", \d+ ms", page.text)) == 17 + 3
    assert "my <i>own & only.png" in page.text
    assert "absent.jpg: no such file" in page.text


def test_marks_fit_photographs_and_models() -> None:
    photographs = photos.package_photographs()
    assert set(photos.EXPECT) == set(demo.MODELS)
    infos = {task: hrformer.load(name).info for task, name in demo.MODELS.items()}
    for photograph in photographs:
        assert set(photograph.labels) <= set(infos["classification"].class_names)
        assert set(photograph.regions) <= set(infos["segmentation"].class_names)
        assert {name for person in photograph.people for name in person} <= set(infos["pose"].skeleton.keypoints)
    for photograph in photographs:
        height, width = photograph.pixels.shape[:2]
        joints = [point for person in photograph.people for point in person.values()]
        for x, y in [*joints, *(p for points in photograph.regions.values() for p in points)]:
            assert 0 <= x < width
            assert 0 <= y < height


def _photograph(name: str):
    return next(photograph for photograph in photos.package_photographs() if photograph.name == name)


def _people(photograph, count: int) -> Keypoints:
    """Nobody's joints, far away from all marks."""
    return Keypoints(
        image=photograph.pixels,
        keypoints=np.full((count, 17, 3), -1000, np.float32),
        scores=np.ones(count),
        boxes=np.array([[0, 0, 512, 512.0]] * count).reshape(-1, 4),
        box_scores=np.ones(count),
        names=COCO17.keypoints,
        skeleton=COCO17,
    )


def test_pose_caption_counts_joints_near_their_marks() -> None:
    astronaut = _photograph("astronaut")
    result = _people(astronaut, 2)
    for name, (x, y) in astronaut.people[0].items():
        result.keypoints[1, COCO17.keypoints.index(name)] = (x + 40, y + 31, 0.9)
    result.keypoints[1, COCO17.keypoints.index("nose"), 0] += 11
    said = photos.caption(astronaut, result)
    assert said.startswith("Found: 2 people. Of 6 joints marked by hand, the prediction is within 10%")
    assert (
        "for 5 (right_eye, left_eye, right_shoulder, left_shoulder, right_elbow) and farther off for 1 (nose)" in said
    )
    assert photos.verdict(astronaut, result) == ("5 of 6 joints right", True)
    # Everybody's marks count, whoever was found.
    assert photos.verdict(astronaut, _people(astronaut, 0)) == ("0 of 6 joints right", False)
    several = _photograph("people")
    marked = sum(len(person) for person in several.people)
    result = _people(several, 1)
    assert photos.verdict(several, result) == (f"0 of {marked} joints right", False)
    # What counts is the side of one photograph, 400 pixels, not that of all of them together.
    for off, right in ((39, 6), (41, 0)):
        for name, (x, y) in several.people[0].items():
            result.keypoints[0, COCO17.keypoints.index(name), :2] = x - off, y
        assert len(photos.joints_right(several, result)[0]) == right


def test_photographs_side_by_side_keep_their_marks() -> None:
    several = _photograph("people")
    height, left = photos.HEIGHT, photos.SPACE
    assert several.pixels.shape[0] == height
    for name, person in zip(("astronaut", "admiral", "photographer"), several.people, strict=True):
        one = _photograph(name)
        factor = height / one.pixels.shape[0]
        for joint, (x, y) in one.people[0].items():
            assert person[joint] == pytest.approx((left + factor * x, factor * y))
        width = round(one.pixels.shape[1] * factor)
        shown = several.pixels[:, left : left + width].mean(axis=(0, 1))
        assert np.allclose(shown, one.pixels.mean(axis=(0, 1)), atol=2)
        left += width + photos.SPACE


def test_segmentation_caption_counts_points() -> None:
    astronaut = _photograph("astronaut")
    mask = np.zeros(astronaut.pixels.shape[:2], np.uint8)
    mask[200:] = 1
    result = Segmentation(image=astronaut.pixels, mask=mask, class_names=("background", "person"))
    said = photos.caption(astronaut, result)
    assert "Of 6 points marked by hand, 5 have the right class (person 3 of 4, background 2 of 2)." in said
    assert "person 61%, background 39%" in said
    assert photos.verdict(astronaut, result) == ("5 of 6 points right", True)


@pytest.mark.parametrize(
    ("name", "labels", "said"),
    [
        ("cat", ("cat", "dog"), "Right: cat, 75%."),
        (
            "cat",
            ("dog", "cat"),
            "Wrong: the model says dog, 75%; the photograph shows a cat's face, cat is in place 2.",
        ),
        ("cat", ("dog", "ship"), "cat is not among the best 2."),
        ("rocket", ("ship", "cat"), "none of the classes. The model says ship, 75%."),
        ("china", ("building", "cat"), "Right: building, 75%."),
    ],
)
def test_classification_caption_says_right_and_wrong(name: str, labels: tuple[str, str], said: str) -> None:
    photograph = _photograph(name)
    result = Classification(image=photograph.pixels, labels=labels, probabilities=(0.75, 0.25), class_ids=(0, 1))
    assert photos.caption(photograph, result).endswith(said)


def test_cards_are_read(tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    card.write_text(
        "---\ndata: CamVid: 367 frames\nscore: mIoU 50\n---\n\n# Title\n\nscore: not here\n", encoding="utf-8"
    )
    assert demo.read_card(card) == {"data": "CamVid: 367 frames", "score": "mIoU 50"}
    assert demo.read_card(tmp_path / "absent.md") == {}


def test_an_unusable_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert demo.main(["--out", str(tmp_path / "file")]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "file" in errors[0]


@pytest.mark.slow
def test_script_runs_as_make_runs_it(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "demo.py"), "--out", str(tmp_path / "site")]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert (finished.returncode, finished.stdout) == (0, f"Open {tmp_path / 'site' / 'index.html'} in a browser.\n")
    assert (tmp_path / "site" / "index.html").is_file()
