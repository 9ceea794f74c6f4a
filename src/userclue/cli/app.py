"""The command `userclue`: gathers the verbs, and turns every error into one clear line and its exit code."""

import errno
import importlib
import os
import sys
from typing import Annotated

import typer

from userclue.errors import UserclueError, interrupts_kept
from userclue.version import VERSION

# Each verb: where it lives, and the first line of its help, so that `userclue --help` need not load them all.
COMMANDS = {
    "demo": ("userclue.cli.demo", "demo_command", "Run the main job on the built-in data set: log to report. Takes minutes."),
    "audit": ("userclue.cli.data", "audit_command", "Look at a log: what is there, what is odd, what `prepare` would drop."),
    "prepare": ("userclue.cli.data", "prepare_command", "Turn an event log into a dataset: checked, ordered, numbered, memory-mapped."),
    "pretrain": ("userclue.cli.training", "pretrain_command", "Learn a user encoder from a dataset, without labels."),
    "finetune": ("userclue.cli.transfer", "finetune_command", "Fit a model to a task and compare it with baselines."),
    "evaluate": ("userclue.cli.transfer", "evaluate_command", "Score a fitted model on its test users, new labels or new data."),
    "embed": ("userclue.cli.vectors", "embed_command", "Write a vector for every user of a log, seen in training or not."),
    "report": ("userclue.cli.report", "report_command", "Make one self-contained HTML page of one or more runs."),
    "reproduce": (
        "userclue.cli.reproduce",
        "reproduce_command",
        "Run the paper's tables and figures again, or one table of all systems.",
    ),
    "doctor": ("userclue.cli.doctor", "doctor_command", "Tell what this machine has; verify datasets and artifacts."),
}

_INTERRUPTED = "interrupted; nothing was written"
_TYPER_INTERRUPTED = 130  # Typer turns Ctrl-C inside a command into this exit code, without a word


def build_app(wanted: str | None) -> typer.Typer:
    """The command line with the verb `wanted` loaded and the others known by name and summary only."""
    app = typer.Typer(
        name="userclue",
        help="User representations that transfer: from a behaviour log to vectors, fitted models and an honest comparison.",
        epilog="Start with: userclue demo --out runs/demo",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name, (module, function, summary) in COMMANDS.items():
        command = getattr(importlib.import_module(module), function) if name == wanted else _not_loaded
        app.command(name, short_help=summary)(command)
    return app


def _not_loaded() -> None:
    """Stands for a verb that was not asked for."""


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"userclue {VERSION}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    del version


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 a defect of ours, 2 usage, 3 data, 4 dataset or artifact, 5 interrupted."""
    wanted = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    try:
        with interrupts_kept():
            build_app(wanted)(_valued(sys.argv[1:]) if wanted == "finetune" else sys.argv[1:], prog_name="userclue")
    except UserclueError as error:
        _end(str(error), error.exit_code)
    except KeyboardInterrupt:
        _end(_INTERRUPTED, 5)
    except SystemExit as end:
        if end.code == _TYPER_INTERRUPTED:
            _end(_INTERRUPTED, 5)
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _end(f"{place}{error.strerror or error}{'; free some space and run again' if error.errno == errno.ENOSPC else ''}", 2)
    except Exception as error:
        if os.environ.get("USERCLUE_DEBUG"):
            raise
        _end(f"{type(error).__name__}: {error}; this is a defect of userclue, please report it (USERCLUE_DEBUG=1 shows where)", 1)


def _valued(words: list[str]) -> list[str]:
    """`--baselines` without a value, and `--no-baselines`, in full: Typer knows no option whose value may be left out."""
    full = {"--baselines": "--baselines=plain", "--no-baselines": "--baselines=none"}
    last = [after.startswith("-") for after in [*words[1:], "-"]]
    return [full[word] if word in full and (bare or word != "--baselines") else word for word, bare in zip(words, last, strict=True)]


def _end(message: str, code: int) -> None:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)
