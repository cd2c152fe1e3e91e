"""`python -m quiesce.sweeps.worker TASK`: runs one task in a separate process.

A worker checks the folder first, so a task can be given to any machine any number of times:
finished work is kept, a run with a checkpoint resumes, and anything else starts again.

It ends when its parent process is gone. So after a machine or scheduler stops the parent, no
training process remains that writes into the folder of another attempt.
"""

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence

from quiesce.errors import QuiesceError
from quiesce.recipes.reading import read_recipe
from quiesce.run_folder.folder import (
    FLOAT_CHECKPOINT,
    FLOAT_NETWORK,
    SUMMARY,
    has_checkpoint,
    run_folder,
    wait_until_unlocked,
)
from quiesce.sweeps.processes import INTERRUPTED
from quiesce.sweeps.task import Task
from quiesce.sweeps.task_state import write_progress
from quiesce.training.display import Display, progress_console
from quiesce.training.job import load
from quiesce.training.run import resume, run
from quiesce.training.stages import float_stage
from quiesce.training.trainer import is_first_process
from quiesce.user_code import TRUST

PARENT_S = 0.5
"""Seconds between two checks of the parent."""

GRACE_S = 30.0
"""Seconds that a run has to stop by itself once its parent is gone."""

ORPHAN_S = 60.0
"""Seconds to wait for an earlier attempt at the same task that has not ended yet."""

BAD_INPUT = 2
"""Exit code, as for the command `quiesce`."""

CONTINUES = "QUIESCE_CONTINUES"
"""Environment variable that passes the decision of the first process to its child processes."""


def work(task: Task, display: Display) -> None:
    """Run a task, or the rest of it.

    Raises:
        QuiesceError: The message states what to change.
    """
    last = task.folder / (FLOAT_NETWORK if task.only_float else SUMMARY)
    if CONTINUES not in os.environ:
        if last.is_file():
            return
        wait_until_unlocked(task.folder, ORPHAN_S)  # `resume` refuses a folder at work
        continues = not task.only_float and has_checkpoint(task.folder)
        if not continues and task.folder.exists():
            shutil.rmtree(task.folder)
        os.environ[CONTINUES] = "1" if continues else ""
    flags = []
    if task.weights is not None:
        flags = [f"--model.weights={task.weights}", "--float_stage.epochs=null"]
    recipe = read_recipe(str(task.recipe), [*flags, f"--run={task.folder}"])
    if not task.only_float:
        if os.environ[CONTINUES]:  # by the recipe in the folder, which may have been moved
            trust = [TRUST] if recipe.user_code else []
            resume(task.folder, display, flags=[*flags, *trust])
        else:
            run(recipe, display)
        return
    job = load(recipe, display)
    with run_folder(task.folder, owner=is_first_process()):
        float_stage(job)
        if is_first_process():
            shutil.rmtree((task.folder / FLOAT_CHECKPOINT).parents[1], ignore_errors=True)


def _end_with(parent: int) -> None:
    """Stop this process, as Ctrl-C does, once `parent` is gone; runs in a thread."""
    while os.getppid() == parent:
        time.sleep(PARENT_S)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(GRACE_S)
    os._exit(1)


def main(argv: Sequence[str]) -> int:
    """Run the task in `argv`; an error is one line on stderr."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    task = Task.from_json(argv[0])

    def beat(stage: str, step: int, steps: int) -> None:
        write_progress(task.progress, stage, step, steps)

    try:
        with Display(progress_console(), beat) as display:
            work(task, display)
    except QuiesceError as error:
        sys.stderr.write(f"{error}\n")
        return BAD_INPUT
    except KeyboardInterrupt as stopped:
        sys.stderr.write(f"{stopped or 'stopped'}\n")
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
