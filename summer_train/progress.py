"""How far a study is: a bar on a terminal, a line now and then elsewhere; and how its processes are stopped."""

import time
from collections.abc import Sequence
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np

from summer_prep.console import progress_on_terminal
from summer_train.config import Say

EPOCHS = ".epochs"
"""In a study's folder while it is at work: what its processes have trained so far."""

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Shows how far a study is: a bar on a terminal, a line now and then elsewhere; and stops its processes.

    The processes count the model-epochs they have trained in a file that all of them map, a number for each stack; the
    last number asks them to stop.
    """

    def __init__(self, folder: Path, n_stacks: int, n_models: int, max_epochs: int, say: Say) -> None:
        self.n_models, self.max_epochs, self.say = n_models, max_epochs, say
        self.n_finished, self.n_epochs_of_finished = 0, 0
        self.path = folder / EPOCHS
        self.told = np.memmap(self.path, np.int64, "w+", shape=(n_stacks + 1,))
        self.is_over = Event()
        self.started = self.said = time.monotonic()

    def __enter__(self) -> "Progress":
        self.bar = progress_on_terminal(*_bar_columns())
        self.bar.start()
        self.line = self.bar.add_task("", total=self.n_models * self.max_epochs)
        self.thread = Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over.set()
        self.thread.join()
        self.bar.stop()
        self.path.unlink(missing_ok=True)

    def stop(self) -> None:
        """Ask all processes to stop after the epoch at hand."""
        self.told[-1] = 1

    def finish(self, n_models: int, n_epochs: int) -> None:
        """Count the models of a stack that ended, and the epochs that they took together."""
        self.n_finished += n_models
        self.n_epochs_of_finished += n_epochs

    def _watch(self) -> None:
        while not self.is_over.wait(0.2):
            n_epochs = int(self.told[:-1].sum())
            usual = self.n_epochs_of_finished / self.n_finished if self.n_finished else self.max_epochs
            expected = self.n_epochs_of_finished + (self.n_models - self.n_finished) * usual
            expected = max(expected, n_epochs + 1)
            done = f"{self.n_finished}/{self.n_models} models, {n_epochs} epochs"
            self.bar.update(self.line, completed=n_epochs, total=expected, description=done)
            now = time.monotonic()
            if self.bar.disable and now - self.said > SECONDS_BETWEEN_LINES:
                self.said = now
                left_s = (now - self.started) * (expected / max(1, n_epochs) - 1)
                self.say(f"{done}, about {left_s:.0f} s left" if n_epochs else f"{done}")


def _bar_columns() -> Sequence[Any]:
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
