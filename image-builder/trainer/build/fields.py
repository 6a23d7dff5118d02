"""Writes kaito_trainer/fields.json: the settings that the pinned TRL, transformers and PEFT know, with their types.

    python3 build/fields.py SITE > kaito_trainer/fields.json

SITE is a folder with the wheels of requirements.lock. The sources are read, not run, so this needs no torch; the trainer
can then refuse a misspelt setting without loading anything. Run it again whenever the pins move.
"""

import ast
import json
import os
import sys

SOURCES = {
    "TrainingArguments": (
        ("transformers/training_args.py", "TrainingArguments"),
        ("trl/trainer/base_config.py", "_BaseConfig"),
        ("trl/trainer/sft_config.py", "SFTConfig"),
    ),
    "LoraConfig": (("peft/tuners/lora/config.py", "LoraConfig"),),
}
PACKAGES = ("transformers", "trl", "peft")


def fields(path: str, name: str) -> dict[str, str]:
    """The annotated fields of a dataclass."""
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return {
                item.target.id: ast.unparse(item.annotation)
                for item in node.body
                if isinstance(item, ast.AnnAssign)
                and isinstance(item.target, ast.Name)
                and not item.target.id.startswith("_")
                and not ast.unparse(item.annotation).startswith("ClassVar")
                and "init=False" not in ast.unparse(item.value or ast.Constant(None))
            }
    raise SystemExit(f"{path} has no class {name}")


def versions(site: str) -> dict[str, str]:
    """The version of each package, from the names of its metadata folder."""
    found = {}
    for entry in sorted(os.listdir(site)):
        package, _, rest = entry.partition("-")
        if package in PACKAGES and rest.endswith(".dist-info"):
            found[package] = rest.removesuffix(".dist-info")
    return found


def main(site: str) -> None:
    """Prints the table."""
    table = {"versions": versions(site)}
    for section, classes in SOURCES.items():
        table[section] = {}
        for path, name in classes:
            table[section].update(fields(os.path.join(site, path), name))
        table[section] = dict(sorted(table[section].items()))
    json.dump(table, sys.stdout, indent=1)
    print()


main(sys.argv[1])
