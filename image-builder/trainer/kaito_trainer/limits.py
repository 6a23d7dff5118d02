"""How many processors this container may use, and the environment that makes the maths libraries respect it.

Libraries count the node's processors, not the container's share. With more threads than processors, OpenMP's busy
waiting makes training several times slower. May be imported before torch only: OpenMP reads the environment once.
"""

from __future__ import annotations

import math
import os

CGROUP = "/sys/fs/cgroup"
# Version 1 of cgroups writes -1 for "no limit".
UNLIMITED = "-1"


def processors(cgroup: str = CGROUP) -> int:
    """Whole processors usable here: the cgroup's quota rounded up, at most those this process may be scheduled on."""
    allowed = len(os.sched_getaffinity(0))
    quota = cpu_quota(cgroup)
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def cpu_quota(cgroup: str = CGROUP) -> float | None:
    """The cgroup's limit in processors, version 2 or 1; None without a limit."""
    pair = _words(os.path.join(cgroup, "cpu.max"))
    if pair is None:
        quota = _words(os.path.join(cgroup, "cpu", "cpu.cfs_quota_us"))
        period = _words(os.path.join(cgroup, "cpu", "cpu.cfs_period_us"))
        pair = [quota[0], period[0]] if quota and period else None
    if pair is None or len(pair) != 2 or pair[0] in ("max", UNLIMITED):
        return None
    try:
        return int(pair[0]) / int(pair[1])
    except (ValueError, ZeroDivisionError):
        return None


def _words(path: str) -> list[str] | None:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().split()
    except (OSError, UnicodeDecodeError):
        return None


def environment(processes: int = 1, cgroup: str = CGROUP) -> dict[str, str]:
    """Settings for this run that the environment does not have already."""
    threads = str(max(1, processors(cgroup) // max(1, processes)))
    wanted = {
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        # Waiting threads give their processor away.
        "OMP_WAIT_POLICY": "PASSIVE",
        # A tokenizer that was used before a fork warns for every process.
        "TOKENIZERS_PARALLELISM": "false",
        # Nothing is downloaded at run time, and nobody is told about the run.
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_DATASETS_OFFLINE": "1",
        "WANDB_DISABLED": "true",
        # A log has no use for bars that draw over themselves.
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        # Big models fragment the GPU's memory less.
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }
    return {name: value for name, value in wanted.items() if name not in os.environ}
