"""Shows progress: bars in a terminal, an occasional plain line in a log."""

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from time import perf_counter
from types import TracebackType
from typing import Any, TypeVar

from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

T = TypeVar("T")

Beat = Callable[[str, int, int], None]
"""Callback with the name of a training stage, its completed steps, and its total steps."""

BEAT_S = 1.0
"""Minimum number of seconds between two calls of a `Beat`."""

NOTES = {
    "loss": "loss {:.3f}",
    "top1_percent": "top-1 {:.1f}",
    "oscillating": "osc. {:.2%}",
    "frozen": "frozen {:.2%}",
}
"""Logged metrics that a line shows, and their formats."""

EVERY = 10
"""Optimizer steps between two readings of the metrics."""

LOG_EVERY_S = 30.0
"""Seconds between two lines in a log."""


def progress_console() -> Console:
    """Return the console for progress, on stderr, and silence Lightning's hints.

    Lightning logs its devices and tips, and warns about the number of workers of a data loader.
    None of that concerns quantization, and `data.workers` is the user's choice.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    return Console(stderr=True)


class Display:
    """Shows the progress of the stages of a run; used as a context manager.

    Args:
        console: The console. One that is not a terminal gets plain lines: one every `LOG_EVERY_S`
            seconds of training, and one at the end of each training stage. None shows nothing.
        beat: Called regularly in training stages, for programs that monitor the run.
    """

    def __init__(self, console: Console | None = None, beat: Beat = lambda *_: None) -> None:
        self._beat = beat
        self._silent = console is None
        self._log = None if console is None or console.is_terminal else console
        self._lines = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=10, table_column=Column(no_wrap=True)),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            _NoteColumn(),
            console=console,
            disable=console is None or not console.is_terminal,
        )

    def __enter__(self) -> "Display":
        self._lines.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._lines.stop()

    def tell(self, text: str) -> None:
        """Print a message on its own line."""
        if not self._silent:
            self._lines.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def training(self, title: str) -> Callback:
        """Return the callback that shows the progress of a training stage."""
        return _TrainingLine(self._lines, self._log, title, self._beat)

    def track(self, items: Iterable[T], title: str, total: int) -> Iterator[T]:
        """Yield `items`, and show a progress line until the last one."""
        line = self._lines.add_task(title, total=total, note="")
        try:
            for item in items:
                yield item
                self._lines.advance(line)
        finally:
            self._lines.remove_task(line)


class _NoteColumn(ProgressColumn):
    """The newest metrics; the column that is cut in a narrow terminal."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["note"], style="dim", no_wrap=True, overflow="ellipsis")


class _TrainingLine(Callback):
    def __init__(self, lines: Progress, log: Console | None, title: str, beat: Beat) -> None:
        self._beat = beat
        self._beat_s = 0.0
        self._lines = lines
        self._log = log
        self._title = title
        self._line: TaskID | None = None
        self._logged_s = perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._logged_s = perf_counter()
        if trainer.is_global_zero:
            total = int(trainer.estimated_stepping_batches)
            self._line = self._lines.add_task(self._title, total=total, note="")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._line is not None:
            self._lines.update(self._line, completed=trainer.global_step)
            if trainer.global_step % EVERY == 0:
                self._tell(trainer)
            if perf_counter() - self._beat_s >= BEAT_S:
                self._beat_s = perf_counter()
                total = int(trainer.estimated_stepping_batches)
                self._beat(self._title, trainer.global_step, total)
            if self._log is not None and perf_counter() - self._logged_s >= LOG_EVERY_S:
                self._write(
                    f"{trainer.global_step} of {trainer.estimated_stepping_batches}", trainer
                )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._line is not None:
            self._tell(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tell(trainer)
        self._write(str(trainer.global_step), trainer)

    def _write(self, steps: str, trainer: Trainer) -> None:
        if self._log is not None and trainer.is_global_zero:
            text = f"{self._title}: {steps} steps, {self._notes(trainer)}"
            self._log.print(text, markup=False, highlight=False, soft_wrap=True)
            self._logged_s = perf_counter()

    def _tell(self, trainer: Trainer) -> None:
        if self._line is not None:
            self._lines.update(self._line, note=self._notes(trainer))

    def _notes(self, trainer: Trainer) -> str:
        known = trainer.callback_metrics
        return " ".join(
            text.format(known[each].item()) for each, text in NOTES.items() if each in known
        )
