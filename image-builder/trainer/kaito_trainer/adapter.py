"""Writes the finished adapter: exactly the files that an adapter image holds, the same bytes for the same training."""

from __future__ import annotations

import json
import os
import shutil

from . import checkpoints
from .failure import Failure
from .finished import WEIGHTS

CONFIG = "adapter_config.json"
CARD = "README.md"
FILES = (CONFIG, WEIGHTS, CARD)


def save(model, folder: str, base: str, card: str) -> int:
    """Saves the adapter of a PEFT model into `folder`, which appears when it is whole; returns the weights' bytes.

    `base` is the name under which the base model is served. A path of this container would be of no use to anybody.
    """
    part = folder + ".part"
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    for name in os.listdir(part):
        if name not in (CONFIG, WEIGHTS):
            path = os.path.join(part, name)
            shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
    config_path = os.path.join(part, CONFIG)
    with open(config_path, encoding="utf-8") as file:
        config = settled(json.load(file), base)
    with open(config_path, "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2, sort_keys=True)
        file.write("\n")
    with open(os.path.join(part, CARD), "w", encoding="utf-8") as file:
        file.write(card)
    for name in FILES:
        path = os.path.join(part, name)
        if not os.path.isfile(path):
            raise Failure("TrainingFailed", f"{path} was not written")
        # The libraries write weights readable by their owner only; the pushing container has another user.
        os.chmod(path, 0o644)
        checkpoints.synchronise(path)
    os.chmod(part, 0o755)
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(part, folder)
    return os.path.getsize(os.path.join(folder, WEIGHTS))


def settled(config: dict, base: str) -> dict:
    """The adapter's configuration with the base's public name, and lists that came from sets in one order."""
    config = {key: sorted(value) if key in ("target_modules", "exclude_modules") and isinstance(value, list) else value
              for key, value in config.items()}
    config["base_model_name_or_path"] = base
    config["revision"] = None
    return config


def card(base: str, method: str, rank: int, rows: int) -> str:
    """A minimal model card. It holds no date: equal trainings give equal files."""
    return (
        "---\n"
        f"base_model: {base}\n"
        "library_name: peft\n"
        "pipeline_tag: text-generation\n"
        f"tags:\n- {method}\n- peft\n"
        "---\n\n"
        f"LoRA adapter for `{base}`, rank {rank}, trained with {method} on {rows} rows.\n"
    )
