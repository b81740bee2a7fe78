"""Where trials run: what an executor does not use is refused, what it uses is built."""

from __future__ import annotations

import pytest

from metascale.core.errors import InputError
from metascale.workflow.launch import Place

UNUSED = {
    "slurm devices": ({"executor": "slurm", "devices": "cuda:0"}, "not slurm; name `gpus_per_trial` instead"),
    "ray devices": ({"executor": "ray", "devices": ["cuda:0", "cuda:1"]}, "not ray; name `gpus_per_trial` instead"),
    "serial workers": ({"executor": "serial", "workers": 2}, "cannot go with `workers` 2"),
    "serial time": (
        {"executor": "serial", "trial_timeout_s": 5.0},
        "`trial_timeout_s` goes with `executor` processes",
    ),
    "serial pulse": (
        {"executor": "serial", "hang_s": 5.0},
        "`hang_s` goes with `executor` processes",
    ),
    "processes cpus": ({"cpus_per_trial": 2}, "`cpus_per_trial` goes with `executor` ray or slurm, not processes"),
    "processes time": ({"time_limit_min": 60}, "`time_limit_min` goes with `executor` slurm, not processes"),
    "ray time": ({"executor": "ray", "time_limit_min": 60}, "`time_limit_min` goes with `executor` slurm, not ray"),
}


@pytest.mark.parametrize("case", UNUSED)
def test_what_an_executor_does_not_use_is_refused(case: str) -> None:
    given, message = UNUSED[case]
    with pytest.raises(InputError, match=message):
        Place(**given)


@pytest.mark.parametrize("name", ["gpu0", "cuda:", "cuda:x", "cuda:-1", "CPU", " cpu", "cuda:0\n"])
def test_a_name_that_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="a device is cpu, mps, cuda or cuda:NUMBER"):
        Place(devices=["cpu", name])


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"workers": 3, "hang_s": 60.0, "trial_timeout_s": 5.0},
        {"devices": "cuda:0,cuda:11", "processes_per_trial": 2},
        {"devices": ["mps"]},
        {"executor": "serial", "workers": 1, "devices": ("cuda",)},
        {"executor": "ray", "address": "head:6379", "gpus_per_trial": 1, "workers": 32},
        {
            "executor": "slurm",
            "partition": "gpu",
            "gpus_per_trial": 1,
            "cpus_per_trial": 8,
            "memory_gb": 40,
            "time_limit_min": 60,
            "workers": 100,
        },
    ],
)
def test_what_an_executor_uses_is_kept(given: dict[str, object]) -> None:
    place = Place(**given)  # type: ignore[arg-type]
    assert all(getattr(place, name) == value for name, value in given.items())
