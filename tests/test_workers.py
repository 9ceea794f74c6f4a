"""Processes that share out work: answers in order, errors by name, and nobody left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from userclue.errors import DataError, Interrupted
from userclue.workers import Workers

MODULE = """
import os, signal, sys, time
from userclue.errors import DataError
from userclue.workers import serve

def begin(task):
    if task.get("refuse"):
        raise DataError("row 7: no such thing; do another")
    def answer(request):
        print("a library speaks")
        time.sleep(request.get("sleep", 0))
        if "signal" in request:
            os.kill(os.getpid(), request["signal"])
        if "exit" in request:
            raise KeyError("lost key")
        if "wrong" in request:
            raise DataError("row 9: wrong; do right")
        return {"pid": os.getpid(), "number": request["number"]}, bytes([request["number"]]) * 100_000
    return answer

serve(begin)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "work_of_a_test.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "work_of_a_test"


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("count", [1, 3])
def test_answers_come_in_order_from_all_of_them_and_all_end(module: str, count: int) -> None:
    requests = [{"number": number, "sleep": 0.02 * (number % 3 == 0)} for number in range(20)]
    with Workers(module, {}, count) as workers:
        assert workers.start_seconds > 0
        answers = list(workers.answers(requests))
    assert [head["number"] for head, _ in answers] == list(range(20))
    assert all(content == bytes([number]) * 100_000 for number, (_, content) in enumerate(answers))
    pids = {head["pid"] for head, _ in answers}
    assert len(pids) == count
    assert not any(alive(pid) for pid in pids)


def test_requests_are_taken_as_the_answers_are(module: str) -> None:
    taken = []

    def requests():
        for number in range(50):
            taken.append(number)
            yield {"number": number}

    with Workers(module, {}, 2) as workers:
        answers = workers.answers(requests())
        next(answers)
        assert len(taken) == 5
        answers.close()


@pytest.mark.parametrize(
    ("request_", "kind", "message"),
    [
        ({"wrong": True}, DataError, "^row 9: wrong; do right$"),
        ({"signal": signal.SIGKILL}, Interrupted, "a worker process was ended by SIGKILL; if memory is short, use fewer workers"),
        ({"exit": True}, RuntimeError, "a worker process ended with code 1: KeyError: 'lost key'"),
    ],
    ids=["ours", "killed", "defect"],
)
def test_what_ends_one_worker_is_said_and_ends_all(module: str, request_: dict[str, object], kind: type[Exception], message: str) -> None:
    requests = [{"number": 0}, {"number": 1}, {"number": 2, **request_}, {"number": 3, "sleep": 600}, *({"number": 4} for _ in range(30))]
    with Workers(module, {}, 2) as workers:
        begin, answers = time.monotonic(), workers.answers(requests)
        pids = {next(answers)[0]["pid"], next(answers)[0]["pid"]}
        with pytest.raises(kind, match=message):
            next(answers)
        assert time.monotonic() - begin < 590  # the sleeper was not waited for
    assert not any(alive(pid) for pid in pids)


def test_a_task_that_is_refused_starts_nothing(module: str) -> None:
    with pytest.raises(DataError, match="row 7: no such thing; do another"), Workers(module, {"refuse": True}, 2):
        raise AssertionError
    with pytest.raises(RuntimeError, match=r"ended with code 1: .*No module named nowhere"), Workers("nowhere", {}, 1):
        raise AssertionError


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_none_outlives_a_parent_that_is_killed(module: str) -> None:
    code = f"""
from userclue.workers import Workers
with Workers({module!r}, {{}}, 2) as workers:
    print(*(head["pid"] for head, _ in workers.answers([{{"number": n, "sleep": 0.1}} for n in range(4)])), flush=True)
    list(workers.answers([{{"number": 1, "sleep": 0.5}} for _ in range(1000)]))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = {int(pid) for pid in parent.stdout.readline().split()}
        assert len(pids) == 2
        parent.kill()
    wait_until(lambda: not any(alive(pid) for pid in pids))
