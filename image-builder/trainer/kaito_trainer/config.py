"""Reads KAITO's `training_config.yaml` and translates it for the pinned TRL and PEFT.

Every key ends in exactly one way: passed on, renamed, dropped with a note, or refused with its path, its line, and the
nearest key that exists. Which settings the libraries know stands in `fields.json`, made from their sources. Must not
import torch; `training` turns the result into the libraries' own objects.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from dataclasses import dataclass, field

from .failure import Failure, Problems

METHODS = ("lora", "qlora")
ROOT = "training_config"
FIELDS_FILE = os.path.join(os.path.dirname(__file__), "fields.json")

# KAITO's names for sections, and the spelling with which people confuse them.
SECTIONS = (
    "ModelConfig",
    "TokenizerParams",
    "QuantizationConfig",
    "LoraConfig",
    "TrainingArguments",
    "DataCollator",
    "DatasetConfig",
)

DTYPES = ("float32", "float16", "bfloat16", "auto")

# Keys of ModelConfig: type, or the reason why the key has no effect here.
MODEL_KEYS = {
    "torch_dtype": "str",
    "dtype": "str",
    "chat_template": "str",
    "trust_remote_code": "bool",
    "attn_implementation": "str",
}
MODEL_DROPPED = {
    "local_files_only": "nothing is ever downloaded",
    "device_map": "the trainer places the model itself: one whole copy for each device",
    "pretrained_model_name_or_path": "the Workspace's preset says which model",
    "load_in_4bit": "this belongs to QuantizationConfig",
    "load_in_8bit": "this belongs to QuantizationConfig",
    "low_cpu_mem_usage": "always so now",
    "use_safetensors": "the files that are there are used",
    "cache_dir": "nothing is ever downloaded",
    "revision": "the weights that are there are used",
    "token": "nothing is ever downloaded",
    "proxies": "nothing is ever downloaded",
    "resume_download": "nothing is ever downloaded",
    "force_download": "nothing is ever downloaded",
    "mirror": "nothing is ever downloaded",
    "subfolder": "the folder with config.json is found by itself",
    "variant": "the files that are there are used",
    "from_tf": "TensorFlow weights are not supported any more",
    "from_flax": "Flax weights are not supported any more",
    "state_dict": "cannot be written in a configuration",
    "output_loading_info": "cannot be returned to a configuration",
    "offload_folder": "nothing is offloaded",
    "offload_state_dict": "nothing is offloaded",
    "max_memory": "nothing is offloaded",
}
QUANTIZATION_KEYS = {
    "load_in_4bit": "bool",
    "load_in_8bit": "bool",
    "bnb_4bit_quant_type": "str",
    "bnb_4bit_compute_dtype": "str",
    "bnb_4bit_use_double_quant": "bool",
    "bnb_4bit_quant_storage": "str",
    "llm_int8_threshold": "float",
    "llm_int8_skip_modules": "list[str] | None",
    "llm_int8_enable_fp32_cpu_offload": "bool",
    "llm_int8_has_fp16_weight": "bool",
}
QUANTIZATION_DROPPED = {"quant_method": "bitsandbytes is the only one"}
LORA_DROPPED = {
    "task_type": "always CAUSAL_LM",
    "peft_type": "always LORA",
    "inference_mode": "false while training, true in the adapter",
    "base_model_name_or_path": "the name of the Workspace's preset is written",
    "revision": "the weights that are there are used",
    "auto_mapping": "not needed for a causal language model",
}
# Settings of LoRA whose value is a Python object, or that need a part this image has not.
LORA_REFUSED = {
    "megatron_config": "Megatron is not part of this image",
    "megatron_core": "Megatron is not part of this image",
    "loftq_config": "it takes a Python object",
    "eva_config": "it takes a Python object",
    "corda_config": "it takes a Python object",
    "lora_ga_config": "it takes a Python object",
    "velora_config": "it takes a Python object",
    "monteclora_config": "it takes a Python object",
    "runtime_config": "it takes a Python object",
    "use_bdlora": "it takes a Python object",
    "arrow_config": "it takes a Python object",
    "kasa_config": "it takes a Python object",
}
ARGUMENTS_RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "max_seq_length": "max_length",
    "warmup_ratio": "warmup_steps",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
}
HUB = "results leave the pod as an image or in a volume, nothing is pushed to a hub"
TRACKING = "progress goes to the log as JSON lines"
RESUMING = "a run resumes by itself from its last whole checkpoint"
# Arguments that the trainer decides itself or that have no meaning any more: key → why.
ARGUMENTS_DROPPED = {
    "output_dir": "the folder of the results is fixed by the Job",
    "overwrite_output_dir": RESUMING,
    "resume_from_checkpoint": RESUMING,
    "ignore_data_skip": RESUMING,
    "restore_callback_states_from_checkpoint": RESUMING,
    "save_only_model": RESUMING,
    "save_safetensors": "always so now",
    "save_on_each_node": "there is one node",
    "logging_dir": TRACKING,
    "report_to": TRACKING,
    "run_name": TRACKING,
    "project": TRACKING,
    "disable_tqdm": TRACKING,
    "logging_nan_inf_filter": "a loss that is not a number must be seen",
    "trackio_space_id": TRACKING,
    "trackio_bucket_id": TRACKING,
    "trackio_static_space_id": TRACKING,
    "push_to_hub": HUB,
    "push_to_hub_token": HUB,
    "push_to_hub_model_id": HUB,
    "push_to_hub_organization": HUB,
    "hub_always_push": HUB,
    "hub_model_id": HUB,
    "hub_private_repo": HUB,
    "hub_revision": HUB,
    "hub_strategy": HUB,
    "hub_token": HUB,
    "group_by_length": "gone; train_sampling_strategy: group_by_length does it",
    "do_train": "training is all this program does",
    "do_eval": "there is an evaluation when there are rows held out for it",
    "do_predict": "training is all this program does",
    "model_init_kwargs": "this belongs to ModelConfig",
    "trust_remote_code": "this belongs to ModelConfig",
    "dataset_text_field": "columns are found by name, or named in DatasetConfig",
    "dataset_kwargs": "the trainer prepares the data itself",
    "local_rank": "the trainer starts its processes itself",
    "ddp_backend": "chosen by the device",
    "tpu_num_cores": "there is no TPU",
    "use_mps_device": "there is no such device",
    "use_ipex": "not supported any more",
    "fp16_opt_level": "not supported any more",
    "fp16_backend": "not supported any more",
    "half_precision_backend": "not supported any more",
    "past_index": "not supported any more",
    "torchdynamo": "not supported any more",
    "ray_scope": "there is no hyper-parameter search",
    "dispatch_batches": "not supported any more",
    "split_batches": "not supported any more",
    "include_tokens_per_second": "the progress lines have it",
    "include_num_input_tokens_seen": "the progress lines have it",
    "metric_for_best_model": "the last state is kept",
    "load_best_model_at_end": "the last state is kept",
    "greater_is_better": "the last state is kept",
}
ARGUMENTS_REFUSED = {
    "deepspeed": "DeepSpeed is not part of this image",
    "fsdp": "sharding is not supported: every device holds the whole model",
    "fsdp_config": "sharding is not supported: every device holds the whole model",
    "parallelism_config": "every device holds the whole model",
    "use_liger_kernel": "Liger is not part of this image",
    "liger_kernel_config": "Liger is not part of this image",
}
COLLATOR_DROPPED = {
    "mlm": "a causal language model predicts the next token",
    "mlm_probability": "a causal language model predicts the next token",
    "pad_to_multiple_of": "set pad_to_multiple_of in TrainingArguments",
    "return_tensors": "always PyTorch's",
    "tf_experimental_compile": "there is no TensorFlow",
}
TOKENIZER_DROPPED = {
    "padding": "batches are padded to their longest row",
    "truncation": "rows are cut at max_length of TrainingArguments",
    "max_length": "set max_length in TrainingArguments",
    "padding_side": "batches are padded on the right for training",
    "truncation_side": "set truncation_mode in TrainingArguments",
    "add_special_tokens": "the chat template decides",
    "return_tensors": "always PyTorch's",
}
DATASET_KEYS = {
    "shuffle_dataset": "bool",
    "shuffle_seed": "int | None",
    "train_test_split": "float",
    "dataset_path": "str | None",
    "dataset_extension": "str | None",
    "context_column": "str | None",
    "response_column": "str | None",
    "messages_column": "str | None",
    "apply_chat_template": "bool",
}

# Mean values of what people tune adapters with; a full fine-tuning would take a tenth of the rate.
DEFAULT_LEARNING_RATE = 1e-4
DEFAULT_LORA = {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0}
DEFAULT_QLORA = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_use_double_quant": True,
}


@dataclass
class DatasetSettings:
    """What the configuration says about the data. `train_fraction` is 1 when no row is held out."""

    shuffle: bool = True
    seed: int = 42
    train_fraction: float = 1.0
    path: str | None = None
    extension: str | None = None
    context_column: str | None = None
    response_column: str | None = None
    messages_column: str | None = None
    chat_template: bool = True


@dataclass
class Settings:
    """A configuration, translated. `dtype` is None when the device decides; `quantization` is empty for none."""

    method: str
    dtype: str | None = None
    model: dict = field(default_factory=dict)
    chat_template: str | None = None
    quantization: dict = field(default_factory=dict)
    lora: dict = field(default_factory=dict)
    arguments: dict = field(default_factory=dict)
    dataset: DatasetSettings = field(default_factory=DatasetSettings)
    notes: list[str] = field(default_factory=list)

    def identity(self) -> dict:
        """What decides the bytes of the adapter."""
        return {name: value for name, value in sorted(vars(self).items()) if name not in ("notes", "dataset")} | {
            "dataset": vars(self.dataset)
        }


def load(path: str | None, method: str) -> Settings:
    """Reads and translates a configuration; without a path the defaults hold.

    Raises Failure ConfigInvalid with everything that is wrong.
    """
    if method not in METHODS:
        raise Failure("UsageError", f"--method {method}: must be one of {', '.join(METHODS)}")
    if path is None:
        return translate({}, {}, method, "defaults")
    document, lines = parse(path)
    return translate(document, lines, method, path)


def parse(path: str) -> tuple[dict, dict[str, int]]:
    """The sections below `training_config`, and the line of each key by its dotted path."""
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise Failure("ConfigInvalid", f"{path}: reading it needs the Python package pyyaml") from error
    try:
        with open(path, encoding="utf-8") as file:
            root = yaml.compose(file, yaml.SafeLoader)
    except OSError as error:
        raise Failure("ConfigInvalid", f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Failure("ConfigInvalid", f"{path}: is not YAML: {error}") from error
    problems = Problems("ConfigInvalid", path)
    lines: dict[str, int] = {}
    if root is not None:
        _record_lines(root, "", lines, problems)
    problems.raise_if_any()
    with open(path, encoding="utf-8") as file:
        document = yaml.safe_load(file)
    if document is None:
        raise Failure("ConfigInvalid", f"{path}: is empty; it needs a key {ROOT}")
    if not isinstance(document, dict) or set(document) != {ROOT}:
        found = ", ".join(map(str, document)) if isinstance(document, dict) else type(document).__name__
        raise Failure("ConfigInvalid", f"{path}: needs exactly one key at the top, {ROOT}; found {found}")
    sections = document[ROOT]
    if sections is None:
        sections = {}
    if not isinstance(sections, dict):
        raise Failure("ConfigInvalid", f"{path}: {ROOT} must hold sections such as TrainingArguments")
    return sections, lines


def _record_lines(node, prefix: str, lines: dict[str, int], problems: Problems) -> None:
    if not hasattr(node, "value") or not isinstance(node.value, list):
        return
    for pair in node.value:
        if not isinstance(pair, tuple):
            continue
        key, value = pair
        path = f"{prefix}.{key.value}" if prefix else str(key.value)
        line = key.start_mark.line + 1
        if path in lines:
            problems.add(f"line {line}: {path} is there twice, first in line {lines[path]}")
        lines[path] = line
        _record_lines(value, path, lines, problems)


def known_fields() -> dict[str, dict[str, str]]:
    """The settings of the pinned libraries: section → key → type as Python writes it."""
    with open(FIELDS_FILE, encoding="utf-8") as file:
        return json.load(file)


def translate(sections: dict, lines: dict[str, int], method: str, subject: str) -> Settings:
    """Translates the sections of a configuration; raises Failure ConfigInvalid with everything that is wrong."""
    return _Translation(sections, lines, method, subject).run()


class _Translation:
    """One translation: reads sections, collects problems and notes, fills Settings."""

    def __init__(self, sections: dict, lines: dict[str, int], method: str, subject: str):
        self.sections = sections
        self.lines = lines
        self.problems = Problems("ConfigInvalid", subject)
        self.settings = Settings(method)
        table = known_fields()
        self.known = {
            "ModelConfig": MODEL_KEYS,
            "QuantizationConfig": QUANTIZATION_KEYS,
            "LoraConfig": {k: v for k, v in table["LoraConfig"].items() if k not in LORA_REFUSED},
            "TrainingArguments": table["TrainingArguments"],
            "DatasetConfig": DATASET_KEYS,
            "DataCollator": {},
            "TokenizerParams": {},
        }
        self.dropped = {
            "ModelConfig": MODEL_DROPPED,
            "QuantizationConfig": QUANTIZATION_DROPPED,
            "LoraConfig": LORA_DROPPED,
            "TrainingArguments": ARGUMENTS_DROPPED,
            "DataCollator": COLLATOR_DROPPED,
            "TokenizerParams": TOKENIZER_DROPPED,
            "DatasetConfig": {},
        }
        self.refused = {"LoraConfig": LORA_REFUSED, "TrainingArguments": ARGUMENTS_REFUSED}
        self.renamed = {"TrainingArguments": ARGUMENTS_RENAMED}

    def run(self) -> Settings:
        """Translates section by section."""
        for name in self.sections:
            if name not in SECTIONS:
                self.problems.add(f"{self.place(name)}: no such section{nearest(name, SECTIONS)}")
        self.model()
        self.quantization()
        self.lora()
        self.arguments()
        self.dataset()
        for section in ("DataCollator", "TokenizerParams"):
            self.values(section)
        self.problems.raise_if_any()
        return self.settings

    def place(self, *keys: str) -> str:
        """Names a key by its line, where known, and its path."""
        path = ".".join((ROOT, *map(str, keys)))
        line = self.lines.get(path)
        return f"line {line}: {path}" if line else path

    def values(self, section: str) -> dict:
        """The section's values under today's names, without those that are dropped or wrong."""
        given = self.sections.get(section)
        if given is None:
            return {}
        if not isinstance(given, dict):
            self.problems.add(f"{self.place(section)}: must hold keys and values")
            return {}
        kept: dict = {}
        for key, value in given.items():
            self.take(section, str(key), value, kept)
        return kept

    def take(self, section: str, key: str, value, kept: dict) -> None:
        """Sorts one key into `kept`, the notes or the problems."""
        place = self.place(section, key)
        refused = self.refused.get(section, {})
        if key in refused:
            if value:
                self.problems.add(f"{place}: not supported, {refused[key]}")
            return
        if key in self.dropped[section]:
            # KAITO's own defaults carry some of these; only a value that asks for something deserves a word.
            if value not in (None, False, "none"):
                self.settings.notes.append(f"{place} has no effect: {self.dropped[section][key]}")
            return
        name = self.renamed.get(section, {}).get(key, key)
        if name != key:
            self.settings.notes.append(f"{place} is called {name} now")
            if key == "warmup_ratio" and value == 1:
                # A whole number would be read as a number of steps.
                value = 0.999999
        if name not in self.known[section]:
            self.problems.add(f"{place}: no such key{self.elsewhere(section, key)}")
            return
        if name in kept:
            self.problems.add(f"{place}: {name} is given under its old and its new name")
            return
        fitting, converted = fit(value, self.known[section][name])
        if not fitting:
            wanted = readable(self.known[section][name])
            self.problems.add(f"{place}: {value!r} is of the wrong type, {wanted} wanted")
            return
        kept[name] = converted

    def elsewhere(self, section: str, key: str) -> str:
        """A hint for an unknown key: the section that has it, or the nearest key of this one."""
        for other in SECTIONS:
            if other != section and (key in self.known[other] or key in self.renamed.get(other, {})):
                return f" here; it belongs to {other}"
        own = [*self.known[section], *self.renamed.get(section, {}), *self.dropped[section]]
        return nearest(key, own)

    def require(self, section: str, key: str, fine: bool, wanted: str, value) -> None:
        """Adds a problem unless the value is fine."""
        if not fine:
            self.problems.add(f"{self.place(section, key)}: {value!r} must be {wanted}")

    def model(self) -> None:
        """ModelConfig."""
        values = self.values("ModelConfig")
        old = values.pop("torch_dtype", None)
        dtype = values.pop("dtype", None) or old
        if dtype is not None:
            dtype = dtype.removeprefix("torch.")
            self.require("ModelConfig", "torch_dtype", dtype in DTYPES, f"one of {', '.join(DTYPES)}", dtype)
        self.settings.dtype = None if dtype == "auto" else dtype
        self.settings.chat_template = values.pop("chat_template", None)
        self.settings.model = values

    def quantization(self) -> None:
        """QuantizationConfig, with QLoRA's defaults when the method asks for it."""
        values = self.values("QuantizationConfig")
        four, eight = values.get("load_in_4bit"), values.get("load_in_8bit")
        if four and eight:
            self.problems.add(f"{self.place('QuantizationConfig')}: load_in_4bit and load_in_8bit exclude each other")
        if self.settings.method == "qlora":
            if four is False or eight:
                self.problems.add(
                    f"{self.place('QuantizationConfig')}: the method qlora needs load_in_4bit: true; "
                    "use the method lora for anything else"
                )
            values = {**DEFAULT_QLORA, **values, "load_in_4bit": True}
            values.pop("load_in_8bit", None)
        elif four or eight:
            self.settings.notes.append(
                f"{self.place('QuantizationConfig')}: the base model is quantised as this says, although the method is lora"
            )
        else:
            values = {}
        kind = values.get("bnb_4bit_quant_type", "nf4")
        self.require("QuantizationConfig", "bnb_4bit_quant_type", kind in ("nf4", "fp4"), "nf4 or fp4", kind)
        for key in ("bnb_4bit_compute_dtype", "bnb_4bit_quant_storage"):
            if key in values:
                values[key] = str(values[key]).removeprefix("torch.")
        compute = values.get("bnb_4bit_compute_dtype", "bfloat16")
        self.require("QuantizationConfig", "bnb_4bit_compute_dtype", compute in DTYPES[:3], f"one of {', '.join(DTYPES[:3])}", compute)
        self.settings.quantization = values

    def lora(self) -> None:
        """LoraConfig."""
        values = {**DEFAULT_LORA, **self.values("LoraConfig")}
        self.require("LoraConfig", "r", values["r"] > 0, "more than 0", values["r"])
        self.require("LoraConfig", "lora_alpha", values["lora_alpha"] > 0, "more than 0", values["lora_alpha"])
        rate = values["lora_dropout"]
        self.require("LoraConfig", "lora_dropout", 0 <= rate < 1, "at least 0 and less than 1", rate)
        modules = values.get("target_modules")
        self.require("LoraConfig", "target_modules", modules is None or len(modules) > 0, "a name or a list of names", modules)
        if isinstance(modules, str) and re.fullmatch(r"[\w.]+(\s*,\s*[\w.]+)+", modules):
            values["target_modules"] = [name.strip() for name in modules.split(",")]
        self.settings.lora = values

    def arguments(self) -> None:
        """TrainingArguments."""
        values = self.values("TrainingArguments")
        section = "TrainingArguments"
        positive = (
            "num_train_epochs",
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "gradient_accumulation_steps",
            "learning_rate",
            "max_length",
            "logging_steps",
            "save_steps",
        )
        for key in positive:
            value = values.get(key)
            self.require(section, key, value is None or value > 0, "more than 0", value)
        if values.get("bf16") and values.get("fp16"):
            self.problems.add(f"{self.place(section)}: bf16 and fp16 exclude each other")
        if values.get("auto_find_batch_size"):
            self.settings.notes.append(
                f"{self.place(section, 'auto_find_batch_size')} helps on GPUs only: on a CPU, "
                "a container that takes too much memory is ended from outside"
            )
        values.setdefault("learning_rate", DEFAULT_LEARNING_RATE)
        self.settings.arguments = values

    def dataset(self) -> None:
        """DatasetConfig."""
        values = self.values("DatasetConfig")
        section = "DatasetConfig"
        fraction = values.get("train_test_split", 1.0)
        self.require(section, "train_test_split", 0 < fraction <= 1, "more than 0 and at most 1", fraction)
        context, response = values.get("context_column"), values.get("response_column")
        if response is None and context is not None:
            self.problems.add(f"{self.place(section, 'context_column')}: needs response_column beside it")
        if response is not None and values.get("messages_column") is not None:
            self.problems.add(f"{self.place(section, 'messages_column')}: cannot be given beside response_column")
        seed = values.get("shuffle_seed")
        self.settings.dataset = DatasetSettings(
            shuffle=values.get("shuffle_dataset", True),
            seed=42 if seed is None else seed,
            train_fraction=fraction,
            path=values.get("dataset_path"),
            extension=values.get("dataset_extension"),
            context_column=context,
            response_column=response,
            messages_column=values.get("messages_column"),
            chat_template=values.get("apply_chat_template", True),
        )


def nearest(word: str, candidates) -> str:
    """" (did you mean …?)" for the candidate most like the word, or nothing."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    match = difflib.get_close_matches(str(word).lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {by_lower[match[0]]}?" if match else ""


def fit(value, annotation: str) -> tuple[bool, object]:
    """Whether a YAML value fits a Python type written as text, and the value as that type.

    YAML takes `1e-4` for text, since it has no dot: a text that reads as a number is one where a number is wanted.
    """
    words = set(re.findall(r"[A-Za-z_]+", annotation))
    if value is None:
        return "None" in words or "Optional" in words, None
    if value is False and any(word.endswith("Strategy") for word in words):
        # YAML takes an unquoted `no` for false.
        return True, "no"
    if isinstance(value, bool):
        return "bool" in words, value
    if isinstance(value, str):
        if words & {"str", "Literal"} or any(word.endswith("Strategy") for word in words):
            return True, value
        for kind, convert in (("int", int), ("float", float)):
            if kind in words:
                try:
                    return True, convert(value)
                except ValueError:
                    continue
        return False, value
    if isinstance(value, int):
        return bool(words & {"int", "float"}), value
    if isinstance(value, float):
        if "float" not in words and "int" in words and value.is_integer():
            return True, int(value)
        return "float" in words, value
    if isinstance(value, list):
        return "list" in words, value
    return isinstance(value, dict) and "dict" in words, value


def readable(annotation: str) -> str:
    """A Python type as people say it."""
    words = re.findall(r"[A-Za-z_]+", annotation)
    names = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "list": "a list", "dict": "a map"}
    said = list(dict.fromkeys(names[word] for word in words if word in names))
    return " or ".join(said) or "text"
