"""Keeps a run learning, and notices when it has stopped. Must not import torch."""

from __future__ import annotations

import math

from .failure import Failure

# So many logged steps in a row without any gradient are no accident.
PATIENCE = 3


class LearningWatch:
    """Looks at every logged step; raises Failure NotLearning after `patience` dead ones in a row.

    A step is dead when its gradient is exactly zero, or when its loss or gradient is not a number. With float16 mixed
    precision, gradients overflow now and then by design and the step is skipped: then only the loss counts.
    """

    def __init__(self, patience: int = PATIENCE, overflow_is_normal: bool = False):
        self.patience = max(1, patience)
        self.overflow_is_normal = overflow_is_normal
        self.dead_steps = 0

    def logged(self, step: int, loss: float | None, gradient_norm: float | None) -> None:
        """Takes one logged step."""
        fault = self.fault(loss, gradient_norm)
        self.dead_steps = self.dead_steps + 1 if fault else 0
        if self.dead_steps >= self.patience:
            raise Failure(
                "NotLearning",
                f"step {step}: {fault}, {self.dead_steps} logged steps in a row; the run cannot get better. "
                + ("Lower learning_rate, or use float32." if "number" in fault else
                   "Check that rows have answers within max_length and that target_modules are used by the model."),
            )

    def fault(self, loss: float | None, gradient_norm: float | None) -> str | None:
        """What is wrong with a step, or None."""
        if loss is not None and not math.isfinite(loss):
            return "the loss is not a number"
        if gradient_norm == 0.0:
            return "the gradient is exactly 0"
        if gradient_norm is not None and not math.isfinite(gradient_norm) and not self.overflow_is_normal:
            return "the gradient is not a number"
        return None


def keep_gradients(model) -> int:
    """Keeps bitsandbytes from repacking 4-bit layers for inference on a CPU; returns how many it would have.

    On processors with AVX512-BF16, the first evaluation packs such a layer for a fused kernel that has no gradient, and
    training does not undo that: every later gradient is exactly 0 and no error is raised (seen with 0.49 and 0.50). The
    layer asks this flag before it packs.
    """
    kept = 0
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False
            kept += 1
    return kept


def steps_of_run(rows: int, batch: int, accumulation: int, processes: int, epochs: float, max_steps: int) -> int:
    """Optimizer steps of a whole run."""
    if max_steps > 0:
        return max_steps
    batches = math.ceil(rows / (batch * processes))
    return max(1, math.ceil(epochs * max(1, math.ceil(batches / accumulation))))


def logging_steps(steps: int, wanted: float | None) -> int:
    """Steps between two progress lines: about fifty lines a run, and never so few that nothing could be noticed."""
    if wanted is None:
        return max(1, min(10, steps // 50))
    absolute = math.ceil(wanted * steps) if wanted < 1 else int(wanted)
    return max(1, min(absolute, steps // PATIENCE))


def checkpoint_steps(steps: int) -> int:
    """Steps between two checkpoints: about ten a run, not more often than every fifth step."""
    return max(5, min(500, steps // 10))
