"""The Mamba block takes every option of the original, and each is what its equations say."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ichnos.networks.mamba import Mamba
from ichnos.networks.selective_scan import sequential_scan


def plainly(block: Mamba, tokens: Tensor) -> Tensor:
    """The block written out with linear layers and the sequential scan."""
    x, z = block.in_proj(tokens).transpose(1, 2).chunk(2, dim=1)
    x = F.silu(block.conv1d(x)[..., : tokens.shape[1]])
    parts = [block.dt_rank, block.d_state, block.d_state]
    dt, b, c = block.x_proj(x.transpose(1, 2)).transpose(1, 2).split(parts, dim=1)
    delta = (dt.transpose(1, 2) @ block.dt_proj.weight.t()).transpose(1, 2)
    a = -torch.exp(block.A_log)
    y = sequential_scan(
        x, delta, a, b, c, block.D, z, delta_bias=block.dt_proj.bias, delta_softplus=True
    ).output
    return block.out_proj(y.transpose(1, 2))


@pytest.mark.parametrize("dt_rank", [None, 1, 3])
@pytest.mark.parametrize("conv_bias", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_every_option_is_what_the_equations_say(dt_rank: int | None, conv_bias: bool, bias: bool) -> None:
    torch.manual_seed(0)
    block = Mamba(8, d_state=4, dt_rank=dt_rank, conv_bias=conv_bias, bias=bias).double()
    tokens = torch.randn(2, 11, 8, dtype=torch.float64)
    assert torch.allclose(block(tokens), plainly(block, tokens), atol=1e-10)
    assert (block.in_proj.bias is not None) == bias
    assert (block.conv1d.bias is not None) == conv_bias
    assert block.dt_proj.weight.shape[1] == (1 if dt_rank is None else dt_rank)


def test_later_tokens_do_not_reach_earlier_ones() -> None:
    torch.manual_seed(0)
    block = Mamba(8, bias=True)
    tokens = torch.randn(1, 10, 8)
    changed = tokens.clone()
    changed[:, 6:] += 1
    assert torch.allclose(block(tokens)[:, :6], block(changed)[:, :6], atol=1e-5)
    assert not torch.allclose(block(tokens)[:, 6:], block(changed)[:, 6:], atol=1e-3)
