"""The browser page against the real server, in a real browser."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from PIL import Image

from browser import (
    COPY,
    PICTURES,
    answered,
    breaches,
    chromium,
    drop,
    expect,
    find_browser,
    pixel,
    settled,
    slide,
    swipe,
    watch,
)
from serve_load import server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

POSE, MASKS, THINGS = "hrformer_tiny_people17", "hrformer_tiny_petspeople", "hrformer_tiny_things"
ASTRONAUT, CAT, COFFEE = (PICTURES / f"{name}.jpg" for name in ("astronaut", "cat", "coffee"))
SIDES = {"left": (255, 140, 0), "right": (0, 170, 255)}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "has_touch": True,
    "is_mobile": True,
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed_chromium() -> Iterator[Browser]:
    executable = find_browser()
    if executable is None:
        pytest.skip("needs Chromium or Chrome on the PATH")
    with chromium(executable) as started:
        yield started


@pytest.fixture(scope="module")
def address(installed_chromium: Browser) -> Iterator[str]:
    with server([THINGS, POSE, MASKS]) as (host, port, _):
        yield f"http://{host}:{port}"


@pytest.fixture
def open_tab(installed_chromium: Browser, address: str) -> Iterator[Callable[..., Page]]:
    """Opens the page in a context of its own; at the end no page may have had an error that was not expected."""
    opened: list[tuple[Page, list[str], str]] = []

    def open_one(*, expected: str = "", before: Callable[[Page], Any] = lambda page: None, **settings: Any) -> Page:
        page = installed_chromium.new_context(**({"viewport": {"width": 1280, "height": 800}} | settings)).new_page()
        opened.append((page, watch(page), expected))
        before(page)
        page.goto(address)
        return page

    yield open_one
    for page, troubles, expected in opened:
        page.context.close()
        assert [line for line in troubles if not (expected and expected in line)] == []


@pytest.fixture
def tab(open_tab: Callable[..., Page]) -> Page:
    opened = open_tab()
    expect(opened.locator("#status")).to_have_text("Ready.")
    return opened


def _is_near(colour: list[int], wanted: tuple[int, int, int]) -> bool:
    return max(abs(a - b) for a, b in zip(colour, wanted, strict=True)) <= 12  # Edges of joints are smoothed


def _joint(result: dict[str, Any], name: str, person: int = 0) -> tuple[float, float, float]:
    x, y, score = result["people"][person]["keypoints"][result["names"].index(name)]
    return x + 0.5, y + 0.5, score


def test_dropped_picture_is_classified_and_saved(tab: Page, tmp_path: Path) -> None:
    drop(tab, CAT)
    settled(tab)
    rows = tab.locator("#results tbody tr")
    expect(rows).to_have_count(5)
    expect(rows.first).to_contain_text(re.compile(r"^cat\d+ %$"))
    expect(tab.locator("#status")).to_contain_text("Most likely cat")
    expect(tab.get_by_role("img", name="Picture cat.jpg, 451 by 300 pixels: Most likely cat")).to_be_visible()
    with tab.expect_download() as saving:
        tab.get_by_role("button", name="Download JSON").click()
    saving.value.save_as(tmp_path / "cat.json")
    assert saving.value.suggested_filename == "cat-classification.json"
    answer = json.loads((tmp_path / "cat.json").read_text())
    assert answer["model"] == THINGS
    assert [one["label"] for one in answer["results"][0]["predictions"]][:1] == ["cat"]
    with tab.expect_download() as saving:
        tab.get_by_role("button", name="Download PNG").click()
    saving.value.save_as(tmp_path / "cat.png")
    drawn, picture = cv2.imread(str(tmp_path / "cat.png")), cv2.imread(str(CAT))
    assert drawn.shape == picture.shape
    changed = np.abs(drawn.astype(int) - picture).max(axis=2) > 20
    assert changed[200:, :150].mean() > 0.3, "the bars stand in the lower left corner"
    assert changed[:100].mean() < 0.01, "and nowhere else"


def test_number_of_classes_asks_the_server_again(tab: Page) -> None:
    answered(tab, COFFEE)
    number = tab.get_by_label("Classes to list")
    with tab.expect_response("**:predict"):
        number.fill("3")
        number.press("Tab")
    expect(tab.locator("#results tbody tr")).to_have_count(3)
    expect(tab.locator("#results tbody tr").first).to_contain_text("cup")
    for text, sent in (("", 3), ("4000", 3), ("1e1", 10)):
        number.fill(text)
        if text == "1e1":
            number.press("Enter")
        assert len(answered(tab, COFFEE)["predictions"]) == sent
        number.press("Tab")
        expect(number).to_have_value(str(sent))


def test_slider_hides_joints_without_asking_again(tab: Page) -> None:
    result = answered(tab, ASTRONAUT, model=POSE)
    tab.get_by_label("Boxes and scores").uncheck()
    x, y, score = _joint(result, "left_shoulder")
    assert score > 0.3
    assert _is_near(pixel(tab, x, y, result), SIDES["left"])
    assert _is_near(pixel(tab, *_joint(result, "right_shoulder")[:2], result), SIDES["right"])
    tab.get_by_text("Person 1").click()
    row = tab.get_by_role("row", name="left shoulder")
    expect(row).to_contain_text(f"{score:.2f}")
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    slide(tab.get_by_label("Joints above"), score + 0.01)
    assert not _is_near(pixel(tab, x, y, result), SIDES["left"])
    expect(row).to_have_count(0)
    tab.get_by_label("Joints above").press("ArrowLeft")
    tab.get_by_label("Joints above").press("ArrowLeft")
    expect(row).to_have_count(1)
    assert _is_near(pixel(tab, x, y, result), SIDES["left"])
    slide(tab.get_by_label("People from"), 1)
    expect(tab.locator("#results")).to_contain_text("not drawn")
    assert not _is_near(pixel(tab, x, y, result), SIDES["left"])
    assert asked == []


def test_dragged_box_reaches_the_server_in_picture_pixels(tab: Page) -> None:
    answered(tab, ASTRONAUT, model=POSE)
    area = tab.locator("#canvas").bounding_box()
    assert area is not None
    with tab.expect_response("**:predict") as waited:
        tab.mouse.move(area["x"] + 0.1 * area["width"], area["y"] + 0.05 * area["height"])
        tab.mouse.down()
        tab.mouse.move(area["x"] + 0.5 * area["width"], area["y"] + 0.5 * area["height"])
        tab.mouse.move(area["x"] + 0.9 * area["width"], area["y"] + 0.95 * area["height"])
        tab.mouse.up()
    expect(tab.get_by_role("radio", name="Boxes")).to_be_checked()
    (person,) = waited.value.json()["results"][0]["people"]
    assert np.abs(np.array(person["bbox"]) - 401 * np.array([0.1, 0.05, 0.8, 0.9])).max() <= 1
    settled(tab)
    box = tab.get_by_role("button", name="Box 1: x 40, y 20, width 321, height 361")
    expect(box).to_be_focused()
    with tab.expect_response("**:predict") as waited:
        box.press("ArrowRight")
        tab.keyboard.press("Shift+ArrowUp")
    (person,) = waited.value.json()["results"][0]["people"]
    assert person["bbox"] == [44, 20, 321, 357]
    with tab.expect_response("**:predict") as waited:
        tab.get_by_role("button", name="Add a box").click()
        tab.get_by_label("x of box 2").fill("5")
        tab.get_by_label("x of box 2").press("Enter")
    assert [person["bbox"][0] for person in waited.value.json()["results"][0]["people"]] == [44, 5]
    settled(tab)
    tab.get_by_role("button", name="Box 1:").press("Delete")
    tab.get_by_role("button", name="Remove box 1").click()
    expect(tab.locator("#status")).to_contain_text("Mark a person")
    expect(tab.get_by_role("button", name="Add a box")).to_be_focused()


def test_mask_has_a_legend_whose_classes_can_be_hidden(tab: Page, tmp_path: Path) -> None:
    result = answered(tab, CAT, model=MASKS)
    shares = {one["label"]: one["share"] for one in result["classes"]}
    names = tab.locator("#results tbody th").all_inner_texts()
    assert names == sorted(shares, key=lambda name: -shares[name])
    assert names[0] == "cat"
    tab.get_by_label("Legend on the picture").uncheck()
    middle = (225.5, 150.5)
    slide(tab.get_by_label("Opacity of the mask"), 1)
    assert pixel(tab, *middle, result) == [60, 200, 60]
    with tab.expect_download() as saving:
        tab.get_by_role("button", name="Download PNG").click()
    saving.value.save_as(tmp_path / "cat.png")
    drawn = cv2.imread(str(tmp_path / "cat.png"))
    assert drawn.shape == (300, 451, 3)
    lengths = result["mask"]["lengths"]
    mask = np.repeat(result["mask"]["class_ids"], lengths).reshape(300, 451)
    assert ((drawn == (60, 200, 60)).all(axis=2) == (mask == 2)).mean() > 0.999
    tab.get_by_role("checkbox", name="cat").uncheck()
    plain = cv2.cvtColor(cv2.imread(str(CAT)), cv2.COLOR_BGR2RGB)[150, 225]
    assert np.abs(np.array(pixel(tab, *middle, result)) - plain).max() < 40  # The screen shows it enlarged


def test_rotated_and_large_pictures_are_shown_upright_and_saved_whole(tab: Page, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned by a quarter clockwise
    Image.open(COFFEE).resize((2600, 1733)).rotate(90, expand=True).save(tmp_path / "turned.jpg", exif=exif)
    result = answered(tab, tmp_path / "turned.jpg")
    assert (result["width"], result["height"]) == (2600, 1733)
    assert result["predictions"][0]["label"] == "cup"
    area = tab.locator("#canvas").bounding_box()
    assert area is not None
    assert area["width"] / area["height"] == pytest.approx(1.5, abs=0.01)
    with tab.expect_download() as saving:
        tab.get_by_role("button", name="Download PNG").click()
    saving.value.save_as(tmp_path / "turned.png")
    assert Image.open(tmp_path / "turned.png").size == (2600, 1733)


def test_picture_that_the_server_turns_otherwise_is_not_drawn_on(tab: Page) -> None:
    result = answered(tab, COFFEE)
    turned = result | {"width": result["height"], "height": result["width"]}
    tab.route("**:predict", lambda route: route.fulfill(json={"model": THINGS, "results": [turned]}))
    tab.set_input_files("#file", COFFEE)
    expect(tab.get_by_role("alert")).to_contain_text("turned otherwise than the server reads it")
    expect(tab.get_by_role("button", name="Download PNG")).to_be_disabled()


def test_pasted_picture(open_tab: Callable[..., Page]) -> None:
    page = open_tab(permissions=["clipboard-read", "clipboard-write"])
    _, png = cv2.imencode(".png", cv2.imread(str(COFFEE)))
    page.evaluate(COPY, base64.b64encode(png.tobytes()).decode())
    page.keyboard.press("Control+V")
    settled(page)
    expect(page.locator("#results tbody tr").first).to_contain_text("cup")


def test_file_that_is_no_picture_is_told_and_the_page_goes_on(tab: Page, tmp_path: Path) -> None:
    (tmp_path / "note.heic").write_bytes(b"no picture at all")
    tab.set_input_files("#file", tmp_path / "note.heic")
    expect(tab.get_by_role("alert")).to_contain_text("The browser cannot show note.heic.")
    answered(tab, COFFEE)
    expect(tab.get_by_role("alert")).to_be_hidden()


def test_camera_picture_is_predicted(open_tab: Callable[..., Page]) -> None:
    page = open_tab(permissions=["camera"])
    page.get_by_role("button", name="Open the camera").click()
    take = page.get_by_role("button", name="Take picture")
    expect(take).to_be_enabled()
    assert breaches(page) == []
    with page.expect_response("**:predict") as waited:
        take.click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert waited.value.json()["results"][0]["file_name"] == "camera.jpg"
    settled(page)
    expect(page.locator("#results tbody tr")).to_have_count(5)


def test_refused_camera_is_told(tab: Page) -> None:
    tab.get_by_role("button", name="Open the camera").click()
    expect(tab.get_by_role("dialog")).to_contain_text("The camera was refused.")
    tab.get_by_role("button", name="Close").click()
    answered(tab, COFFEE)


def test_another_model_ends_the_running_request(tab: Page) -> None:
    held: list[Any] = []
    tab.route("**:predict", lambda route: held.append(route) if not held else route.continue_())
    with tab.expect_request("**:predict"):
        tab.set_input_files("#file", CAT)
    with tab.expect_event("requestfailed") as failed:
        answered(tab, model=MASKS)
    assert THINGS in failed.value.url
    expect(tab.locator("#status")).to_contain_text("cat")


def test_busy_server_is_told_and_asked_again(open_tab: Callable[..., Page]) -> None:
    page = open_tab(expected="429")
    busy = {"status": 429, "headers": {"Retry-After": "2"}, "json": {"detail": "the queue is full"}}
    page.route("**:predict", lambda route: route.fulfill(**busy), times=1)
    page.set_input_files("#file", COFFEE)
    expect(page.get_by_role("alert")).to_contain_text("The server says: the queue is full. Try again in 2 s.")
    page.get_by_role("button", name="Try again").click()
    settled(page)
    expect(page.get_by_role("alert")).to_be_hidden()


def test_token_is_asked_for_and_sent(open_tab: Callable[..., Page]) -> None:
    def guarded(route: Any) -> None:
        if route.request.headers.get("authorization") == "Bearer open sesame":
            route.continue_()
        else:
            route.fulfill(status=401, json={"detail": "send it as Authorization: Bearer TOKEN"})

    page = open_tab(expected="401", before=lambda page: page.route("**/v1/**", guarded))
    expect(page.get_by_label("Token")).to_be_focused()
    expect(page.locator("#status")).to_have_text("This server wants a token.")
    assert breaches(page) == []
    for token, told in (("wrong", "That token is wrong."), ("ключ", "plain letters, digits and signs only.")):
        page.get_by_label("Token").fill(token)
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text(told)
    page.get_by_label("Token").fill(" open sesame ")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Token")).to_be_hidden()
    answered(page, COFFEE)


def test_phone_shows_everything_and_marks_by_touch(open_tab: Callable[..., Page]) -> None:
    page = open_tab(**PHONE)
    answered(page, ASTRONAUT, model=POSE)
    expect(page.locator("#people-hint")).to_contain_text("choose Boxes, then drag on the picture")
    page.get_by_role("radio", name="Boxes").tap()
    page.locator("#canvas").scroll_into_view_if_needed()
    with page.expect_response("**:predict") as waited:
        swipe(page, 0.2, 0.8)
    (person,) = waited.value.json()["results"][0]["people"]
    assert np.abs(np.array(person["bbox"]) - 401 * np.array([0.2, 0.2, 0.6, 0.6])).max() <= 2
    settled(page)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    for control in page.locator("button:visible, select:visible, input:visible, summary:visible").all():
        control.scroll_into_view_if_needed()
        spot = control.bounding_box()
        assert spot is not None
        assert spot["x"] >= 0
        assert spot["x"] + spot["width"] <= 390
    assert breaches(page) == []


def test_keyboard_alone_is_enough(tab: Page) -> None:
    tab.on("filechooser", lambda _: None)  # The browser then hands choosers over from now on, and not some time later
    tab.keyboard.press("Tab")
    expect(tab.get_by_role("link", name="Skip to the results")).to_be_focused()
    tab.keyboard.press("Tab")
    tab.keyboard.press("Tab")
    expect(tab.get_by_role("button", name="Choose a picture")).to_be_focused()
    with tab.expect_file_chooser() as chooser:
        tab.keyboard.press("Enter")
    chooser.value.set_files(COFFEE)
    settled(tab)
    tab.get_by_role("combobox", name="Model").focus()
    tab.keyboard.type(POSE)
    expect(tab.get_by_role("radio", name="Find them")).to_be_checked()
    settled(tab)
    tab.get_by_role("radio", name="Find them").focus()
    with tab.expect_response("**:predict") as waited:
        tab.keyboard.press("ArrowRight")
    (person,) = waited.value.json()["results"][0]["people"]
    assert person["bbox"] == [0, 0, 420, 280]
    tab.get_by_role("button", name="Add a box").focus()
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("button", name="Box 1: x 105, y 28, width 210, height 224")).to_be_focused()
    tab.keyboard.press("ArrowRight")
    expect(tab.get_by_role("button", name="Box 1: x 109,")).to_be_focused()


def test_added_boxes_lie_apart_and_leave_the_picture_as_it_is(tab: Page) -> None:
    answered(tab, COFFEE, model=POSE)
    tab.evaluate("() => { for (let i = 0; i < 30; i++) document.getElementById('add-box').click(); }")
    boxes = tab.locator("#layer .box")
    assert len(set(boxes.evaluate_all("all => all.map((box) => box.getAttribute('aria-label').split(':')[1])"))) == 30
    fills = boxes.evaluate_all("all => all.map((box) => getComputedStyle(box).backgroundColor)")
    assert set(fills[:-1]) == {"rgba(0, 0, 0, 0)"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible_to_axe(open_tab: Callable[..., Page], scheme: str) -> None:
    rules = {} if scheme == "light" else {"rules": ["color-contrast"]}  # All that differs
    page = open_tab(color_scheme=scheme)
    expect(page.locator("#status")).to_have_text("Ready.")
    assert breaches(page, **rules) == []
    answered(page, CAT)
    assert breaches(page, **rules) == []
    answered(page, model=MASKS)
    assert breaches(page, **rules) == []
    page.select_option("#model", POSE)
    page.get_by_role("button", name="Add a box").click()
    page.get_by_text("Person 1").click()
    page.set_input_files("#file", {"name": "note.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    expect(page.get_by_role("alert")).to_be_visible()
    assert breaches(page, **rules) == []
