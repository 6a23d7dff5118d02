"""Finds the base model's files and checks that they are whole, without loading anything. Must not import torch."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import dataclass, field

from .failure import Failure, Problems

# How deep below the given folder config.json may lie; a hub cache has snapshots/REVISION below the model.
DEPTH = 4
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json")
INDEX = "model.safetensors.index.json"
GGUF_MAGIC = b"GGUF"
# A safetensors header larger than this is no header; the format's own limit.
HEADER_BYTES = 100_000_000


@dataclass
class ModelFiles:
    """A base model on disk. `folder` holds it; `gguf` is the file's name when it is a GGUF file."""

    folder: str
    gguf: str | None = None
    config: dict = field(default_factory=dict)
    weights: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """The model's family as transformers names it; for GGUF it is known only after loading."""
        return "gguf" if self.gguf else str(self.config.get("model_type", "unknown"))

    def identity(self) -> str:
        """A digest that changes with the model: configuration, and names, sizes and headers of the weights.

        Reading all weights would take minutes for a large model; the header and the last bytes tell versions apart.
        """
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        for name in self.weights:
            path = os.path.join(self.folder, name)
            size = os.path.getsize(path)
            digest.update(f"{name} {size}".encode())
            with open(path, "rb") as file:
                digest.update(file.read(1 << 20))
                file.seek(max(0, size - (1 << 20)))
                digest.update(file.read(1 << 20))
        return digest.hexdigest()


def find(path: str) -> ModelFiles:
    """The model at a path: a folder with config.json, the only such folder below it, or a GGUF file.

    Raises Failure ModelInvalid with everything that is missing.
    """
    if os.path.isfile(path):
        return gguf(path)
    if not os.path.isdir(path):
        raise Failure("ModelInvalid", f"{path}: no such file or folder; the base model is expected there")
    folders = sorted(with_config(path, 0))
    if len(folders) == 1:
        return huggingface(folders[0])
    if len(folders) > 1:
        raise Failure("ModelInvalid", f"{path}: holds several models: {', '.join(folders)}; name one")
    files = sorted(name for name in os.listdir(path) if name.endswith(".gguf"))
    if len(files) == 1:
        return gguf(os.path.join(path, files[0]))
    found = ", ".join(sorted(os.listdir(path))[:10]) or "nothing"
    raise Failure("ModelInvalid", f"{path}: has neither config.json nor exactly one .gguf file; found {found}")


def with_config(folder: str, depth: int) -> list[str]:
    """The topmost folders that have a config.json."""
    if os.path.isfile(os.path.join(folder, "config.json")):
        return [folder]
    if depth == DEPTH:
        return []
    found = []
    for entry in os.scandir(folder):
        if entry.is_dir() and not entry.name.startswith("."):
            found += with_config(entry.path, depth + 1)
    return found


def gguf(path: str) -> ModelFiles:
    """A GGUF file, by its first bytes."""
    with open(path, "rb") as file:
        head = file.read(8)
    if not head.startswith(GGUF_MAGIC) or len(head) < 8:
        raise Failure("ModelInvalid", f"{path}: is no GGUF file")
    version = struct.unpack("<I", head[4:])[0]
    if not 2 <= version <= 3:
        raise Failure("ModelInvalid", f"{path}: GGUF version {version}; versions 2 and 3 can be read")
    name = os.path.basename(path)
    return ModelFiles(os.path.dirname(os.path.abspath(path)), name, {}, [name])


def huggingface(folder: str) -> ModelFiles:
    """A folder as transformers reads it."""
    problems = Problems("ModelInvalid", folder)
    config = read_json(os.path.join(folder, "config.json"), problems)
    names = set(os.listdir(folder))
    if not names & set(TOKENIZERS):
        problems.add(f"has no tokenizer; one of {', '.join(TOKENIZERS)} is needed")
    if isinstance(config, dict) and not config.get("model_type"):
        problems.add("config.json names no model_type")
    weights = weight_files(folder, names, problems)
    for name in weights:
        if name.endswith(".safetensors"):
            check_safetensors(os.path.join(folder, name), problems)
    problems.raise_if_any()
    return ModelFiles(folder, None, config, weights)


def read_json(path: str, problems: Problems) -> dict:
    """A JSON object from a file."""
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except (OSError, ValueError) as error:
        problems.add(f"{os.path.basename(path)}: cannot be read: {error}")
        return {}
    if not isinstance(value, dict):
        problems.add(f"{os.path.basename(path)}: is no JSON object")
        return {}
    return value


def weight_files(folder: str, names: set[str], problems: Problems) -> list[str]:
    """The weights' files; all that the index names must be there."""
    if INDEX in names:
        index = read_json(os.path.join(folder, INDEX), problems).get("weight_map")
        wanted = sorted(set(index.values())) if isinstance(index, dict) else []
        missing = [name for name in wanted if name not in names]
        if missing:
            problems.add(f"{len(missing)} of {len(wanted)} weight files are missing, first {missing[0]}")
        return [name for name in wanted if name in names]
    found = sorted(name for name in names if name.endswith(".safetensors"))
    if not found:
        problems.add("has no weights in safetensors format")
    return found


def check_safetensors(path: str, problems: Problems) -> None:
    """Sees from the header alone whether a file has all its bytes."""
    name = os.path.basename(path)
    size = os.path.getsize(path)
    try:
        with open(path, "rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            if length > min(HEADER_BYTES, size):
                problems.add(f"{name}: is no safetensors file or was cut")
                return
            header = json.loads(file.read(length))
        end = max((entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"), default=0)
    except (OSError, struct.error, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        problems.add(f"{name}: header cannot be read: {error}")
        return
    if size != 8 + length + end:
        problems.add(f"{name}: has {size} bytes, its header says {8 + length + end}: not downloaded completely?")
