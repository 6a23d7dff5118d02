"""Follows a running training: progress lines, seals on checkpoints, and an orderly stop when the pod must go."""

from __future__ import annotations

import os
import signal
import time

import torch
import transformers

from . import checkpoints
from .failure import Failure
from .learning import LearningWatch
from .report import Reporter


class Progress(transformers.TrainerCallback):
    """What the library calls at every step, log and save."""

    def __init__(self, reporter: Reporter, watch: LearningWatch, fingerprint: str, clock=time.monotonic):
        self.reporter = reporter
        self.watch = watch
        self.fingerprint = fingerprint
        self.clock = clock
        self.began = 0.0
        self.first_step = 0
        self.last = (0.0, 0)
        self.first_loss: float | None = None
        self.last_loss: float | None = None
        self.evaluation_loss: float | None = None
        self.stopping = False

    def stop_on_signal(self) -> None:
        """From now on SIGTERM ends the run after the current step, with a checkpoint."""
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stopping", True))

    def on_train_begin(self, args, state, control, **kwargs):
        self.began = self.clock()
        self.first_step = state.global_step
        self.last = (self.began, 0)

    def on_log(self, args, state, control, logs=None, **kwargs):
        logs = logs or {}
        if "eval_loss" in logs:
            self.evaluation_loss = logs["eval_loss"]
            self.reporter.line("evaluation", step=state.global_step, steps=state.max_steps, loss=logs["eval_loss"])
        if "loss" not in logs:
            return
        self.first_loss = logs["loss"] if self.first_loss is None else self.first_loss
        self.last_loss = logs["loss"]
        now, tokens = self.clock(), int(logs.get("num_tokens", 0))
        before, tokens_before = self.last
        self.last = (now, tokens)
        each = (now - self.began) / max(1, state.global_step - self.first_step)
        self.reporter.line(
            "progress",
            step=state.global_step,
            steps=state.max_steps,
            epoch=state.epoch,
            loss=logs["loss"],
            gradNorm=logs.get("grad_norm"),
            learningRate=logs.get("learning_rate"),
            tokensPerSecond=round((tokens - tokens_before) / max(1e-9, now - before), 1),
            secondsLeft=round(each * (state.max_steps - state.global_step)),
        )
        self.watch.logged(state.global_step, logs["loss"], logs.get("grad_norm"))

    def on_step_end(self, args, state, control, **kwargs):
        if self.stopping:
            control.should_save = True
            control.should_training_stop = True
        return control

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.stopping:
            # The library ends the epoch early; the time left is for the checkpoint, not for scoring.
            control.should_evaluate = False
        return control

    def on_save(self, args, state, control, **kwargs):
        # Every process adds its own file; the seal is for all of them.
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        if state.is_world_process_zero:
            folder = os.path.join(args.output_dir, f"checkpoint-{state.global_step}")
            checkpoints.seal(folder, self.fingerprint)
            self.reporter.line("checkpoint", step=state.global_step, steps=state.max_steps)

    def raise_if_stopped(self) -> None:
        """Ends a run that was asked to stop before its last step."""
        if self.stopping:
            raise Failure("Stopped", "the container was asked to stop; the next start goes on from the last checkpoint")
