#!/usr/bin/env bash
# Make .venv with ichnos, every extra and the development tools, at the pinned versions of constraints.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3.11}
command -v "$python" >/dev/null || { echo "ichnos needs Python 3.11 (looked for $python); name another with: make PYTHON=python3.12 …" >&2; exit 3; }
[ -x .venv/bin/python ] || "$python" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

# PyTorch first and alone: once it is there, nothing below asks the registry for another build of it.
pip install --quiet -c constraints.txt "torch==$(sed -n 's/^torch==//p' constraints.txt)"
pip install --quiet -c constraints.txt -e ".[all,nnunet,dev]"
# nnU-Net declares timm, which drags torchvision and a second torch; it runs without both (docs/install.md).
# shellcheck disable=SC2046
pip install --quiet --no-deps $(grep -E '^(nnunetv2|dynamic[-_]network[-_]architectures)==' constraints.txt)
