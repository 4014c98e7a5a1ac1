import subprocess
import sys
from pathlib import Path

from small_server import plan_of

ROOT = Path(__file__).parents[2]


def test_a_plan_is_a_job_and_its_first_model_at_least(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert (plan.job.name, plan.start.vector.tolist()) == ("small", [0.0] * 4)
    assert (plan.classes, plan.files, plan.judging, plan.finishing) == ((), {}, None, None)


def test_what_uses_it_needs_no_model() -> None:
    code = "import fedloom.server.serve, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "False\n", done.stderr
