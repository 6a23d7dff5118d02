"""The one error that ends a run: a reason for programs, an exit code for the Job, a text for people."""

from __future__ import annotations

# Exit codes, stable: a Job's pod failure policy may tell by them what a retry cannot cure.
USAGE = 2
CONFIG_INVALID = 3
DATASET_INVALID = 4
MODEL_INVALID = 5
NOT_LEARNING = 6
OUT_OF_MEMORY = 7
OUTPUT_NOT_WRITABLE = 8
TRAINING_FAILED = 9
STOPPED = 143

EXIT_CODES = {
    "UsageError": USAGE,
    "ConfigInvalid": CONFIG_INVALID,
    "DatasetInvalid": DATASET_INVALID,
    "ModelInvalid": MODEL_INVALID,
    "NotLearning": NOT_LEARNING,
    "OutOfMemory": OUT_OF_MEMORY,
    "OutputNotWritable": OUTPUT_NOT_WRITABLE,
    "TrainingFailed": TRAINING_FAILED,
    "Stopped": STOPPED,
}

# More problems than this are counted, not listed.
PROBLEMS_SHOWN = 20


class Failure(Exception):
    """Ends the run. `reason` is a key of EXIT_CODES; `message` is a sentence or several lines."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason
        self.message = message

    @property
    def exit_code(self) -> int:
        """The exit code that belongs to the reason."""
        return EXIT_CODES[self.reason]


class Problems:
    """Collects what is wrong with one input, so that all of it is told at once."""

    def __init__(self, reason: str, subject: str):
        self.reason = reason
        self.subject = subject
        self.listed: list[str] = []
        self.count = 0

    def add(self, problem: str) -> None:
        """Notes one problem; beyond PROBLEMS_SHOWN only the number grows."""
        self.count += 1
        if len(self.listed) < PROBLEMS_SHOWN:
            self.listed.append(problem)

    def raise_if_any(self) -> None:
        """Raises a Failure that names everything found so far."""
        if not self.count:
            return
        lines = list(self.listed)
        if self.count > len(lines):
            lines.append(f"and {self.count - len(lines)} more")
        if len(lines) == 1:
            raise Failure(self.reason, f"{self.subject}: {lines[0]}")
        listing = "\n".join(f"  - {line}" for line in lines)
        raise Failure(self.reason, f"{self.subject}: {self.count} problems\n{listing}")
