"""The real server in a process of its own, an installed Chromium, and what tests of the page ask of both."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

for package in ("fastapi", "fastapi_offline", "uvicorn"):
    pytest.importorskip(package, reason=f"needs the package {package}, from the extra 'serve'")
playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the package axe-playwright-python")
expect = playwright.expect

REPOSITORY = Path(__file__).resolve().parents[1]
PICTURES = REPOSITORY / "src" / "hrformer" / "export" / "pictures"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ANSWER_MS = 60_000  # Until an answer must be there, also on a machine with other work
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]

# Makes a file of base64 text and hands it to the page as a drop does.
DROP = """([name, type, text]) => {
  const transfer = new DataTransfer();
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  transfer.items.add(new File([bytes], name, { type }));
  for (const kind of ["dragenter", "dragover", "drop"])
    document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""

# Puts a picture into the real clipboard, from where Ctrl+V takes it.
COPY = """async (text) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  await navigator.clipboard.write([new ClipboardItem({ "image/png": new Blob([bytes], { type: "image/png" }) })]);
}"""

# [red, green, blue] of the canvas at a place of the picture, given in its pixels.
PIXEL = """([x, y, width, height]) => {
  const canvas = document.getElementById("canvas");
  const place = [Math.floor((x * canvas.width) / width), Math.floor((y * canvas.height) / height)];
  const copy = new OffscreenCanvas(1, 1).getContext("2d");
  copy.drawImage(canvas, ...place, 1, 1, 0, 0, 1, 1);
  return [...copy.getImageData(0, 0, 1, 1).data].slice(0, 3);
}"""


def find_browser() -> str | None:
    """Path of an installed Chromium or Chrome; None without one."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


@contextmanager
def chromium(executable: str) -> Iterator[Browser]:
    """A browser without windows whose camera is Chromium's test picture."""
    arguments = ["--no-sandbox", "--use-fake-device-for-media-stream"]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=executable, args=arguments)
        yield browser
        browser.close()


def watch(page: Page) -> list[str]:
    """A list that fills with the page's errors and warnings."""
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda line: troubles.append(line.text) if line.type in ("error", "warning") else None)
    return troubles


def drop(page: Page, file: Path, kind: str = "image/jpeg") -> None:
    page.evaluate(DROP, [file.name, kind, base64.b64encode(file.read_bytes()).decode()])


def answered(page: Page, file: Path | None = None, *, model: str | None = None) -> dict[str, Any]:
    """The server's result after a model and a file have been chosen, once the page shows it."""
    with page.expect_response("**:predict", timeout=ANSWER_MS) as waited:
        if model:
            page.select_option("#model", model)
        if file:
            page.set_input_files("#file", file)
    result: dict[str, Any] = waited.value.json()["results"][0]
    settled(page)
    return result


def settled(page: Page) -> None:
    """Wait until the status line says how long an answer took."""
    expect(page.locator("#status")).to_have_text(re.compile(r"\d s$"), timeout=ANSWER_MS)


def pixel(page: Page, x: float, y: float, size: dict[str, Any]) -> list[int]:
    """RGB where a place of the picture is drawn; ``size`` has the picture's ``width`` and ``height``."""
    colour: list[int] = page.evaluate(PIXEL, [x, y, size["width"], size["height"]])
    return colour


def slide(slider: Locator, value: float) -> None:
    slider.fill(f"{value:.2f}")


def swipe(page: Page, start: float, end: float) -> None:
    """Move a finger over the picture, between two parts of its width and height, and lift it."""
    area = page.locator("#canvas").bounding_box()
    assert area is not None
    touch = page.context.new_cdp_session(page)
    for kind, part in (("touchStart", start), ("touchMove", (start + end) / 2), ("touchMove", end)):
        spot = {"x": area["x"] + part * area["width"], "y": area["y"] + part * area["height"]}
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [spot]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def breaches(page: Page, rules: list[str] = RULES) -> list[str]:
    """What axe-core finds wrong with the page as it stands."""
    found = axe.Axe().run(page, options={"runOnly": rules, "resultTypes": ["violations"]}).response["violations"]
    return [f"{one['id']}: {node['target']} {node['failureSummary']}" for one in found for node in one["nodes"]]
