"""Loads the base model and its tokenizer, quantised when asked, on the device that is there."""

from __future__ import annotations

import os

import torch
import transformers

from .config import Settings
from .failure import Failure
from .learning import keep_gradients
from .model_files import ModelFiles

transformers.utils.logging.disable_progress_bar()

# Marks in /proc/cpuinfo of processors that multiply bfloat16 in hardware.
BFLOAT16_MARKS = ("avx512_bf16", "amx_bf16")


def device(rank: int = 0) -> str:
    """The device of one process: its GPU, or the CPU."""
    return f"cuda:{rank}" if torch.cuda.is_available() else "cpu"


def bfloat16_is_fast(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Whether the device computes in bfloat16 itself."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        with open(cpuinfo, encoding="ascii", errors="replace") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return any(mark in flags.split() for mark in BFLOAT16_MARKS)


def choose_dtype(settings: Settings, notes: list[str]) -> str:
    """The weights' type: what the configuration says if the device can, else what it can."""
    if torch.cuda.is_available() and not bfloat16_is_fast():
        if settings.dtype in (None, "bfloat16"):
            notes.append("this GPU does not compute in bfloat16; float16 is used")
            return "float16"
        return settings.dtype
    if settings.dtype is None:
        return "bfloat16" if bfloat16_is_fast() else "float32"
    if settings.dtype == "bfloat16" and not bfloat16_is_fast():
        notes.append("this processor emulates bfloat16, which is slow; torch_dtype: float32 would be faster")
    return settings.dtype


def load(files: ModelFiles, settings: Settings, dtype: str, rank: int = 0):
    """The base model, ready to be trained. A GGUF file must have been converted before."""
    quantization = quantization_of(settings, dtype)
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            files.folder,
            dtype=getattr(torch, dtype),
            device_map={"": device(rank)},
            local_files_only=True,
            **({"quantization_config": quantization} if quantization else {}),
            **settings.model,
        )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, ImportError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise Failure("ModelInvalid", f"{files.folder}: cannot be loaded: {first_line(error)}") from error
    keep_gradients(model)
    return model


def quantization_of(settings: Settings, dtype: str):
    """The configuration object for bitsandbytes, or None."""
    if not settings.quantization:
        return None
    values = dict(settings.quantization)
    if "bnb_4bit_compute_dtype" in values and dtype == "float16":
        # A GPU without bfloat16 cannot compute in it here either.
        values["bnb_4bit_compute_dtype"] = "float16"
    return transformers.BitsAndBytesConfig(**values)


def tokenizer(files: ModelFiles, settings: Settings):
    """The tokenizer, with the configuration's chat template if it has one."""
    try:
        found = transformers.AutoTokenizer.from_pretrained(
            files.folder, local_files_only=True, trust_remote_code=settings.model.get("trust_remote_code", False)
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise Failure("ModelInvalid", f"{files.folder}: the tokenizer cannot be loaded: {first_line(error)}") from error
    template = settings.chat_template
    if template:
        path = template if os.path.isabs(template) else os.path.join(files.folder, template)
        if "\n" not in template and os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                template = file.read()
        elif "{" not in template:
            raise Failure("ConfigInvalid", f"chat_template {template!r}: is neither a file nor a template")
        found.chat_template = template
    if found.pad_token is None:
        # Padding is masked out of the loss, so any token does.
        found.pad_token = found.eos_token or found.unk_token
    return found


def convert(files: ModelFiles, target: str, dtype: str = "bfloat16") -> ModelFiles:
    """Unpacks a GGUF file into a folder as transformers reads it; the folder appears when it is whole."""
    from . import model_files

    if not files.gguf:
        raise Failure("ModelInvalid", f"{files.folder}: is no GGUF file, there is nothing to convert")
    part = target + ".part"
    try:
        # Left packed, as is the default, a GGUF model can be neither trained nor saved.
        model = transformers.AutoModelForCausalLM.from_pretrained(
            files.folder,
            gguf_file=files.gguf,
            dtype=getattr(torch, dtype),
            quantization_config=transformers.GgufConfig(dequantize=True),
            local_files_only=True,
        )
        words = transformers.AutoTokenizer.from_pretrained(files.folder, gguf_file=files.gguf, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, ImportError) as error:
        path = os.path.join(files.folder, files.gguf)
        raise Failure("ModelInvalid", f"{path}: cannot be converted: {first_line(error)}") from error
    model.save_pretrained(part)
    words.save_pretrained(part)
    readable_by_all(part)
    os.rename(part, target)
    return model_files.find(target)


def readable_by_all(folder: str) -> None:
    """Opens files to other users: the libraries write weights that only the writer may read."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            os.chmod(path, 0o644)


def first_line(error: BaseException) -> str:
    """An error's text on one line, or its type when it has none."""
    return " ".join(str(error).split())[:600] or type(error).__name__
