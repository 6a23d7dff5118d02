"""Fine-tunes a causal language model with LoRA or QLoRA and leaves a PEFT adapter.

A thin layer over TRL and PEFT for the training step of a Workspace's tuning Job: it takes KAITO's configuration keys,
checks data and settings before anything expensive starts, trains with checkpoints, and reports in JSON lines.

What it may not do: use the network, write outside the output folder (temporary files aside), or go on when the run has
stopped learning. `failure`, `report`, `config`, `dataset`, `model_files`, `limits`,
`learning`, `finished`, `processes` and `checkpoints` must not import
torch or anything that does: `validate` runs on plain Python.
"""
