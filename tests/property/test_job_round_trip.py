import json

from hypothesis import given
from hypothesis import strategies as st

from fedloom.core.config import build, to_table
from fedloom.core.job import (
    BackboneConfig,
    DataConfig,
    EvaluateConfig,
    Job,
    Stage,
    job_from,
)
from fedloom.core.registry import Component
from fedloom.core.running import RunConfig
from fedloom.core.work import LocalWork

NUMBERS = st.floats(0, 1e6)
WORDS = st.text("abc-_.é ", min_size=1, max_size=8)
PATTERNS = st.lists(WORDS, min_size=1, max_size=3).map(tuple)
OPTION = st.one_of(st.integers(), st.booleans(), WORDS, NUMBERS)
OPTIONS = st.one_of(OPTION, st.lists(OPTION, max_size=3).map(tuple))
KEYS = st.sampled_from(["alpha", "rank", "block"])
COMPONENTS = st.builds(Component, WORDS, st.dictionaries(KEYS, OPTIONS))
WORK = st.builds(
    LocalWork,
    epochs=st.integers(1, 9),
    steps=st.integers(0, 9),
    optimizer=st.sampled_from(["sgd", "adamw"]),
    lr=st.floats(1e-9, 10),
    betas=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    prox_mu=NUMBERS,
)
STAGES = st.builds(
    Stage,
    name=WORDS,
    rounds=st.integers(1, 99),
    clients_per_round=st.integers(1, 99),
    train=PATTERNS,
    up=PATTERNS,
    down=st.one_of(st.just(()), PATTERNS),
    keep=st.one_of(st.just(()), PATTERNS),
    local=WORK,
    strategy=COMPONENTS,
)
JOBS = st.builds(
    Job,
    name=WORDS.filter(lambda text: bool(text.strip())),
    seed=st.integers(0, 2**63 - 1),
    backbone=st.builds(BackboneConfig, name=WORDS, normalize=st.booleans()),
    data=st.builds(DataConfig, path=WORDS, max_clients=st.integers(0, 99)),
    partition=COMPONENTS,
    adapter=COMPONENTS,
    codec_up=COMPONENTS,
    stages=st.lists(STAGES, min_size=1, max_size=3).map(tuple),
    evaluate=st.builds(EvaluateConfig, every=st.integers(1, 9)),
    run=st.builds(RunConfig, memory_gb=NUMBERS, references=st.just(("central",))),
)


@given(JOBS)
def test_a_job_comes_back_from_its_table(job: Job) -> None:
    assert job_from(to_table(job)) == job
    assert job_from(json.loads(json.dumps(to_table(job)))) == job


@given(WORK)
def test_work_comes_back_from_json(work: LocalWork) -> None:
    assert build(LocalWork, json.loads(json.dumps(to_table(work)))) == work
