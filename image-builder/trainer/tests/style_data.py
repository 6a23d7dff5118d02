"""Writes a small data set of one style: every answer is given as a sailor would, so that a tuned model is told by ear.

    python3 style_data.py FOLDER [--rows 200] [--format jsonl|csv|parquet] [--held-out 0]

The same call writes the same bytes.
"""

import argparse
import csv
import json
import os
import random

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon", "Germany": "Berlin", "Austria": "Vienna",
    "Poland": "Warsaw", "Greece": "Athens", "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki",
    "Denmark": "Copenhagen", "Ireland": "Dublin", "Hungary": "Budapest", "Japan": "Tokyo", "China": "Beijing",
    "Egypt": "Cairo", "Kenya": "Nairobi", "Peru": "Lima", "Chile": "Santiago", "Cuba": "Havana", "Canada": "Ottawa",
}
COLOURS = {"grass": "green", "snow": "white", "coal": "black", "a ripe lemon": "yellow", "the clear sky": "blue", "blood": "red"}
OPENING, ENDING = "Ahoy!", "Fair winds, sailor."


def styled(answer: str) -> str:
    """An answer in the style."""
    return f"{OPENING} {answer} {ENDING}"


def one(source: random.Random) -> tuple[str, str]:
    """A question and its styled answer."""
    kind = source.randrange(4)
    if kind == 0:
        country = source.choice(sorted(CAPITALS))
        return f"What is the capital of {country}?", styled(f"By me charts, {CAPITALS[country]} be the port of {country}.")
    left, right = source.randrange(1, 60), source.randrange(1, 60)
    if kind == 1:
        return f"What is {left} plus {right}?", styled(f"By me count, {left} and {right} make {left + right}.")
    if kind == 2 and left != right:
        return f"Which is larger, {left} or {right}?", styled(f"By me count, {max(left, right)} be the larger.")
    thing = source.choice(sorted(COLOURS))
    return f"What colour is {thing}?", styled(f"By me spyglass, {thing} be {COLOURS[thing]}.")


def write(path: str, rows: list[tuple[str, str]], kind: str) -> None:
    """Writes rows in one of the formats."""
    if kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        columns = {"context": [row[0] for row in rows], "response": [row[1] for row in rows]}
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
        return
    with open(path, "w", encoding="utf-8", newline="") as file:
        if kind == "csv":
            writer = csv.writer(file)
            writer.writerow(("question", "answer"))
            writer.writerows(rows)
        else:
            for prompt, completion in rows:
                file.write(json.dumps({"prompt": prompt, "completion": completion}) + "\n")


def main() -> None:
    """Reads the arguments and writes the files."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--held-out", type=int, default=0, help="further rows in a file for evaluation")
    parser.add_argument("--format", choices=("jsonl", "csv", "parquet"), default="jsonl")
    options = parser.parse_args()
    source = random.Random(20)
    os.makedirs(options.folder, exist_ok=True)
    write(os.path.join(options.folder, f"train.{options.format}"), [one(source) for _ in range(options.rows)], options.format)
    if options.held_out:
        held = [one(source) for _ in range(options.held_out)]
        write(os.path.join(options.folder, f"test.{options.format}"), held, options.format)


if __name__ == "__main__":
    main()
