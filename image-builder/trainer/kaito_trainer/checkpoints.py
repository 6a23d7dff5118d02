"""Which checkpoints are whole, and of this very run. Must not import torch.

The libraries write a checkpoint file by file. Once all are on disk, `seal` writes a list of them; a folder without a
list, or with other sizes than listed, was being written when the process died and is removed.
"""

from __future__ import annotations

import json
import os
import re
import shutil

SEAL = "kaito-checkpoint.json"
NAME = re.compile(r"checkpoint-(\d+)$")


def seal(folder: str, fingerprint: str) -> None:
    """Marks a checkpoint as whole: all files on disk first, then the list, in one step."""
    sizes = {}
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name != SEAL and os.path.isfile(path):
            synchronise(path)
            sizes[name] = os.path.getsize(path)
    temporary = os.path.join(folder, SEAL + ".part")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump({"fingerprint": fingerprint, "files": sizes}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, os.path.join(folder, SEAL))
    synchronise(folder)


def synchronise(path: str) -> None:
    """Waits until a file or folder is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def newest(folder: str, fingerprint: str) -> tuple[str | None, dict[str, str]]:
    """The newest whole checkpoint of this run, and for each one that cannot be used its path and why. Changes nothing."""
    faults: dict[str, str] = {}
    best: tuple[int, str] | None = None
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        match = NAME.match(name)
        path = os.path.join(folder, name)
        if not match or not os.path.isdir(path):
            continue
        fault = fault_of(path, fingerprint)
        if fault:
            faults[path] = fault
        elif best is None or int(match[1]) > best[0]:
            best = (int(match[1]), path)
    return (best[1] if best else None), faults


def remove(faults: dict[str, str]) -> list[str]:
    """Removes checkpoints that cannot be used; returns a note on each."""
    for path in faults:
        shutil.rmtree(path)
    return [f"{os.path.basename(path)} was removed: {fault}" for path, fault in faults.items()]


def fault_of(path: str, fingerprint: str) -> str | None:
    """Why a checkpoint cannot be used, or None."""
    try:
        with open(os.path.join(path, SEAL), encoding="utf-8") as file:
            content = json.load(file)
        files = content["files"]
        sizes = {name: os.path.getsize(os.path.join(path, name)) for name in files}
    except (OSError, ValueError, KeyError, TypeError):
        return "it was not written completely"
    if sizes != files:
        return "it was not written completely"
    if content.get("fingerprint") != fingerprint:
        return "it belongs to other data, another model or another configuration"
    return None
