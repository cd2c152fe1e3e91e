"""`quiesce completion SHELL`: a script that completes commands, flags and names in a shell."""

from argparse import ArgumentParser
from collections.abc import Sequence
from importlib import import_module

from quiesce.cli import COMMANDS
from quiesce.cli.arguments import Arguments
from quiesce.extras import require

INSTALL = {
    "bash": "quiesce completion bash > ~/.local/share/bash-completion/completions/quiesce",
    "zsh": "quiesce completion zsh > ~/.zfunc/_quiesce   (with ~/.zfunc in fpath)",
    "fish": "quiesce completion fish > ~/.config/fish/completions/quiesce.fish",
}
"""Maps a shell to the command that installs its script."""


def parser() -> Arguments:
    """Return the parser of `quiesce completion`."""
    made = Arguments(
        prog="quiesce completion",
        description="Print a script that completes the commands of quiesce, their flags and the "
        "names of recipes. For example: " + "; ".join(INSTALL.values()),
    )
    made.add_argument("shell", choices=list(INSTALL), help="shell that reads the script")
    return made


def main(argv: Sequence[str]) -> int:
    """Print the script for the shell in `argv`."""
    known = parser().parse_args(argv)
    shtab = require("shtab", "`quiesce completion`", "train")
    print(shtab.complete(all_commands(paths=shtab.FILE), shell=known.shell))
    return 0


def all_commands(paths: object) -> ArgumentParser:
    """Return one parser with every command as a subcommand.

    Args:
        paths: The `complete` attribute of arguments that are files or folders; see the shtab
            documentation.
    """
    whole = ArgumentParser(prog="quiesce", description=__doc__)
    whole.add_argument("-V", "--version", action="store_true", help="print the version")
    commands = whole.add_subparsers()
    for name, text in COMMANDS.items():
        if name == "help":
            commands.add_parser(name, help=text).add_argument("command", choices=list(COMMANDS))
            continue
        parser = import_module(f"quiesce.cli.{name}").parser()
        for argument in getattr(parser, "paths", ()):
            argument.complete = paths
        commands.add_parser(name, help=text, parents=[parser], add_help=False)
    return whole
