"""OHIF below the node: installed from its package, served with its own policy, and only its own files."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ichnos.errors import InputRefused
from ichnos.service.node import Node
from ichnos.service.viewer import install_viewer, viewer_folder
from service.web.visits import a_node, add_study, signed_in

START = """<html><head><script>window.PUBLIC_URL="/"</script><link href="/assets/a.ico">
<script defer src="/app.bundle.1.js"></script></head></html>"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    opened = a_node(tmp_path / "node")
    yield opened
    opened.database.close()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    build = tmp_path / "package" / "dist"
    build.mkdir(parents=True)
    (build / "index.html").write_text(START)
    (build / "app.bundle.1.js").write_text('__webpack_require__.p = "/";')
    (build / "app.css").write_text("a{src:url(/b.woff2)} c{src:url(data:x)} d{src:url(//e)}")
    (build / "app.bundle.1.js.map").write_text("{}")
    (build / "app-config.js").write_text("window.config = {dataSources: ['elsewhere']}")
    packed = tmp_path / "ohif-app.tgz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(build.parent, "package")
    return packed


def test_the_package_is_installed_below_its_path_and_asks_this_node_alone(node: Node, package: Path) -> None:
    assert viewer_folder(node.settings.home) is None
    folder = install_viewer(node.settings.home, package)
    assert viewer_folder(node.settings.home) == folder
    start = (folder / "index.html").read_text()
    assert "<script>" not in start
    assert 'src="/ohif/app.bundle.1.js"' in start
    assert 'href="/ohif/assets/a.ico"' in start
    assert (folder / "start-1.js").read_text() == 'window.PUBLIC_URL="/ohif/"'
    assert (folder / "app.bundle.1.js").read_text() == '__webpack_require__.p = "/ohif/";'
    assert (folder / "app.css").read_text() == "a{src:url(/ohif/b.woff2)} c{src:url(data:x)} d{src:url(//e)}"
    assert not list(folder.glob("*.map"))
    settings = json.loads(
        (folder / "app-config.js").read_text().removeprefix("window.config = ").rstrip(";\n")
    )
    assert settings["routerBasename"] == "/ohif"
    (source,) = settings["dataSources"]
    assert {source["configuration"][key] for key in ("qidoRoot", "wadoRoot", "wadoUriRoot")} == {"/dicom-web"}
    (folder / "old").touch()
    install_viewer(node.settings.home, package.parent / "package")  # again, from an unpacked folder
    assert not (folder / "old").exists()
    assert not list(node.settings.home.glob("ohif-*"))


def test_it_is_served_to_people_who_are_signed_in_with_a_policy_of_its_own(node: Node, package: Path) -> None:
    ann = signed_in(node, "reader")
    study = add_study(node, "1.2.840.5")
    assert ann.get("/ohif/viewer").status_code == 404
    assert "OHIF" not in ann.get(f"/studies/{study}").text
    install_viewer(node.settings.home, package)
    assert "/ohif/viewer?StudyInstanceUIDs=1.2.840.5" in ann.get(f"/studies/{study}").text
    page = ann.get("/ohif/viewer?StudyInstanceUIDs=1.2.840.5")
    assert page.text.startswith("<html>")
    assert "'wasm-unsafe-eval'" in page.headers["content-security-policy"]
    assert "wasm" not in ann.get("/").headers["content-security-policy"]
    assert "max-age" in ann.get("/ohif/app.bundle.1.js").headers["cache-control"]
    for path in ("missing.js", "..%2Fnode.db", "%2e%2e/node.db"):
        assert ann.get(f"/ohif/{path}").status_code == 404
    ann.cookies.clear()
    assert ann.get("/ohif/app.bundle.1.js").headers["location"] == "/sign-in"


@pytest.mark.parametrize("kind", ["text", "empty folder", "missing"])
def test_what_is_no_package_is_refused(node: Node, tmp_path: Path, kind: str) -> None:
    given = tmp_path / "given"
    if kind == "text":
        given.write_text("hello")
    elif kind == "empty folder":
        given.mkdir()
    with pytest.raises(InputRefused, match=r"no build of OHIF|no npm package"):
        install_viewer(node.settings.home, given)
    assert viewer_folder(node.settings.home) is None
