"""Kolmogorov-Arnold layer (Liu 2024, arXiv 2404.19756): a learnable cubic spline on every edge, in the form
that U-KAN uses.

    out_o = sum_i  base_weight[o, i] swish(x_i)  +  sum_i sum_k  spline_scaler[o, i] spline_weight[o, i, k]
    B_k(x_i)

B_k are B-splines of order 3 on a uniform grid over [-1, 1], extended by three knots on either side; outside
of these they are zero.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ichnos.errors import InputRefused


class KANLinear(nn.Module):
    """Map (..., in_features) -> (..., out_features) by one spline and one scaled swish per edge.

    >>> KANLinear(3, 2)(torch.zeros(5, 4, 3)).shape
    torch.Size([5, 4, 2])
    """

    grid: Tensor  # (i, knots)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        grid_size: int = 5,
        spline_order: int = 3,
        grid_range: tuple[float, float] = (-1.0, 1.0),
        noise: float = 0.1,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.grid_size, self.spline_order = (
            in_features,
            out_features,
            grid_size,
            spline_order,
        )
        step = (grid_range[1] - grid_range[0]) / grid_size
        knots = torch.arange(-spline_order, grid_size + spline_order + 1) * step + grid_range[0]
        self.base_weight = nn.Parameter(torch.empty(out_features, in_features))
        self.spline_weight = nn.Parameter(torch.empty(out_features, in_features, grid_size + spline_order))
        self.spline_scaler = nn.Parameter(torch.empty(out_features, in_features))
        self.register_buffer("grid", knots.expand(in_features, -1).contiguous())
        self._init(noise)

    @torch.no_grad()
    def _init(self, noise: float) -> None:
        nn.init.kaiming_uniform_(self.base_weight, a=math.sqrt(5))
        nn.init.kaiming_uniform_(self.spline_scaler, a=math.sqrt(5))
        inner = self.grid.t()[self.spline_order : -self.spline_order]  # grid_size + 1 knots, i
        values = (
            (torch.rand(self.grid_size + 1, self.in_features, self.out_features) - 0.5)
            * noise
            / self.grid_size
        )
        self.spline_weight.copy_(self.fit(inner, values))

    def bases(self, x: Tensor) -> Tensor:
        """Evaluate all B-splines at x (p, i) -> (p, i, k), by the Cox-de Boor recursion over half-open
        intervals.
        """
        x, grid = x.unsqueeze(-1), self.grid  # p i 1, i knots
        b = ((x >= grid[:, :-1]) & (x < grid[:, 1:])).to(x.dtype)
        for order in range(1, self.spline_order + 1):
            left = (x - grid[:, : -(order + 1)]) / (grid[:, order:-1] - grid[:, : -(order + 1)])
            right = (grid[:, order + 1 :] - x) / (grid[:, order + 1 :] - grid[:, 1:-order])
            b = left * b[..., :-1] + right * b[..., 1:]
        return b

    def fit(self, x: Tensor, values: Tensor) -> Tensor:
        """Find spline coefficients (o, i, k) that pass closest to values (p, i, o) at x (p, i), in the
        sense of least squares.
        """
        # i k o
        solution: Tensor = torch.linalg.lstsq(self.bases(x).transpose(0, 1), values.transpose(0, 1)).solution
        return solution.permute(2, 0, 1).contiguous()

    def scaled_spline_weight(self) -> Tensor:
        return self.spline_weight * self.spline_scaler.unsqueeze(-1)  # o i k

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        spline = F.linear(self.bases(rows).flatten(1), self.scaled_spline_weight().flatten(1))
        out = F.linear(F.silu(rows), self.base_weight) + spline
        return out.reshape(*x.shape[:-1], self.out_features)

    @torch.no_grad()
    def update_grid(
        self, x: Tensor, *, margin: float = 0.01, uniform: float = 0.02, keep_function: bool = False
    ) -> None:
        """Move the knots to where the inputs x (p, i) lie, mixing a `uniform` share with the quantiles, and
        refit the splines.

        As published, the refitted coefficients already contain `spline_scaler`, which the forward pass then
        applies once more: the function changes. With `keep_function` the scaler is set to one, so that it
        does not.
        """
        if x.dim() != 2 or x.shape[1] != self.in_features or x.shape[0] <= self.grid_size:
            raise InputRefused(
                f"x has shape {tuple(x.shape)}; a grid update takes (points, {self.in_features}), more than"
                f" {self.grid_size} points"
            )
        values = torch.einsum("pik,oik->pio", self.bases(x), self.scaled_spline_weight())
        self.grid.copy_(self._knots(x.sort(dim=0).values, margin, uniform).t())
        self.spline_weight.copy_(self.fit(x, values))
        if keep_function:
            self.spline_scaler.fill_(1.0)

    def _knots(self, ordered: Tensor, margin: float, uniform: float) -> Tensor:
        """Return knots (k, i) for inputs in order (p, i): partly evenly spread, partly at their quantiles."""
        intervals, device = self.grid_size, ordered.device
        step = (ordered[-1] - ordered[0] + 2 * margin) / intervals  # i
        count = torch.arange(intervals + 1, dtype=ordered.dtype, device=device)[:, None]
        even = count * step + ordered[0] - margin
        places = torch.linspace(0, len(ordered) - 1, intervals + 1, dtype=torch.int64, device=device)
        inner = uniform * even + (1 - uniform) * ordered[places]
        beyond = torch.arange(1, self.spline_order + 1, dtype=ordered.dtype, device=device)[:, None] * step
        return torch.cat([inner[:1] - beyond.flip(0), inner, inner[-1:] + beyond])

    def regularization(self, *, activation: float = 1.0, entropy: float = 1.0) -> Tensor:
        """Sum of mean |coefficient| per edge, plus the entropy of how it is spread over the edges: few
        edges should carry the function.
        """
        magnitude = self.spline_weight.abs().mean(-1)
        total = magnitude.sum()
        share = magnitude / total
        return activation * total - entropy * torch.sum(share * share.log())
