"""Reports: one JSON object a line on standard output, text for people on standard error, the end for the kubelet.

Only this module writes to standard output. Libraries print there too, so a run moves their output to standard error
and keeps the real one for itself.
"""

from __future__ import annotations

import json
import math
import os
import sys

from .failure import Failure

# The kubelet copies this file into the container's status; it keeps at most 4096 bytes.
TERMINATION_LOG = "/dev/termination-log"
TERMINATION_BYTES = 4096


class Reporter:
    """Writes the lines. A reporter of a process that is not the first one of several stays silent."""

    def __init__(self, stream=None, silent: bool = False, termination_log: str | None = None):
        self.stream = stream or sys.stdout
        self.silent = silent
        self.termination_log = termination_log or os.environ.get("KAITO_TERMINATION_LOG", TERMINATION_LOG)

    def take_standard_output(self) -> None:
        """From now on only this reporter reaches standard output; everybody else's prints go to standard error."""
        sys.stdout.flush()
        self.stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def line(self, kind: str, **values) -> None:
        """Writes one JSON line; numbers that JSON has no word for become null."""
        if self.silent:
            return
        record = {"kaito": kind, **{key: plain(value) for key, value in values.items()}}
        self.stream.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        self.stream.flush()

    def note(self, text: str) -> None:
        """Tells a fact that changes what the user wrote or may expect."""
        self.line("note", message=text)
        if not self.silent:
            print(f"note: {text}", file=sys.stderr, flush=True)

    def done(self, **values) -> None:
        """Reports success, also to the kubelet."""
        self.line("done", **values)
        self._terminate("Done: " + ", ".join(f"{key} {plain(value)}" for key, value in values.items()))

    def failure(self, failure: Failure) -> None:
        """Reports the end of a run that failed, also to the kubelet."""
        self.line("error", reason=failure.reason, exitCode=failure.exit_code, message=failure.message)
        if not self.silent:
            print(f"error: {failure.reason}: {failure.message}", file=sys.stderr, flush=True)
        # A process that was stopped because another one failed must not write over the cause.
        if failure.reason != "Stopped" or not self._terminated():
            self._terminate(f"{failure.reason}: {failure.message}")

    def _terminated(self) -> bool:
        return os.path.isfile(self.termination_log) and os.path.getsize(self.termination_log) > 0

    def _terminate(self, text: str) -> None:
        # Outside a pod the file does not exist and must not be made.
        if self.silent or not os.path.isfile(self.termination_log):
            return
        try:
            with open(self.termination_log, "wb") as file:
                file.write(text.encode()[:TERMINATION_BYTES])
        except OSError as error:
            print(f"note: {self.termination_log} was not written: {error}", file=sys.stderr)


def plain(value):
    """A value as JSON can hold it: rounded to seven significant digits, not-a-number and infinity as None."""
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value
