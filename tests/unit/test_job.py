from pathlib import Path

import pytest

from fedloom.core.config import override, to_table
from fedloom.core.errors import ConfigError
from fedloom.core.job import Job, Stage, job_from
from fedloom.core.registry import Component
from fedloom.core.work import LocalWork
from fedloom.sources import job_of


def test_an_empty_table_is_the_default_job() -> None:
    assert job_from({}) == Job()
    assert Job().stages == (Stage(),)


def test_the_keys_of_a_stage_may_stand_at_the_top() -> None:
    job = job_from({"rounds": 3, "local": {"lr": 0.5}, "strategy": "fedadam"})
    assert job.stages == (Stage(rounds=3, local=LocalWork(lr=0.5), strategy=Component("fedadam")),)


def test_the_top_is_the_default_of_every_stage() -> None:
    table = {
        "clients_per_round": 4,
        "local": {"lr": 0.5, "epochs": 2},
        "stages": [{"rounds": 1}, {"rounds": 2, "local": {"lr": 0.1}, "train": "head"}],
    }
    one, two = job_from(table).stages
    assert one == Stage(rounds=1, clients_per_round=4, local=LocalWork(lr=0.5, epochs=2))
    assert two.local == LocalWork(lr=0.1, epochs=2)
    assert (two.clients_per_round, two.train) == (4, ("head",))
    assert job_from(table).rounds == 3


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"local": {"lr": "x"}}, "^local.lr = 'x': expected a number"),
        ({"rounds": 0}, "^rounds = 0: 1 or more"),
        ({"stages": [{"locl": {}}]}, r"^stages\[0\].locl: unknown key; .* mean 'local'\?"),
        ({"stages": []}, r"^stages = \[\]: expected one or more \[\[stages\]\] tables"),
        ({"stages": 3}, "^stages = 3: expected one or more"),
        ({"stages": [3]}, r"^stages = \[3\]: expected one or more"),
        ({"clients_per_round": 0}, "^clients_per_round = 0: 1 or more"),
        ({"train": []}, r"^train = \(\): at least one tag, block or name"),
        ({"name": " "}, "^name = ' ': not empty"),
        ({"seed": -1}, r"^seed = -1: in \[0, 2\^63\)"),
        ({"backbone": {"task": "x"}}, "^backbone.task = 'x': one of classify, causal-lm"),
        ({"backbone": {"dtype": "fp8"}}, "^backbone.dtype = 'fp8': one of auto, float32, bfloat16"),
        ({"backbone": {"max_tokens": 1}}, "^backbone.max_tokens = 1: 2 or more"),
        ({"data": {"max_clients": -1}}, "^data.max_clients = -1: 0 or more"),
        ({"evaluate": {"every": 0}}, "^evaluate.every = 0: 1 or more"),
        ({"evaluate": {"split": "train"}}, "^evaluate.split = 'train': one of valid, test"),
        ({"run": {"workers": -1}}, "^run.workers = -1: 0 or more"),
        ({"run": {"keep": 0}}, "^run.keep = 0: 1 or more"),
        ({"run": {"references": ["best"]}}, "^run.references = 'best': one of central, local"),
    ],
    ids=str,
)
def test_a_mistake_is_told_under_the_name_it_was_written_by(
    table: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        job_from(table)


def write(folder: Path, text: str) -> Path:
    path = folder / "job.toml"
    path.write_text(text)
    return path


def test_a_job_is_read_with_its_data_beside_it(tmp_path: Path) -> None:
    path = write(tmp_path, 'name = "mine"\n[data]\npath = "sub/x.csv"\n[local]\nlr = 0.5\n')
    job = job_of(path)
    assert job.name == "mine"
    assert job.data.path == str(tmp_path.resolve() / "sub" / "x.csv")
    assert job.stages[0].local.lr == 0.5


def test_an_override_wins_over_every_stage(tmp_path: Path) -> None:
    path = write(tmp_path, "[local]\nlr = 1\n[[stages]]\nlocal.lr = 2\n[[stages]]\nrounds = 7\n")
    job = job_of(
        path, override({}, ["local.lr=3", "seed=9", "strategy.name=fedadam", "strategy.tau=0.5"])
    )
    assert [stage.local.lr for stage in job.stages] == [3.0, 3.0]
    assert [stage.rounds for stage in job.stages] == [10, 7]
    assert job.stages[0].strategy == Component("fedadam", {"tau": 0.5})
    assert job.seed == 9


def test_overrides_over_malformed_stages_are_told(tmp_path: Path) -> None:
    path = write(tmp_path, "stages = [3]\n")
    with pytest.raises(ConfigError, match=r"stages = \[3\]: expected one or more"):
        job_of(path, override({}, ["rounds=3"]))


def test_a_stage_may_have_a_codec_of_its_own() -> None:
    inner = {"name": "nnadq", "weight": 0.01}
    own = {"name": "block-drop", "rate": 0.5, "inner": inner}
    table = {"codec_up": "bf16", "stages": [{"codec_up": own, "patience": 5}, {}]}
    job = job_from(table)
    assert [job.up(i).name for i in (0, 1)] == ["block-drop", "bf16"]
    assert job_from(to_table(job)) == job
    assert to_table(job)["stages"][0]["codec_up"] == own
