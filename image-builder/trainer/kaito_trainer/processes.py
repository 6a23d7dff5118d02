"""Starts one process for each device when there are several, and ends all when one ends badly.

The usual launcher needs a store that some builds of torch lack; plain environment variables do. Must not import torch.
"""

from __future__ import annotations

import glob
import os
import signal
import socket
import subprocess
import sys
import time

# How long the others may take to save and leave once one has ended.
GRACE_SECONDS = 60


def wanted(asked: int) -> int:
    """How many processes to run: as asked, or one for each visible GPU, at least one."""
    if asked > 0:
        return asked
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return max(1, len([device for device in visible.split(",") if device.strip()]))
    return max(1, len(glob.glob("/dev/nvidia[0-9]*")))


def rank() -> int:
    """The number of this process among several; 0 for a single one."""
    return int(os.environ.get("RANK", "0"))


def is_child() -> bool:
    """Whether somebody, this module or another launcher, gave this process its place already."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def run(count: int, arguments: list[str]) -> int:
    """Runs this program `count` times side by side; returns the exit code of the first that failed, else 0."""
    shared = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "USE_LIBUV": "0",
    }
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "kaito_trainer", *arguments],
            env={**os.environ, **shared, "RANK": str(index), "LOCAL_RANK": str(index)},
        )
        for index in range(count)
    ]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: [child.send_signal(received) for child in children])
    return first_failure(children)


def first_failure(children: list[subprocess.Popen]) -> int:
    """Waits for all; once one fails, the others are asked and then made to end."""
    code = 0
    deadline = None
    while True:
        codes = [child.poll() for child in children]
        if code == 0 and any(codes):
            failed = next(value for value in codes if value)
            code = 128 - failed if failed < 0 else failed
            deadline = time.monotonic() + GRACE_SECONDS
            for child, value in zip(children, codes):
                if value is None:
                    child.terminate()
        if all(value is not None for value in codes):
            return code
        if deadline and time.monotonic() > deadline:
            for child, value in zip(children, codes):
                if value is None:
                    child.kill()
        time.sleep(0.2)


def free_port() -> int:
    """A port nobody uses at this moment, for the processes to meet."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
