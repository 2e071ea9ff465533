#!/usr/bin/env bash
# Make .venv with ichnos at the pinned versions of constraints.txt.
#   tools/setup_venv.sh demo   what `make demo` needs: simulation, reading, report
#   tools/setup_venv.sh        every extra, nnU-Net and the development tools
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:-dev}
python=${PYTHON:-python3.11}
command -v "$python" >/dev/null || { echo "ichnos needs Python 3.11 (looked for $python); name another with: make PYTHON=python3.12 …" >&2; exit 3; }
[ -x .venv/bin/python ] || "$python" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
step() { echo "set-up: $*"; }

# PyTorch first and alone: once it is there, nothing below asks the registry for another build of it.
step "PyTorch (the largest download)"
pip install --quiet -c constraints.txt "torch==$(sed -n 's/^torch==//p' constraints.txt)"
if [ "$kind" = demo ]; then
  step "ichnos with what simulates, reads and reports"
  pip install --quiet -c constraints.txt -e ".[simulation,acceleration,report]"
else
  step "ichnos with every extra and the development tools"
  pip install --quiet -c constraints.txt -e ".[all,nnunet,dev]"
  step "nnU-Net, without the second PyTorch that its package asks for (docs/install.md)"
  # shellcheck disable=SC2046
  pip install --quiet --no-deps $(grep -E '^(nnunetv2|dynamic[-_]network[-_]architectures)==' constraints.txt)
fi
step "done: $(du -sh .venv | cut -f1) in .venv, $SECONDS s"
