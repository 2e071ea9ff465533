"""The pages in a real browser (Chromium): a working day of a reader, and no fault that axe-core finds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ichnos.service.store.tables import PairRow
from service.web.living import (
    PASSWORD,
    Living,
    fetch_package,
    finished_study,
    require_program,
    until,
    write_head,
)
from service.web.visits import add_judgements

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
AXE = "axe-core@4.14.1"
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
WIDTHS = (1400, 768, 400)
pytestmark = [
    # pynetdicom's sockets of the sender's associations are closed by the collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Start the system's Chromium, without a window."""
    program = require_program("chromium", "chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu"], timeout=120_000
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Fetch axe-core from npm; return its script."""
    folder = tmp_path_factory.mktemp("axe")
    shutil.unpack_archive(fetch_package(AXE, folder), folder)
    return (folder / "package" / "axe.min.js").read_text(encoding="utf-8")


class Tab:
    """A page of the browser that notes what the console complains of."""

    def __init__(self, chromium: Any, url: str, **context: Any) -> None:
        self.context = chromium.new_context(base_url=url, **context)
        self.context.set_default_timeout(120_000)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _note(self, message: Any) -> None:
        # The report frame is another document in its own sandbox.
        if message.type == "error" and "/report" not in str(message.location):
            self.complaints.append(message.text)

    def sign_in(self, name: str) -> None:
        """Fill in the form as a person does."""
        self.page.goto("/sign-in")
        self.page.get_by_label("Name").fill(name)
        self.page.get_by_label("Password").fill(PASSWORD)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_url("**/")


@pytest.fixture(scope="module")
def read_study(living: Living, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the study that the day brings."""
    living.add_user("ann", "researcher")
    living.add_user("chief", "admin")
    return write_head(tmp_path_factory.mktemp("day") / "ct", date="20260102")


def test_a_working_day(living: Living, chromium: Any, read_study: Path) -> None:
    """Sign in, receive, watch live, open, acknowledge, read again, send again; never reload a page."""
    storescu = require_program("storescu", "dcmtk")
    tab = Tab(chromium, living.url, viewport={"width": 1400, "height": 900})
    page = tab.page
    tab.sign_in("ann")
    page.get_by_text("Live: new studies appear by themselves.").wait_for()
    before = page.locator("tbody tr").count()
    command = [storescu, "127.0.0.1", str(living.receiver.port), "+sd", str(read_study)]
    subprocess.run(command, check=True, capture_output=True)
    page.wait_for_function(f"document.querySelectorAll('tbody tr').length > {before}")
    row = page.locator("tbody tr", has=page.locator(".flag")).filter(has_text="Doe Jane").first
    row.get_by_text("ready").wait_for()
    assert "ICH" in row.inner_text()

    page.keyboard.press("/")
    page.keyboard.type("nobody of this name")
    assert page.locator("tbody tr:visible").count() == 0
    page.locator("#find").fill("doe")
    page.keyboard.press("Escape")
    href = row.get_by_role("link").get_attribute("href")
    while page.evaluate("document.activeElement.getAttribute('href')") != href:
        page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{href}")
    report = page.frame_locator("iframe.report")
    report.get_by_role("heading").first.wait_for()

    page.keyboard.press("a")
    page.get_by_text("acknowledged by ann").wait_for()
    page.get_by_role("button", name="Read again").click()
    again = page.locator(".timeline li", has_text="asked for")
    again.wait_for()
    page.locator(".timeline li", has_text="ready").nth(1).wait_for()
    sent = len(living.taken)
    page.get_by_role("button", name="Send to PACS").click()
    page.locator(".timeline li", has_text="to send").nth(2).wait_for()
    until(lambda: len(living.taken) > sent, 120)
    page.locator("td", has_text="sent").first.wait_for()
    page.keyboard.press("u")
    page.wait_for_url("**/")
    assert page.locator(f'a[href="{href}"]').count() == 1

    page.get_by_role("link", name="Exports").click()
    page.get_by_label("Numbers of studies").fill(str(href).rsplit("/", 1)[-1])
    page.get_by_label("Centre").fill("north")
    page.get_by_role("button", name="Export").click()
    page.get_by_role("status").get_by_text("1 patient with 1 exam").wait_for()
    keep_picture(page, "/export-done 1400 light")
    (cohort,) = (living.node.settings.home / "exports").iterdir()
    assert "north" in (cohort / "participants.tsv").read_text(encoding="utf-8")
    assert tab.complaints == []
    tab.context.close()


@pytest.fixture(scope="module")
def judged_study(living: Living, read_study: Path) -> int:
    """Have a study read, and partner exams that judged it; return its number."""
    storescu = require_program("storescu", "dcmtk")
    command = [storescu, "127.0.0.1", str(living.receiver.port), "+sd", str(read_study)]
    subprocess.run(command, check=True, capture_output=True)  # again, if the day was before: no new study
    number = finished_study(living)
    with living.node.database.transaction() as session:
        pair = PairRow(ct_study_id=number, partner_study_id=number, found_at=0.0, state="judged")
        session.add(pair)
        session.flush()
    add_judgements(living.node, pair_id=pair.id)
    return number


def pages_of(number: int) -> list[str]:
    study = f"/studies/{number}"
    others = "exports destinations models models/multi retention users tokens evidence"
    return ["/", study, f"{study}/report", *(f"/{name}" for name in others.split())]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation_and_nothing_is_wider_than_the_screen(
    living: Living, chromium: Any, axe: str, judged_study: int, scheme: str
) -> None:
    tab = Tab(chromium, living.url, color_scheme=scheme, bypass_csp=True)
    page, found = tab.page, {}
    for path in ("/sign-in", *pages_of(judged_study)):
        if path == "/":
            tab.sign_in("chief")
        page.goto(path)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)
            if width != 768:
                found |= violations(page, axe, f"{path} {width} {scheme}")
            keep_picture(page, f"{path} {width} {scheme}")
    tab.context.close()
    assert found == {}, json.dumps(found, indent=1)


def violations(page: Any, axe: str, name: str) -> dict[str, list[str]]:
    """Run axe-core on the page; the report in its frame is judged where reports are."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(axe)
    asked = {"exclude": [["iframe"]]}, {"runOnly": WCAG, "resultTypes": ["violations"]}
    result = page.evaluate("([context, options]) => axe.run(context, options)", list(asked))
    told = [
        f"{v['id']}: {node['target']} {node['failureSummary']}"
        for v in result["violations"]
        for node in v["nodes"]
    ]
    return {name: told} if told else {}


def keep_picture(page: Any, name: str) -> None:
    """Keep a screenshot where the variable ICHNOS_PICTURES names a folder, for a person to look at."""
    if folder := os.environ.get("ICHNOS_PICTURES"):
        file = Path(folder) / f"{name.strip('/').replace('/', '_').replace(' ', '-') or 'worklist'}.png"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            page.screenshot(path=str(file), full_page=True)
