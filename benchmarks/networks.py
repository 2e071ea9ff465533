"""Networks on a CPU: U-Mamba against its plain twin, in torch, ONNX Runtime and OpenVINO (fp32 and bf16); one
thread.

Seconds are processor time of one forward pass (or training step) on one patch, which a busy machine disturbs
less than the clock does; memory is the growth of the resident set, each network in a process of its own.
python benchmarks/networks.py
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ichnos.networks import build
from ichnos.networks.export import compile_openvino, export_onnx
from run import table

SIX_STAGES: dict[str, Any] = {
    "input_channels": 1,
    "num_classes": 2,
    "features_per_stage": [32, 64, 128, 256, 320, 320],
    "kernel_sizes": [[1, 3, 3], [1, 3, 3], 3, 3, 3, 3],
    "strides": [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]],
}
PATCH = [16, 128, 128]
CASES: dict[str, tuple[str, dict[str, Any], list[int]]] = {
    "plain twin 3-D": ("unet", SIX_STAGES, [1, 1, *PATCH]),
    "U-Mamba Bot 3-D": ("umamba_bot", SIX_STAGES, [1, 1, *PATCH]),
    "U-Mamba Enc 3-D": ("umamba_enc", SIX_STAGES | {"input_size": PATCH}, [1, 1, *PATCH]),
    "diffusion U-KAN, 128 x 128": ("diffusion_ukan", {}, [1, 3, 128, 128]),
    "ViT-B/16": ("vit", {}, [1, 3, 224, 224]),
}


def inputs_of(case: str) -> tuple[torch.Tensor, ...]:
    name, _, shape = CASES[case]
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return (image, torch.tensor([500])) if name == "diffusion_ukan" else (image,)


def timed(run: Callable[[], Any], enough_s: float = 6.0) -> tuple[float, Any]:
    """Best of at most three runs, fewer once they took `enough_s` together; and what the last one
    returned.
    """
    times: list[float] = []
    while len(times) < 3 and sum(times) < enough_s:
        start = time.process_time()
        result = run()
        times.append(time.process_time() - start)
    return min(times), result


def in_torch(case: str) -> dict[str, float]:
    """Seconds and MiB of inference and of a training step; run in a process of its own, so that its peak
    memory is its own.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    name, arguments, _ = CASES[case]
    network, inputs = build(name, **arguments).eval(), inputs_of(case)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with torch.inference_mode():
        infer, _ = timed(lambda: network(*inputs), 12.0)
    middle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    train, _ = timed(lambda: network(*inputs).square().mean().backward(), 0.1)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"infer_s": infer, "infer_mib": middle - before, "train_s": train, "train_mib": after - before}


def isolated(case: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, case],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    result: dict[str, float] = json.loads(done.stdout)
    return result


def in_engines(case: str) -> list[tuple[str, float, float]]:
    """(engine, seconds, largest difference to torch as a share of the output's range)."""
    import onnxruntime
    import openvino

    torch.manual_seed(0)
    name, arguments, _ = CASES[case]
    network, inputs = build(name, **arguments).eval(), inputs_of(case)
    if name == "diffusion_ukan":
        tail: Any = network.tail
        torch.nn.init.normal_(tail[2].weight, std=0.02)  # its last layer starts near zero
    with torch.inference_mode():
        expected = network(*inputs).numpy()
    spread, arrays = float(np.ptp(expected)), [x.numpy() for x in inputs]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        path = export_onnx(network, inputs, Path(folder) / "network.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        feed = {i.name: a for i, a in zip(session.get_inputs(), arrays, strict=True)}
        took, (output, *_) = timed(partial(session.run, None, feed))
        results.append(("ONNX Runtime fp32", took, _worst(output, expected, spread)))
        for precision in ("f32", "bf16"):
            emulated = precision == "bf16" and "BF16" not in openvino.Core().get_property(
                "CPU", "OPTIMIZATION_CAPABILITIES"
            )
            run = partial(compile_openvino(path, precision=precision, threads=1), arrays)
            took, outputs = timed(run, 0.1 if emulated else 6.0)
            engine = f"OpenVINO {precision}" + (" (no such units here: emulated)" if emulated else "")
            results.append((engine, took, _worst(outputs[0], expected, spread)))
    return results


def _worst(output: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], spread: float) -> float:
    return float(np.abs(output - expected).max()) / spread


def main() -> list[dict[str, object]]:
    """Rows: network, engine, seconds, ratio to the plain twin, speed-up over torch, MiB, worst difference
    to torch.
    """
    torch.set_num_threads(1)
    measured = {case: isolated(case) for case in CASES}
    twin = measured[next(iter(CASES))]
    rows: list[dict[str, object]] = []
    for case, own in measured.items():
        comparable = "features_per_stage" in CASES[case][1]
        for engine, kind in (("torch fp32", "infer"), ("torch fp32, training step", "train")):
            row: dict[str, object] = {"name": case, "engine": engine, "seconds": own[f"{kind}_s"]}
            row["x twin's time"] = own[f"{kind}_s"] / twin[f"{kind}_s"] if comparable else None
            row |= {"speed-up over torch": None, "MiB": own[f"{kind}_mib"]}
            row["x twin's memory"] = own[f"{kind}_mib"] / twin[f"{kind}_mib"] if comparable else None
            rows.append(row)
        for engine, took, worst in in_engines(case):
            rows.append(
                {
                    "name": case,
                    "engine": engine,
                    "seconds": took,
                    "speed-up over torch": own["infer_s"] / took,
                    "difference / range": worst,
                }
            )
    return rows


if __name__ == "__main__":
    print(json.dumps(in_torch(sys.argv[1])) if len(sys.argv) > 1 else table(main()))
