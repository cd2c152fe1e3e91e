"""The command `quiesce`: one file for each subcommand, which is imported when it runs.

Exit codes: 0, success; 1, some runs of a sweep failed, or a file does not compute what its network
computes; 2, an error that the user can fix, in one line on stderr; 130, stopped by Ctrl-C. Any
other exception is a bug in quiesce and keeps its traceback.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

from quiesce.cli.listing import listing
from quiesce.errors import MissingExtraError, QuiesceError, RanksPartError, did_you_mean

COMMANDS = {
    "demo": "train on 5,000 digits, show oscillation and two cures; minutes",
    "toy": "show one weight that oscillates, with every method",
    "train": "train a quantized network from a recipe",
    "evaluate": "measure the accuracy of a trained network again",
    "diagnose": "show which layers oscillate, and what that does to batch norm",
    "probe": "measure how much loss the final codes of oscillating weights cause",
    "compare": "compare recipes over their seeds",
    "sweep": "train a grid of recipes and seeds",
    "tune": "search hyper-parameters of a recipe with Optuna",
    "report": "write an HTML page about one or more runs",
    "export": "export a trained network as integers, such as an ONNX file",
    "targets": "list the runtimes to export for, and what each takes",
    "audit": "show which numbers of a file are not those of its trained network",
    "verify": "compare an exported file with its trained network",
    "predict": "classify images with an exported file",
    "data": "fetch a data set, such as emoji",
    "recipes": "list the recipes that come with quiesce",
    "stacks": "list the other quantization toolkits that quiesce attaches to",
    "completion": "print a script that completes commands and flags in your shell",
    "help": "show the help of a command",
}
USAGE = """\
usage: quiesce COMMAND ...

Low-bit quantization-aware training in PyTorch that measures and cures weight
oscillation. Start with `quiesce demo`.

commands:"""
FOOT = """
`quiesce help COMMAND` shows the help of a command, `quiesce --version` the version."""

RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
"""Environment variables with the rank of this process; the first one that is set counts."""

BAD_INPUT = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments after `quiesce`; None reads them from the command line.

    Returns:
        The exit code.
    """
    command, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        return _run(command, rest)
    except SystemExit as done:  # argparse has printed its help
        return int(done.code or 0)
    except RanksPartError as error:  # every process raises it, and only the first one reports it
        return _fail(str(error)) if _is_first() else BAD_INPUT
    except QuiesceError as error:
        return _fail(str(error))
    except BrokenPipeError:  # `head` or `less` has closed the output
        sys.stdout = None
        return 0
    except OSError as error:
        return _fail(f"{error.filename or command}: {error.strerror or error}")
    except MemoryError:
        return _fail(f"{command}: there is not enough memory")
    except KeyboardInterrupt as stop:
        _say(str(stop) or "stopped")
        return INTERRUPTED


def _run(command: str, rest: list[str]) -> int:
    if command == "help":
        if rest and not rest[0].startswith("-"):
            return _run(rest[0], ["--help"])
        command = "--help"
    if command in ("-h", "--help"):
        print("\n".join([USAGE, listing(COMMANDS, indent="  "), FOOT]))
        return 0
    if command in ("-V", "--version"):
        print(f"quiesce {version('quiesce')}")
        return 0
    if command not in COMMANDS:
        hint = did_you_mean(command, COMMANDS) or f"commands: {', '.join(COMMANDS)}"
        return _fail(f"unknown command {command!r}; {hint}")
    try:
        module = import_module(f"quiesce.cli.{command}")
    except ModuleNotFoundError as error:
        if (error.name or "quiesce").split(".")[0] == "quiesce":
            raise
        raise MissingExtraError(f"`quiesce {command}`", "train") from error
    return module.main(rest)


def _fail(message: str) -> int:
    _say(message)
    return BAD_INPUT


def _is_first() -> bool:
    """Return whether this is the first process of Lightning, torchrun or Slurm."""
    rank = next((os.environ[name] for name in RANKS if name in os.environ), "0")
    return rank == "0"


def _say(message: str) -> None:
    print(f"quiesce: {' '.join(message.split())}", file=sys.stderr)
