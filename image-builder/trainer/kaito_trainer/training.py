"""One training run: model, data and settings become an adapter."""

from __future__ import annotations

import os
import resource
import shutil
import time
from dataclasses import dataclass

import datasets
import peft
import pyarrow
import torch
import transformers
import trl

from . import adapter, checkpoints, finished, learning, model, processes
from .config import Settings
from .dataset import Dataset, Summary
from .failure import Failure
from .model_files import ModelFiles
from .progress import Progress
from .report import Reporter

# Rows per piece while the data set is built; pieces keep memory to the packed form.
PIECE_ROWS = 10_000
CHECKPOINTS_KEPT = 2
CHECKPOINTS = "checkpoints"
UNPACKED = "base-model"


@dataclass
class Run:
    """Everything one run needs. `base` is the public name of the model; `checkpoint_steps` None means automatic, 0 none."""

    settings: Settings
    files: ModelFiles
    data: Dataset
    summary: Summary
    output: str
    base: str
    checkpoint_steps: int | None
    fresh: bool
    fingerprint: str
    reporter: Reporter


def train(run: Run) -> None:
    """Trains from the beginning or from the newest checkpoint."""
    began = time.monotonic()
    resume = find_checkpoint(run)
    trainer, progress, steps = prepare(run)
    run.reporter.line(
        "training",
        base=run.base,
        method=run.settings.method,
        device=model.device(),
        steps=steps,
        rows=len(trainer.train_dataset),
        epochs=trainer.args.num_train_epochs,
        learningRate=trainer.args.learning_rate,
        batch=trainer.args.per_device_train_batch_size,
        maxLength=trainer.args.max_length,
        threads=torch.get_num_threads(),
        quantizedLayers=quantized_layers(trainer.model),
        resumedFromStep=int(resume.rsplit("-", 1)[1]) if resume else 0,
    )
    progress.stop_on_signal()
    trainer.train(resume_from_checkpoint=resume)
    if progress.stopping and trainer.state.global_step < steps:
        progress.raise_if_stopped()
    finish(run, trainer, progress, resume, began)


def find_checkpoint(run: Run) -> str | None:
    """The checkpoint to go on from; everything of other runs and half-written ones is removed."""
    folder = os.path.join(run.output, CHECKPOINTS)
    first = processes.rank() == 0
    # The first process cleans up for all. Nobody trains yet, so nothing is being written meanwhile.
    if first and run.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    if first:
        os.makedirs(folder, exist_ok=True)
    found, faults = (None, {}) if run.fresh else checkpoints.newest(folder, run.fingerprint)
    if first:
        for note in checkpoints.remove(faults):
            run.reporter.note(note)
    return found


def prepare(run: Run) -> tuple[trl.SFTTrainer, Progress, int]:
    """Builds the library's trainer; returns it with its follower and the number of steps."""
    settings = run.settings
    notes: list[str] = []
    dtype = model.choose_dtype(settings, notes)
    files = unpacked(run, dtype)
    tokenizer = model.tokenizer(files, settings)
    check_template(run, tokenizer)
    train_rows, evaluation_rows = build_rows(run)
    base = model.load(files, settings, dtype, int(os.environ.get("LOCAL_RANK", "0")))
    arguments = arguments_of(run, dtype, evaluation_rows is not None)
    trainer = build_trainer(run, base, tokenizer, arguments, train_rows, evaluation_rows)
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            # The library narrows the adapter of a 4-bit model to bfloat16, but loads a checkpoint as float32: a resumed
            # run would go another way. float16's gradient scaling needs float32 as well.
            parameter.data = parameter.data.float()
    check_rows(run, trainer, len(train_rows))
    for note in notes:
        run.reporter.note(note)
    steps = set_intervals(run, trainer)
    logged = steps // int(trainer.args.logging_steps)
    watch = learning.LearningWatch(min(learning.PATIENCE, logged), overflow_is_normal=arguments.fp16)
    progress = Progress(run.reporter, watch, run.fingerprint)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.add_callback(progress)
    return trainer, progress, steps


def unpacked(run: Run, dtype: str) -> ModelFiles:
    """The model as transformers reads it; a GGUF file is converted once and kept until the run is done."""
    if not run.files.gguf:
        return run.files
    from . import model_files

    target = os.path.join(run.output, UNPACKED)
    if os.path.isdir(target):
        return model_files.find(target)
    if processes.is_child() and int(os.environ["WORLD_SIZE"]) > 1:
        raise Failure("ModelInvalid", "a GGUF file cannot be trained on several devices; convert it first")
    run.reporter.note(f"{run.files.gguf} is unpacked first; a folder made by `convert` starts faster")
    return model.convert(run.files, target, dtype)


def check_template(run: Run, tokenizer) -> None:
    """Sees that conversations can be written as text for this model."""
    if tokenizer.chat_template or run.summary.kind == "text":
        return
    if run.summary.kind == "messages":
        raise Failure("ConfigInvalid", "the model has no chat template; set chat_template in ModelConfig")
    if run.settings.dataset.chat_template:
        run.reporter.note("the model has no chat template: rows are trained as prompt, line break, completion")


def build_rows(run: Run) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    """The rows to train on and those held out, shuffled as configured."""
    choice = run.settings.dataset
    rows = table(run, evaluation=False)
    if choice.shuffle:
        rows = rows.shuffle(seed=choice.seed)
    if run.summary.evaluation_rows:
        return rows, table(run, evaluation=True)
    if choice.train_fraction < 1:
        kept = round(len(rows) * choice.train_fraction)
        return rows.select(range(kept)), rows.select(range(kept, len(rows)))
    return rows, None


def table(run: Run, evaluation: bool) -> datasets.Dataset:
    """The rows of one use, packed in memory."""
    pieces, piece = [], []
    for row in run.data.rows(evaluation):
        piece.append(row)
        if len(piece) == PIECE_ROWS:
            pieces.append(pyarrow.Table.from_pylist(piece))
            piece = []
    if piece:
        pieces.append(pyarrow.Table.from_pylist(piece))
    # Left to itself, the library makes a fingerprint by pickling the table, which fails.
    use = "evaluation" if evaluation else "training"
    return datasets.Dataset(pyarrow.concat_tables(pieces), fingerprint=f"{run.summary.digest[:48]}-{use}")


def plain_pair(row: dict) -> dict:
    """A one-turn conversation as text, for models without a chat template."""
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, str):
        return row
    if len(prompt) != 1 or len(completion) != 1:
        raise Failure("ConfigInvalid", "the model has no chat template; set chat_template in ModelConfig")
    return {"prompt": prompt[0]["content"] + "\n", "completion": completion[0]["content"]}


def arguments_of(run: Run, dtype: str, evaluates: bool) -> trl.SFTConfig:
    """The library's own settings."""
    on_gpu = torch.cuda.is_available()
    values = {
        "num_train_epochs": 3.0,
        "max_length": 1024,
        "save_strategy": "no",
        "save_total_limit": CHECKPOINTS_KEPT,
        "dataloader_pin_memory": on_gpu,
        **run.settings.arguments,
        "output_dir": os.path.join(run.output, CHECKPOINTS),
        "report_to": "none",
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,
        "logging_strategy": "steps",
        "dataset_text_field": "text",
    }
    values.setdefault("use_cpu", not on_gpu)
    if values.get("bf16") is None and not values.get("fp16"):
        values["bf16"] = dtype == "bfloat16"
        values["fp16"] = dtype == "float16" and on_gpu
    if not on_gpu and processes.is_child():
        values["ddp_backend"] = "gloo"
    if values["save_strategy"] in ("no", "best"):
        # Checkpoints for resuming are the trainer's own affair; KAITO's default keeps none.
        values["save_strategy"] = "no" if run.checkpoint_steps == 0 else "steps"
    if not evaluates:
        values["eval_strategy"] = "no"
    elif values.get("eval_strategy", "no") == "no":
        values["eval_strategy"] = "epoch"
    try:
        return trl.SFTConfig(**values)
    except (TypeError, ValueError, ImportError) as error:
        raise Failure("ConfigInvalid", f"TrainingArguments: {model.first_line(error)}") from error


def build_trainer(run: Run, base, tokenizer, arguments, rows, evaluation_rows) -> trl.SFTTrainer:
    """The library's trainer with the LoRA layers in place."""
    if not tokenizer.chat_template and run.summary.kind == "pair":
        rows = rows.map(plain_pair)
        evaluation_rows = evaluation_rows and evaluation_rows.map(plain_pair)
    names = linear_names(base)
    lora = dict(run.settings.lora)
    if lora.get("target_modules") is None and kind_of(base) not in known_targets():
        run.reporter.note(f"PEFT has no target_modules for {kind_of(base)}; all linear layers are adapted")
        lora["target_modules"] = "all-linear"
    try:
        return trl.SFTTrainer(
            model=base,
            args=arguments,
            train_dataset=rows,
            eval_dataset=evaluation_rows,
            processing_class=tokenizer,
            peft_config=peft.LoraConfig(task_type="CAUSAL_LM", **lora),
        )
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, RuntimeError, KeyError, StopIteration) as error:
        text = model.first_line(error)
        if "arget modules" in text:
            text = f"LoraConfig.target_modules: {text} This model's linear layers are {', '.join(names)}."
        raise Failure("ConfigInvalid", text) from error


def kind_of(base) -> str:
    """The model's family."""
    return str(getattr(base.config, "model_type", ""))


def known_targets() -> dict:
    """Families for which PEFT knows which layers to adapt."""
    return peft.utils.constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING


def linear_names(base) -> list[str]:
    """Last names of the model's linear layers."""
    return sorted({name.rsplit(".", 1)[-1] for name, part in base.named_modules() if isinstance(part, torch.nn.Linear)})


def quantized_layers(trained) -> int:
    """How many layers hold their weights in 4 or 8 bits."""
    return sum(type(part).__name__ in ("Linear4bit", "Linear8bitLt") for part in trained.modules())


def check_rows(run: Run, trainer, given: int) -> None:
    """Tells about rows that were cut or dropped for their length, and refuses a run without any left."""
    longest = trainer.args.max_length
    if trainer.args.packing or longest is None:
        return
    left = len(trainer.train_dataset)
    if left == 0:
        raise Failure("DatasetInvalid", f"no row has anything to learn within max_length {longest}; raise max_length")
    if left < given:
        run.reporter.note(f"{given - left} of {given} rows were dropped: their prompts alone fill max_length {longest}")
    cut = sum(len(ids) >= longest for ids in trainer.train_dataset["input_ids"])
    if cut:
        run.reporter.note(f"{cut} of {left} rows reach max_length {longest} and are cut there")


def set_intervals(run: Run, trainer) -> int:
    """Sets how often to log and to save, now that the number of steps is known; returns that number."""
    arguments = trainer.args
    steps = learning.steps_of_run(
        len(trainer.train_dataset),
        arguments.per_device_train_batch_size,
        arguments.gradient_accumulation_steps,
        arguments.world_size,
        arguments.num_train_epochs,
        arguments.max_steps,
    )
    arguments.logging_steps = learning.logging_steps(steps, run.settings.arguments.get("logging_steps"))
    if run.checkpoint_steps:
        arguments.save_strategy = transformers.trainer_utils.SaveStrategy.STEPS
        arguments.save_steps = run.checkpoint_steps
    elif "save_steps" not in run.settings.arguments:
        arguments.save_steps = learning.checkpoint_steps(steps)
    return steps


def finish(run: Run, trainer, progress: Progress, resume: str | None, began: float) -> None:
    """Writes the adapter and the marker, and removes what only a broken run would need."""
    if processes.rank() > 0:
        return
    trained = trainer.accelerator.unwrap_model(trainer.model)
    rank = run.settings.lora["r"]
    folder = os.path.join(run.output, finished.ADAPTER)
    text = adapter.card(run.base, run.settings.method, rank, len(trainer.train_dataset))
    size = adapter.save(trained, folder, run.base, text)
    result = {
        "adapter": folder,
        "sha256": finished.sha256(os.path.join(folder, adapter.WEIGHTS)),
        "adapterBytes": size,
        "steps": trainer.state.global_step,
        "firstLoss": progress.first_loss,
        "lastLoss": progress.last_loss,
        "evaluationLoss": progress.evaluation_loss,
        "trainableParameters": sum(p.numel() for p in trained.parameters() if p.requires_grad),
        "resumedFromStep": int(resume.rsplit("-", 1)[1]) if resume else 0,
        "seconds": round(time.monotonic() - began, 1),
        "peakMemoryBytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "peakGpuMemoryBytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
    }
    finished.write(run.output, run.fingerprint, result)
    shutil.rmtree(os.path.join(run.output, UNPACKED), ignore_errors=True)
    if run.settings.arguments.get("save_strategy", "no") == "no":
        shutil.rmtree(os.path.join(run.output, CHECKPOINTS), ignore_errors=True)
    run.reporter.done(**result)
