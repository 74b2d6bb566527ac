"""How far a study is: a bar on a terminal, a line now and then elsewhere."""

import time
from typing import Any

from summer_prep.console import progress_on_terminal
from summer_train.settings.options import Log

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts the models of a study that are trained; the time left follows from how long those took."""

    def __init__(self, n_models: int, log: Log) -> None:
        self.n_models, self.log, self.n_finished = n_models, log, 0
        self.started = self.said = time.monotonic()
        self.bar: Any = None

    def __enter__(self) -> "Progress":
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (MofNCompleteColumn(), TextColumn("models"), BarColumn(), TimeElapsedColumn(), TextColumn("left"))
        self.bar = progress_on_terminal(*columns, TimeRemainingColumn())
        self.bar.start()
        self.line = self.bar.add_task("", total=self.n_models)
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def finish(self, n_models: int) -> None:
        """Count the models of a stack that ended."""
        self.n_finished += n_models
        self.bar.update(self.line, completed=self.n_finished)
        now = time.monotonic()
        if self.bar.disable and now - self.said > SECONDS_BETWEEN_LINES and self.n_finished < self.n_models:
            self.said = now
            left_s = (now - self.started) * (self.n_models / self.n_finished - 1)
            self.log(f"{self.n_finished}/{self.n_models} models, about {left_s:.0f} s left")
