"""Help: quick, complete, with an example, and the same summary in both places."""

import importlib
import inspect
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from userclue.cli.app import COMMANDS
from userclue.version import VERSION


def plain(text: str) -> str:
    """Help without its boxes and line breaks."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(run: Callable[..., Any], name: str) -> None:
    module, function, summary = COMMANDS[name]
    outcome = run(name, "--help")
    assert outcome.code == 0
    assert outcome.err == ""
    text = plain(outcome.out)
    assert f"Usage: userclue {name}" in text
    assert summary in text
    assert f"Example: userclue {name}" in text
    assert "--json" in text
    doc = inspect.getdoc(getattr(importlib.import_module(module), function))
    assert doc is not None
    assert doc.splitlines()[0] == summary
    assert run(name, "-h").out == outcome.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(run: Callable[..., Any], name: str) -> None:
    """Each option line ends in words, not in its type or in its default alone."""
    bare = []
    for line in run(name, "--help").out.splitlines():
        option = re.match(r"│ [* ]  (--[\w-]+)(.*)│$", line)
        if option:
            words = re.sub(r"\s(--[\w-]+|-\w)\b|<[^>]*>?|\[[^\]]*\]|\(default [^)]*\)?", " ", option[2])
            if not re.search(r"[A-Za-z0-9]{2}", words):
                bare.append(option[1])
    assert not bare


def test_the_list_of_commands(run: Callable[..., Any]) -> None:
    outcome = run("--help")
    text = plain(outcome.out)
    for name, (_, _, summary) in COMMANDS.items():
        assert f"{name} {summary}" in text
    assert "userclue demo --out runs/demo" in text
    assert run().out.strip() == outcome.out.strip()  # no word at all: the same help


def test_the_version(run: Callable[..., Any]) -> None:
    assert run("--version").out == f"userclue {VERSION}\n"


def test_an_unknown_command_is_wrong_usage(run: Callable[..., Any]) -> None:
    outcome = run("pretrian", "data")
    assert outcome.code == 2
    assert "pretrian" in outcome.err
    assert "Did you mean 'pretrain'" in plain(outcome.err)
    assert "Traceback" not in outcome.err


def test_the_list_of_commands_needs_no_torch_and_is_quick() -> None:
    code = (
        "import sys; sys.argv = ['userclue', '--help']\n"
        "from userclue.cli.app import main\n"
        "try:\n    main()\nfinally:\n    heavy = {'torch', 'duckdb', 'pyarrow', 'sklearn', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "    print('heavy:', sorted(heavy), file=sys.stderr)"
    )
    took = []
    for _ in range(3):  # the fastest of three: this machine may be busy
        begin = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        took.append(time.perf_counter() - begin)
        if took[-1] < 0.8:
            break
    assert done.stderr == "heavy: []\n"
    assert "Commands" in done.stdout
    assert min(took) < 3  # the 0.8 s are measured on an idle machine; this catches a heavy import that has no name above
