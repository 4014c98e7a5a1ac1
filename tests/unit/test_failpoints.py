import ast
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from fedloom.server.failpoints import FAILPOINTS, SPLIT, VARIABLE

SERVER = Path(__file__).parents[2] / "server"


def reached() -> Counter[str]:
    """How often each failpoint stands in the server's code."""
    names: Counter[str] = Counter()
    for path in sorted(SERVER.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "reach":
                (argument,) = node.args
                names[ast.literal_eval(argument)] += 1
    return names


def run(code: str, failpoint: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    if failpoint is not None:
        environment[VARIABLE] = failpoint
    code = "from fedloom.server.failpoints import reach\n" + code
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )


def test_each_failpoint_stands_once_in_the_code_and_nothing_else_does() -> None:
    assert reached() == Counter(FAILPOINTS + SPLIT)


def test_nothing_happens_unless_it_is_asked_for() -> None:
    code = "reach('rows-written'); print('on')"
    assert run(code, None).stdout == run(code, "rows-committed").stdout == "on\n"


@pytest.mark.parametrize(("asked", "before"), [("rows-written", 0), ("rows-written:3", 2)])
def test_the_process_ends_the_first_time_or_the_nth(asked: str, before: int) -> None:
    code = "for i in range(9): reach('rows-committed'); reach('rows-written'); print(i, flush=True)"
    done = run(code, asked)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == [str(i) for i in range(before)]


def test_an_unknown_one_is_an_error() -> None:
    done = run("reach('rows-written')", "row-written")
    assert "FEDLOOM_FAILPOINT = 'row-written': one of schema-written, " in done.stderr
