"""What runs in a process of its own, with nnU-Net's environment: plan and preprocess, or train.

`python -m ichnos.learning.nnunet.child JOB`. nnU-Net reads its folders from environment variables and prints
much; both stay in the child.
"""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from ichnos.learning.nnunet.pickles import check_pickle
from ichnos.networks import nnunet as adapter
from ichnos.networks.checkpoints import read_plain

_LEAST_AT_BOTTOM = 4  # voxels along an axis, nnU-Net's own rule


def _plan(job: dict[str, Any]) -> None:
    """Take the dataset's fingerprint, plan, choose the network, preprocess."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess,
    )

    number, configuration = job["number"], job["configuration"]
    extract_fingerprints([number], num_processes=1, check_dataset_integrity=True)
    identifier = plan_experiments([number], job["planner"], gpu_memory_target_in_gb=job["memory_gb"])
    folder = Path(job["preprocessed"])
    plans = _as_asked(json.loads((folder / f"{identifier}.json").read_text()), job)
    for name in ("plans", identifier):
        (folder / f"{name}.json").write_text(json.dumps(plans, indent=2))
    preprocess([number], identifier, [configuration], num_processes=[1])
    if job["splits"]:
        shutil.copy(job["splits"], folder / "splits_final.json")


def _as_asked(plans: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    """Return nnU-Net's plans with the patch, voxel size, width, network and batch that the job asks for."""
    configuration = job["configuration"]
    if configuration not in plans["configurations"]:
        raise SystemExit(
            f"nnU-Net planned no {configuration} for this cohort; it planned"
            f" {', '.join(plans['configurations'])}"
        )
    if job["patch_size"] or job["spacing_mm"]:
        _fit(plans, configuration, job["patch_size"], job["spacing_mm"])
    if job["width"]:
        _narrow(plans, job["width"])
    if job["network"] in adapter.NETWORKS:
        plans = adapter.with_network(plans, job["network"])
    if job["batch_size"]:
        plans["configurations"][configuration]["batch_size"] = job["batch_size"]
    return plans


def _fit(
    plans: dict[str, Any], configuration: str, patch: list[int] | None, spacing_zyx_mm: list[float] | None
) -> None:
    """Give a configuration another patch or voxel size, and the topology that nnU-Net itself derives from
    them.
    """
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

    chosen = plans["configurations"][configuration]
    if spacing_zyx_mm:
        turned = [spacing_zyx_mm[axis] for axis in plans["transpose_forward"]]
        chosen["spacing"] = turned[-len(chosen["spacing"]) :]
    _, strides, kernels, fitted, _ = get_pool_and_conv_props(
        chosen["spacing"], patch or chosen["patch_size"], _LEAST_AT_BOTTOM, 999
    )
    chosen["patch_size"] = [int(n) for n in fitted]
    planned = chosen["architecture"]["arch_kwargs"]
    planned |= {
        "strides": [list(map(int, stride)) for stride in strides],
        "kernel_sizes": [list(map(int, kernel)) for kernel in kernels],
    }
    _set_stages(planned, len(strides))


def _set_stages(planned: dict[str, Any], stages: int) -> None:
    """Give a planned network another number of stages: features double, blocks are as in its last stage."""
    first, most = planned["features_per_stage"][0], max(planned["features_per_stage"])
    planned["n_stages"] = stages
    planned["features_per_stage"] = [min(first * 2**stage, most) for stage in range(stages)]
    for name, length in (
        ("n_conv_per_stage", stages),
        ("n_blocks_per_stage", stages),
        ("n_conv_per_stage_decoder", stages - 1),
    ):
        if name in planned:
            planned[name] = [*planned[name], *[planned[name][-1]] * length][:length]


def _narrow(plans: dict[str, Any], width: int) -> None:
    """Give every planned network another number of features at its first stage."""
    for configuration in plans["configurations"].values():
        if "architecture" in configuration:
            planned = configuration["architecture"]["arch_kwargs"]
            factor = width / planned["features_per_stage"][0]
            planned["features_per_stage"] = [max(1, round(f * factor)) for f in planned["features_per_stage"]]


def _train(job: dict[str, Any]) -> None:
    """Train, validate with nnU-Net's own predictor, and leave the weights as plain tensors."""
    folder, out = Path(job["preprocessed"]), Path(job["out"])
    plans = json.loads((folder / "plans.json").read_text())
    for file in sorted(folder.rglob("*.pkl")):  # nnU-Net unpickles them; the folder may be another's
        check_pickle(file)
    trainer = trainer_for(plans | {"continue_training": False}, job)
    trainer.initial_lr = job["learning_rate"] or trainer.initial_lr
    trainer.num_epochs, trainer.num_iterations_per_epoch = job["epochs"], job["iterations"]
    trainer.num_val_iterations_per_epoch = max(1, job["iterations"] // 5)
    trainer.save_every = 1
    _train_to_the_end(trainer)
    if not job["mirrored"]:
        trainer.inference_allowed_mirroring_axes = None
    trainer.perform_actual_validation()
    weights = {name: tensor.detach().cpu().clone() for name, tensor in trainer.network.state_dict().items()}
    torch.save(weights, out / "weights.pt")
    shutil.copy(Path(trainer.output_folder) / "validation" / "summary.json", out / "summary.json")
    result = {"output": str(Path(trainer.output_folder).parent), "steps": job["epochs"] * job["iterations"]}
    (out / "trained.json").write_text(json.dumps(result))


def _train_to_the_end(trainer: Any) -> None:
    """Train from the latest checkpoint, if there is one; load the final one if the training is over."""
    latest, final = (Path(trainer.output_folder) / f"checkpoint_{name}.pth" for name in ("latest", "final"))
    if final.is_file():
        resume_trainer(trainer, final)
        return
    if latest.is_file():
        resume_trainer(trainer, latest)
    trainer.run_training()


def resume_trainer(trainer: Any, file: Path) -> None:
    """Load a checkpoint into nnU-Net's trainer; nothing but tensors and plain data is unpickled."""
    content, load = read_plain(file), torch.load
    torch.load = lambda *args, **kwargs: content  # its own call would unpickle whatever the file holds
    try:
        trainer.load_checkpoint(str(file))
    finally:
        torch.load = load


def trainer_for(plans: dict[str, Any], job: dict[str, Any]) -> Any:
    """Return nnU-Net's trainer; where left and right are different targets it does not mirror left to
    right, which would exchange them.
    """
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    dataset = json.loads((Path(job["preprocessed"]) / "dataset.json").read_text())
    trainer = (_sided(nnUNetTrainer) if job["sided"] else nnUNetTrainer)(
        plans=plans,
        configuration=job["configuration"],
        fold=0,
        dataset_json=dataset,
        device=torch.device(job["device"]),
    )
    trainer.plans = plans
    return trainer


def _sided(base: Any) -> Any:
    """Return a trainer like `base` that does not mirror left to right."""

    class Sided(base):  # type: ignore[misc]
        def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> Any:  # noqa: N802
            rotation, dummy, patch, mirrored = (
                super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
            )
            left_right = list(self.plans_manager.transpose_forward).index(2) - (
                3 - len(self.configuration_manager.patch_size)
            )
            axes = tuple(axis for axis in mirrored if axis != left_right)
            self.inference_allowed_mirroring_axes = axes
            return rotation, dummy, patch, axes

    # checkpoints then name a trainer that nnU-Net's own predictor finds
    Sided.__name__ = base.__name__
    return Sided


def main(file: str) -> None:
    """Do the job that a JSON file describes."""
    job = json.loads(Path(file).read_text())
    warnings.simplefilter("ignore")  # of nnU-Net and its libraries, about things that are not ours
    torch.manual_seed(job["seed"])
    torch.set_num_threads(job["threads"])
    adapter.prepare()
    {"plan": _plan, "train": _train}[job["do"]](job)


if __name__ == "__main__":
    main(sys.argv[1])
