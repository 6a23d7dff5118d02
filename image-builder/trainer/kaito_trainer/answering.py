"""Greedy answers of a model with or without an adapter, to compare what a training changed."""

from __future__ import annotations

import peft
import torch
import transformers

from . import model
from .config import Settings
from .model_files import ModelFiles
from .report import Reporter


def answer(files: ModelFiles, adapter: str | None, prompts: list[str], limit: int, reporter: Reporter) -> None:
    """Writes one line for each prompt. float32 throughout: narrower types decide near-ties differently elsewhere."""
    tokenizer = model.tokenizer(files, Settings("lora"))
    base = transformers.AutoModelForCausalLM.from_pretrained(
        files.folder, dtype=torch.float32, local_files_only=True, device_map={"": model.device()}
    )
    whole = peft.PeftModel.from_pretrained(base, adapter) if adapter else base
    whole.eval()
    for prompt in prompts:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(base.device)
        with torch.no_grad():
            made = whole.generate(**ids, max_new_tokens=limit, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        tokens = made[0][ids["input_ids"].shape[1] :].tolist()
        reporter.line("answer", prompt=prompt, text=tokenizer.decode(tokens, skip_special_tokens=True), tokens=tokens)
