"""The Mamba block (Gu & Dao 2023, figure 3): gated causal convolution and selective scan over a sequence
of tokens.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ichnos.networks.selective_scan import selective_scan


class Mamba(nn.Module):
    """Mix tokens (b, l, d_model) -> (b, l, d_model); parameter names and initial values are those of
    mamba-ssm.

    >>> Mamba(d_model=8)(torch.zeros(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,  # None: a sixteenth of d_model, rounded up
        conv_bias: bool = True,
        bias: bool = False,  # of the projections into and out of the block
    ) -> None:
        super().__init__()
        self.d_model, self.d_state, self.d_conv, self.d_inner = d_model, d_state, d_conv, expand * d_model
        self.dt_rank = math.ceil(d_model / 16) if dt_rank is None else dt_rank
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=bias)
        self.conv1d = nn.Conv1d(
            self.d_inner, self.d_inner, d_conv, groups=self.d_inner, padding=d_conv - 1, bias=conv_bias
        )
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, self.d_inner)
        self.A_log = nn.Parameter(
            torch.log(torch.arange(1, d_state + 1, dtype=torch.float32)).repeat(self.d_inner, 1)
        )
        self.D = nn.Parameter(torch.ones(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias)
        self._init_step()

    def _init_step(self, shortest: float = 1e-3, longest: float = 0.1, floor: float = 1e-4) -> None:
        """Spread the steps dt log-uniformly over [shortest, longest]; the bias is the inverse of softplus."""
        nn.init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        log_dt = torch.rand(self.d_inner) * (math.log(longest) - math.log(shortest)) + math.log(shortest)
        dt = log_dt.exp().clamp(min=floor)
        with torch.no_grad():
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def forward(self, tokens: Tensor) -> Tensor:
        length, columns = tokens.shape[1], tokens.transpose(1, 2)  # b m l
        into_scan, into_gate = self.in_proj.weight.chunk(2)
        bias = self.in_proj.bias
        scan_bias, gate_bias = (None, None) if bias is None else bias.chunk(2)
        # b d l; causal: the padding on the right is cut
        x = F.silu(self.conv1d(_project(into_scan, columns, scan_bias))[..., :length])
        # b r l, b n l, b n l
        dt, B, C = _project(self.x_proj.weight, x).split([self.dt_rank, self.d_state, self.d_state], dim=1)
        delta = _project(self.dt_proj.weight, dt)  # b d l; the bias enters inside the scan
        A = -torch.exp(self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32)))  # d n
        z = _project(into_gate, columns, gate_bias)  # b d l: after the convolution's temporaries have gone
        y = selective_scan(
            x, delta, A, B, C, self.D, z, delta_bias=self.dt_proj.bias, delta_softplus=True
        ).output
        return _project(self.out_proj.weight, y, self.out_proj.bias).transpose(1, 2)  # b m l -> b l m


def _project(weight: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a linear map (o, i) to the columns of x (b, i, l), giving (b, o, l) contiguous, which
    convolution and scan want.
    """
    out = torch.bmm(weight.expand(x.shape[0], -1, -1), x)
    return out if bias is None else out + bias[:, None]
