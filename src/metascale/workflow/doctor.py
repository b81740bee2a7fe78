"""What is installed and what this machine has, for bug reports and the doctor."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform

import psutil

from metascale import __version__

PACKAGES = (
    *("numpy", "scipy", "torch", "safetensors", "transformers", "peft", "scikit-learn", "pillow", "bitsandbytes"),
    *("optuna", "ray", "submitit", "mlflow-skinny", "tensorboard", "wandb", "pyarrow"),
)


def describe_machine() -> list[tuple[str, str]]:
    """Names and values: versions of what metascale can use, cores, memory, accelerators."""
    rows = [("metascale", __version__), ("python", platform.python_version()), ("system", platform.platform())]
    for name in PACKAGES:
        try:
            rows.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            rows.append((name, "not installed"))
    rows.append(("cores", str(os.cpu_count())))
    rows.append(("memory", f"{psutil.virtual_memory().total / 2**30:.1f} GiB"))
    rows.append(("METASCALE_DATA", os.environ.get("METASCALE_DATA", "not set")))
    return rows + _accelerators()


def _accelerators() -> list[tuple[str, str]]:
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    if not torch.cuda.is_available():
        return [("accelerators", "none that torch can use")]
    return [(f"cuda:{index}", torch.cuda.get_device_name(index)) for index in range(torch.cuda.device_count())]
