"""How far a study is: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from summer_prep.console import progress_on_terminal
from summer_train.settings.options import Log

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress(n_models: int, log: Log) -> Iterator[Callable[[int], None]]:
    """Yield what counts the models of a stack that ended; the time left follows from how long those took."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    started = logged = time.monotonic()
    columns = (MofNCompleteColumn(), TextColumn("models"), BarColumn(), TimeElapsedColumn(), TextColumn("left"))
    with progress_on_terminal(*columns, TimeRemainingColumn()) as bar:
        line = bar.add_task("", total=n_models)

        def finish(n_ended: int) -> None:
            nonlocal logged
            bar.update(line, advance=n_ended)
            now, n_finished = time.monotonic(), bar.tasks[line].completed
            if bar.disable and now - logged > SECONDS_BETWEEN_LINES and n_finished < n_models:
                logged = now
                left_s = (now - started) * (n_models / n_finished - 1)
                log(f"{n_finished:.0f}/{n_models} models, about {left_s:.0f} s left")

        yield finish
