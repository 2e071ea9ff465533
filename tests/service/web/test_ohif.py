"""OHIF in Chromium opens a study of the node and draws the segmentation on the CT, the right way round."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ichnos.service.viewer import install_viewer
from ichnos.service.web import views
from service.web.living import (
    PASSWORD,
    Living,
    fetch_package,
    finished_study,
    require_program,
    until,
    write_head,
)

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
PACKAGE = "@ohif/app@3.13.2"
PATIENCE_MS = 240_000
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.timeout(1200),
]


@pytest.fixture
def page(living: Living) -> Iterator[Any]:
    """Open a page of somebody who is signed in, in a Chromium that draws by software."""
    program = require_program("chromium", "chromium")
    living.add_user("olga", "reader")
    with playwright.sync_playwright() as driver:
        words = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        browser = driver.chromium.launch(executable_path=program, args=words, timeout=PATIENCE_MS)
        context = browser.new_context(base_url=living.url, viewport={"width": 1400, "height": 900})
        context.set_default_timeout(PATIENCE_MS)
        opened = context.new_page()
        opened.goto("/sign-in")
        opened.get_by_label("Name").fill("olga")
        opened.get_by_label("Password").fill(PASSWORD)
        opened.get_by_role("button", name="Sign in").click()
        opened.wait_for_url("**/")
        yield opened
        browser.close()


def test_the_segmentation_is_drawn_on_the_ct(living: Living, page: Any, tmp_path: Path) -> None:
    storescu = require_program("storescu", "dcmtk")
    head = write_head(tmp_path / "ct", date="20260103")
    command = [storescu, "127.0.0.1", str(living.receiver.port), "+sd", str(head)]
    subprocess.run(command, check=True, capture_output=True)
    install_viewer(living.node.settings.home, fetch_package(PACKAGE, tmp_path))
    number = finished_study(living)
    with living.node.database.snapshot() as session:
        study = views.details_of(session, number)
    assert study is not None
    page.goto(f"/studies/{number}")
    page.get_by_role("link", name="Open in OHIF").click()
    segmentation = page.locator("[data-cy^='study-browser-thumbnail']", has_text="ichnos segmentation").first
    page.get_by_text("Skip all").click()
    assert tracts(page) == {}  # the CT alone is grey
    segmentation.dblclick()
    page.get_by_role("button", name="Yes").click()
    drawn = until(lambda: tracts(page), PATIENCE_MS / 1000)
    middle = drawn.pop("middle")
    assert drawn["left"] > middle > drawn["right"]  # seen from the feet: the patient's left is at right


def tracts(page: Any) -> dict[str, float]:
    """Return where the green (left) and the purple (right) mask lie from left to right; {} without them."""
    picture = until(lambda: canvas(page), PATIENCE_MS / 1000)
    red, green, blue = np.moveaxis(np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), int), 2, 0)
    masks = {
        "left": (green > red + 25) & (green > blue + 25),
        "right": (red > green + 25) & (blue > green + 25),
    }
    if min(mask.sum() for mask in masks.values()) < 300:
        return {}
    return {name: float(np.nonzero(mask)[1].mean()) for name, mask in masks.items()} | {
        "middle": red.shape[1] / 2
    }


def canvas(page: Any) -> bytes | None:
    """Return a picture of what is drawn; None where OHIF has just replaced the element."""
    try:
        return bytes(page.locator("canvas.cornerstone-canvas").first.screenshot())
    except playwright.Error:
        return None
