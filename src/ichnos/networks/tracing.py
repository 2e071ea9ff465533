"""Whether torch is recording a network rather than running it; checks that look at numbers are left out
then.
"""

from __future__ import annotations

import torch


def exporting() -> bool:
    """Say whether `torch.export` is recording."""
    return torch.compiler.is_exporting()


def tracing() -> bool:
    """Say whether `torch.jit.trace` is recording, as OpenVINO's converter uses it."""
    return torch._C._get_tracing_state() is not None
