"""Load a checkpoint of the original U-Mamba or diffusion U-KAN, run it on this machine's CPU, and save it as
safetensors.

    python docs/examples/load_original_checkpoint.py checkpoint_final.pth -o weights.safetensors

A checkpoint of nnU-Net's or U-Mamba's trainer holds its plans and needs nothing more. For bare weights of a
U-Net, say what they lack:

    python docs/examples/load_original_checkpoint.py weights.pth --arguments '{"strides": [1, 2, 2, 2],
    "input_size": [48, 48]}'
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from ichnos.errors import IchnosError
from ichnos.networks.checkpoints import Checkpoint, load_checkpoint, save_safetensors


def example_inputs(checkpoint: Checkpoint) -> tuple[torch.Tensor, ...]:
    """Make an input of a size that the network takes."""
    arguments = checkpoint.arguments
    if checkpoint.name == "diffusion_ukan":
        return torch.randn(1, arguments["in_channels"], 64, 64), torch.tensor([0])
    size = arguments.get("input_size", [64] * arguments["dim"])
    return (torch.randn(1, arguments["input_channels"], *size),)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("-o", "--output", type=Path, help="where to write the weights as safetensors")
    parser.add_argument("--arguments", type=json.loads, default={}, help="JSON: arguments of the network that the file does not tell")
    asked = parser.parse_args(words)
    try:
        checkpoint = load_checkpoint(asked.checkpoint, arguments=asked.arguments)
    except IchnosError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    inputs, start = example_inputs(checkpoint), time.perf_counter()
    with torch.inference_mode():
        output = checkpoint.network(*inputs)
    first = output[0] if isinstance(output, list) else output
    took = time.perf_counter() - start
    print(f"{checkpoint.name}: {tuple(inputs[0].shape)} -> {tuple(first.shape)} in {took:.2f} s")  # noqa: T201
    if asked.output:
        print(f"written: {save_safetensors(checkpoint, asked.output)}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
