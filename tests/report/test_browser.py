"""The report in a headless browser: the viewer draws, its toggles change the picture, and nothing is asked
of any network.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from builders.readable_head import reading
from ichnos.report.page import reading_page
from ichnos.report.pdf import write_pdf

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=900,900",
    "--virtual-time-budget=20000",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
PROBE = """
<script>
const violations = [];
document.addEventListener("securitypolicyviolation", event => violations.push(event.blockedURI));
const wait = setInterval(() => {
  if (!document.body.dataset.viewer) return;
  clearInterval(wait);
  const nv = window.ichnosViewer, told = { viewer: document.body.dataset.viewer, toggles: {} };
  const picture = () => {
    nv.drawScene();
    const gl = nv.gl, pixels = new Uint8Array(4 * gl.drawingBufferWidth * gl.drawingBufferHeight);
    gl.readPixels(0, 0, gl.drawingBufferWidth, gl.drawingBufferHeight, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
    return pixels;
  };
  const different = (a, b) => {
    let n = 0;
    for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) n++;
    return n;
  };
  if (nv) {
    const before = picture();
    told.levels = new Set(before).size;
    told.bright = before.filter(value => value > 60 && value < 250).length;
    for (const box of document.querySelectorAll("[data-mask]")) {
      box.click();
      const off = different(before, picture());
      box.click();
      told.toggles[box.dataset.mask] = [off, different(before, picture())];
    }
    const choice = document.getElementById("window");
    choice.value = "40 90"; choice.dispatchEvent(new Event("change"));
    told.window = different(before, picture());
  }
  told.asked = performance.getEntriesByType("resource").map(entry => entry.name.slice(0, 40))
    .filter(name => !/^(data|blob):/.test(name));
  told.violations = violations;
  document.body.dataset.told = JSON.stringify(told);
}, 50);
</script>
"""


@pytest.fixture(scope="module")
def page() -> str:
    return reading_page(reading())


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_the_viewer_draws_its_toggles_work_and_nothing_is_asked_of_the_network(
    page: str, tmp_path: Path
) -> None:
    file = tmp_path / "report.html"
    before, end, after = page.rpartition("</body>")  # the last one: the viewer's code holds the word too
    file.write_text(before + PROBE + end + after, encoding="utf-8")
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    found = re.search(r'data-told="([^"]*)"', done.stdout)
    assert found is not None, done.stderr[-2000:]
    told = json.loads(found[1].replace("&quot;", '"'))
    assert told["viewer"] == "ready"
    assert told["levels"] > 20, "a blank canvas has one level"
    assert told["bright"] > 5000
    assert set(told["toggles"]) >= {"ICH", "PHE", "tract_left", "tract_right"}
    for name, (off, again) in told["toggles"].items():
        assert again == 0, f"{name} did not come back"
        if name in ("ICH", "PHE", "tract_left"):  # these cross the planes that are shown first
            assert off > 50, f"switching {name} off changed nothing"
    assert told["window"] > 1000
    assert told["asked"] == []
    assert told["violations"] == []


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_the_report_prints_to_the_same_pdf_twice(page: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    one, two = write_pdf(file, tmp_path / "one.pdf"), write_pdf(file, tmp_path / "two.pdf")
    assert one.read_bytes()[:5] == b"%PDF-"
    assert one.stat().st_size > 20_000
    assert one.read_bytes() == two.read_bytes()
