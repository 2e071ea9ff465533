"""OHIF, if the admin has installed it: a viewer that opens CT, SEG and SR from the node's DICOMweb.

Its build comes from the npm package `@ohif/app`; `ichnos serve ohif PACKAGE` puts it below the node's home.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from ichnos.errors import InputRefused

VIEWER_BASE = "/ohif"
_PUBLIC_PATH = '__webpack_require__.p = "/"'
_INLINE = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def viewer_folder(home: Path) -> Path | None:
    """Return the folder of the installed viewer; None where there is none."""
    folder = home / "ohif"
    return folder if (folder / "index.html").is_file() else None


def install_viewer(home: Path, package: Path) -> Path:
    """Install OHIF from its npm package, a tarball or an unpacked folder; return its folder."""
    with tempfile.TemporaryDirectory(dir=home, prefix="ohif-") as scratch:
        build = _build_in(_unpacked(package, Path(scratch) / "package"), package)
        new = Path(scratch) / "new"
        shutil.copytree(build, new, ignore=shutil.ignore_patterns("*.map", "*.LICENSE.txt.gz"))
        _move_to_base(new)
        (new / "app-config.js").write_text(f"window.config = {json.dumps(_settings(), indent=2)};\n")
        target, old = home / "ohif", Path(scratch) / "old"
        if target.exists():
            os.replace(target, old)
        os.replace(new, target)
    return target


def _unpacked(package: Path, folder: Path) -> Path:
    if package.is_dir():
        return package
    try:
        with tarfile.open(package) as archive:
            archive.extractall(folder, filter="data")
    except (OSError, tarfile.TarError):
        raise InputRefused(
            f"{package} is no npm package; fetch one with `npm pack @ohif/app` and give its .tgz"
        ) from None
    return folder


def _build_in(folder: Path, package: Path) -> Path:
    for build in (folder, folder / "dist", folder / "package" / "dist"):
        if (build / "index.html").is_file() and any(build.glob("app.bundle.*.js")):
            return build
    raise InputRefused(f"{package} holds no build of OHIF (index.html and app.bundle.*.js in dist)")


def _move_to_base(folder: Path) -> None:
    """Let the start page look for its files below VIEWER_BASE; scripts in the page become files."""
    page = (folder / "index.html").read_text(encoding="utf-8")
    page = re.sub(r'(href|src)="/(?!/)', rf'\1="{VIEWER_BASE}/', page)
    page = page.replace('PUBLIC_URL="/"', f'PUBLIC_URL="{VIEWER_BASE}/"')
    for number, script in enumerate(_INLINE.findall(page), start=1):
        name = f"start-{number}.js"
        (folder / name).write_text(script, encoding="utf-8")
        page = page.replace(f"<script>{script}</script>", f'<script src="{VIEWER_BASE}/{name}"></script>', 1)
    (folder / "index.html").write_text(page, encoding="utf-8")
    for sheet in folder.glob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        sheet.write_text(re.sub(r"url\(/(?!/)", f"url({VIEWER_BASE}/", text), encoding="utf-8")
    for bundle in folder.glob("*.bundle.*.js"):  # each says where the others are
        text = bundle.read_text(encoding="utf-8")
        if _PUBLIC_PATH in text:
            moved = text.replace(_PUBLIC_PATH, f'{_PUBLIC_PATH[:-1]}{VIEWER_BASE[1:]}/"')
            bundle.write_text(moved, encoding="utf-8")


def _settings() -> dict[str, Any]:
    """Return OHIF's settings: one source of images, this node."""
    source = {
        "friendlyName": "ichnos node",
        "name": "node",
        "qidoRoot": "/dicom-web",
        "wadoRoot": "/dicom-web",
        "wadoUriRoot": "/dicom-web",
        "qidoSupportsIncludeField": False,
        "supportsReject": False,
        "supportsFuzzyMatching": False,
        "supportsWildcard": False,
        "imageRendering": "wadors",
        "thumbnailRendering": "wadors",
        "enableStudyLazyLoad": True,
        "omitQuotationForMultipartRequest": True,
        "bulkDataURI": {"enabled": False},
    }
    return {
        "name": "ichnos",
        "routerBasename": VIEWER_BASE,
        "extensions": [],
        "modes": [],
        "customizationService": {},
        "showStudyList": True,
        "maxNumberOfWebWorkers": 2,
        "showCPUFallbackMessage": True,
        "showLoadingIndicator": True,
        "strictZSpacingForVolumeViewport": True,
        "investigationalUseDialog": {"option": "always"},
        "defaultDataSourceName": "node",
        "dataSources": [
            {
                "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
                "sourceName": "node",
                "configuration": source,
            }
        ],
    }
