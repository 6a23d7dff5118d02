"""Knows whether this very training was done before, and remembers that it was. Must not import torch.

A pod whose push failed is started again; it must not spend minutes on loading libraries to find that all is done.
"""

from __future__ import annotations

import hashlib
import json
import os

from .config import Settings
from .dataset import Summary
from .model_files import ModelFiles

ADAPTER = "adapter"
WEIGHTS = "adapter_model.safetensors"
# KAITO's marker of a finished run; ours holds what was done as JSON.
MARKER = "fine_tuning_completed.txt"


def fingerprint(settings: Settings, files: ModelFiles, summary: Summary, base: str, versions: dict, processes: int) -> str:
    """A digest of all that decides the bytes of the adapter: only a run with the same one may be resumed."""
    content = [settings.identity(), files.identity(), summary.digest, base, versions, processes]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def result(output: str, wanted: str) -> dict | None:
    """What an earlier run with this fingerprint reported, if its adapter is still there unchanged."""
    try:
        with open(os.path.join(output, MARKER), encoding="utf-8") as file:
            marker = json.load(file)
        found = marker["result"] if marker["fingerprint"] == wanted else None
        path = os.path.join(output, ADAPTER, WEIGHTS)
        return found if found and sha256(path) == found["sha256"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(output: str, made_with: str, what: dict) -> None:
    """Writes the marker, in one step."""
    path = os.path.join(output, MARKER)
    with open(path + ".part", "w", encoding="utf-8") as file:
        json.dump({"fingerprint": made_with, "result": what}, file, indent=1)
    os.replace(path + ".part", path)


def sha256(path: str) -> str:
    """The SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
