"""The command line: `train`, `validate`, `convert`, `answer`. Only this module ends the process."""

from __future__ import annotations

import argparse
import os
import sys
import traceback

from . import config, finished, limits, model_files, processes
from .dataset import Dataset
from .failure import Failure
from .report import Reporter

CONFIG = "/mnt/config/training_config.yaml"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are Failures, so that they are reported like all others."""

    def error(self, message: str):
        raise Failure("UsageError", f"{self.prog}: {message}")


def parser() -> Parser:
    """All commands and their options."""
    whole = Parser(prog="kaito_trainer", description="Fine-tunes a causal language model with LoRA or QLoRA.")
    commands = whole.add_subparsers(dest="command", required=True, parser_class=Parser)
    inputs = Parser(add_help=False)
    inputs.add_argument("--model", required=True, help="folder with config.json and safetensors, or a GGUF file")
    inputs.add_argument("--data", required=True, help="folder or file with the training data")
    inputs.add_argument("--method", required=True, choices=config.METHODS)
    inputs.add_argument("--config", help=f"KAITO's training_config.yaml (default: {CONFIG} when it is there)")
    train = commands.add_parser("train", parents=[inputs], help="train; resumes by itself")
    train.add_argument("--output", required=True, help="folder for adapter/ and checkpoints/")
    train.add_argument("--preset", help="the model's public name, written into the adapter")
    train.add_argument("--checkpoint-steps", type=int, help="steps between checkpoints; 0 for none (default: by length)")
    train.add_argument("--processes", type=int, default=0, help="processes side by side (default: one for each GPU)")
    train.add_argument("--fresh", action="store_true", help="begin anew, whatever is in the output folder")
    commands.add_parser("validate", parents=[inputs], help="check model, data and configuration; needs no torch")
    convert = commands.add_parser("convert", help="unpack a GGUF file into a folder that can be trained")
    convert.add_argument("--model", required=True)
    convert.add_argument("--output", required=True, help="folder to make; must not exist")
    convert.add_argument("--dtype", default="bfloat16", choices=config.DTYPES[:3])
    answer = commands.add_parser("answer", help="greedy answers, to compare a model with and without an adapter")
    answer.add_argument("--model", required=True)
    answer.add_argument("--adapter", help="folder of an adapter")
    answer.add_argument("--prompt", action="append", required=True)
    answer.add_argument("--max-tokens", type=int, default=48)
    return whole


def main(arguments: list[str]) -> int:
    """Runs a command; returns the exit code."""
    reporter = Reporter(silent=processes.rank() > 0)
    try:
        options = parser().parse_args(arguments)
        return COMMANDS[options.command](options, arguments, reporter)
    except Failure as failure:
        reporter.failure(failure)
        return failure.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # The edge: whatever a library raised becomes a reported failure.
        traceback.print_exc()
        failure = as_failure(error)
        # What went wrong in one of several processes only is told by that one.
        reporter.silent = False
        reporter.failure(failure)
        return failure.exit_code


def as_failure(error: Exception) -> Failure:
    """An unexpected error as a failure with the reason that fits best."""
    text = " ".join(str(error).split())[:1000] or type(error).__name__
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        return Failure(
            "OutOfMemory",
            f"{text}; lower per_device_train_batch_size or max_length in TrainingArguments, or use the method qlora",
        )
    if isinstance(error, OSError) and error.filename:
        return Failure("OutputNotWritable", f"{error.filename}: {error.strerror}")
    return Failure("TrainingFailed", f"{type(error).__name__}: {text}")


def checked(options, reporter: Reporter):
    """Settings, model files, data and its summary, after everything that can be wrong was looked at together."""
    failures: list[Failure] = []

    def attempt(action):
        try:
            return action()
        except Failure as failure:
            failures.append(failure)
            return None

    settings = attempt(lambda: config.load(config_path(options.config), options.method))
    files = attempt(lambda: model_files.find(options.model))
    choice = settings.dataset if settings else config.DatasetSettings()
    data = attempt(lambda: Dataset(options.data, choice))
    summary = attempt(data.check) if data else None
    if failures:
        for failure in failures[:-1]:
            reporter.failure(failure)
        raise failures[-1]
    for note in [*settings.notes, *summary.notes]:
        reporter.note(note)
    return settings, files, data, summary


def config_path(asked: str | None) -> str | None:
    """The configuration's path: as asked, or where the Job mounts it; None for the defaults."""
    if asked is None:
        return CONFIG if os.path.isfile(CONFIG) else None
    return asked


def validate(options, arguments: list[str], reporter: Reporter) -> int:
    """Checks without training."""
    settings, files, _, summary = checked(options, reporter)
    reporter.line(
        "valid",
        method=settings.method,
        model=files.kind,
        files=summary.files,
        shape=summary.kind,
        rows=summary.rows,
        evaluationRows=summary.evaluation_rows,
        characters=summary.characters,
    )
    return 0


def train(options, arguments: list[str], reporter: Reporter) -> int:
    """Checks, then trains."""
    count = processes.wanted(options.processes)
    if count > 1 and not processes.is_child():
        os.environ.update(limits.environment(count))
        return processes.run(count, arguments)
    os.environ.update(limits.environment())
    reporter.take_standard_output()
    settings, files, data, summary = checked(options, reporter)
    reporter.line("data", files=summary.files, shape=summary.kind, rows=summary.rows, evaluationRows=summary.evaluation_rows)
    try:
        os.makedirs(options.output, exist_ok=True)
    except OSError as error:
        raise Failure("OutputNotWritable", f"{options.output}: {error.strerror}") from error
    base = public_name(options.preset, files)
    versions = config.known_fields()["versions"]
    fingerprint = finished.fingerprint(settings, files, summary, base, versions, int(os.environ.get("WORLD_SIZE", "1")))
    before = None if options.fresh else finished.result(options.output, fingerprint)
    if before:
        reporter.done(**before, alreadyTrained=True)
        return 0
    # Only now: the libraries take seconds to load, and read the environment once.
    from . import training

    run = training.Run(
        settings=settings,
        files=files,
        data=data,
        summary=summary,
        output=options.output,
        base=base,
        checkpoint_steps=options.checkpoint_steps,
        fresh=options.fresh,
        fingerprint=fingerprint,
        reporter=reporter,
    )
    training.train(run)
    return 0


def public_name(preset: str | None, files) -> str:
    """The model's name for the adapter: the preset's, the one in its configuration, or that of its folder; no path."""
    if preset:
        return preset
    name = str(files.config.get("_name_or_path") or "")
    if name and not os.path.isabs(name) and not name.startswith(".") and name.count("/") <= 1:
        return name
    if files.gguf:
        return files.gguf.removesuffix(".gguf")
    return os.path.basename(os.path.realpath(files.folder))


def convert(options, arguments: list[str], reporter: Reporter) -> int:
    """Unpacks a GGUF file."""
    os.environ.update(limits.environment())
    reporter.take_standard_output()
    files = model_files.find(options.model)
    if os.path.exists(options.output):
        raise Failure("UsageError", f"{options.output}: exists already")
    from . import model

    made = model.convert(files, options.output, options.dtype)
    reporter.done(model=options.output, family=made.kind, files=len(os.listdir(made.folder)))
    return 0


def answer(options, arguments: list[str], reporter: Reporter) -> int:
    """Answers prompts."""
    os.environ.update(limits.environment())
    reporter.take_standard_output()
    files = model_files.find(options.model)
    from . import answering

    answering.answer(files, options.adapter, options.prompt, options.max_tokens, reporter)
    return 0


COMMANDS = {"train": train, "validate": validate, "convert": convert, "answer": answer}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
