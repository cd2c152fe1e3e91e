"""The command `quiesce`: one file per subcommand, loaded when it is asked for.

Exit codes: 0 done; 1 some runs of a sweep failed; 2 something the user can mend, told in one line
on stderr; 130 stopped by Ctrl-C. Anything else that goes wrong is a defect of quiesce and keeps its
traceback.
"""

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version

from quiesce.errors import MissingExtraError, QuiesceError, RanksPartError

COMMANDS = {
    "train": "train a quantized network by a recipe",
    "evaluate": "measure the network of a run folder again",
    "diagnose": "see which layers of a run oscillate, and what it does to batch norm",
    "probe": "see what is lost by the codes that oscillating weights ended on",
    "compare": "recipes side by side, over their seeds",
    "sweep": "train a grid of recipes and seeds",
    "export": "write the network of a run folder as a file of integers",
    "verify": "compare an exported file with the run it is of, layer by layer",
    "predict": "name pictures with an exported file",
    "recipes": "list the recipes that come with quiesce",
    "report": "write a page that shows what happened in runs",
    "demo": "see oscillation and two cures on 5,000 digits, in minutes",
    "toy": "see one weight oscillate, and what each method makes of it",
}
USAGE = "usage: quiesce COMMAND ...   (quiesce COMMAND --help tells more)"

RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
"""Variables that number the processes of a run, the surest first."""

BAD_INPUT = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: What follows `quiesce` on the command line; None reads it from there.

    Returns:
        The exit code.
    """
    command, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        return _run(command, rest)
    except SystemExit as done:  # argparse has printed its help
        return int(done.code or 0)
    except RanksPartError as error:  # every process has it: the first one tells
        return _fail(str(error)) if _is_first() else BAD_INPUT
    except QuiesceError as error:
        return _fail(str(error))
    except BrokenPipeError:  # the reader of our output, head or less, has seen enough
        sys.stdout = None
        return 0
    except OSError as error:  # a disk or a folder that does not do what was asked
        return _fail(f"{error.filename or command}: {error.strerror or error}")
    except MemoryError:
        return _fail(f"{command}: there is not enough memory for what this asks for")
    except KeyboardInterrupt as stop:
        _say(str(stop) or "stopped")
        return INTERRUPTED


def _run(command: str, rest: list[str]) -> int:
    if command in ("-h", "--help"):
        print(_help())
        return 0
    if command in ("-V", "--version"):
        print(f"quiesce {version('quiesce')}")
        return 0
    if command not in COMMANDS:
        near = get_close_matches(command, COMMANDS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"commands: {', '.join(COMMANDS)}"
        return _fail(f"unknown command {command!r}; {hint}")
    try:
        module = import_module(f"quiesce.cli.{command}")
    except ModuleNotFoundError as error:
        if (error.name or "quiesce").split(".")[0] == "quiesce":
            raise
        raise MissingExtraError(f"`quiesce {command}`", "train") from error
    return module.main(rest)


def _help() -> str:
    lines = [f"  {name:<10} {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [USAGE, "", "Quantization-aware training whose weights come to rest.", "", *lines]
    )


def _fail(message: str) -> int:
    _say(message)
    return BAD_INPUT


def _is_first() -> bool:
    """Whether this is the first of the processes that a launcher, Lightning's or torchrun, made."""
    rank = next((os.environ[name] for name in RANKS if name in os.environ), "0")
    return rank == "0"


def _say(message: str) -> None:
    print(f"quiesce: {' '.join(message.split())}", file=sys.stderr)
