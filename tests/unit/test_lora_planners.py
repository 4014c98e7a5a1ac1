"""Who trains which factor, and how much of the rank."""

from collections import Counter

import pytest
from lora_rounds import RANK, layout_of, start

from fedloom.core.cuts import MIB
from fedloom.core.errors import ConfigError, LayoutError, StrategyError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Client, ClientTask, Cohort, Params, Selectors, State, Tier
from fedloom.strategies.contract import check_ranks
from fedloom.strategies.fedavg import fedavg
from fedloom.strategies.lora.exact import flora
from fedloom.strategies.lora.means import fedsa_lora, ffa_lora, rolora
from fedloom.strategies.lora.planners import Ranks

MANY = tuple(Client(f"client-{i}", 10) for i in range(400))


def trained(state: State, tasks: dict[str, ClientTask]) -> set[str]:
    (selectors,) = {task.selectors for task in tasks.values()}
    return {tag for spec in selectors.sent(state.params.layout) for tag in spec.tags} - {"lora"}


@pytest.mark.parametrize("train", [("*",), ("lora", "head")])
def test_rolora_begins_with_b_and_trains_the_head_always(train: tuple[str, ...]) -> None:
    params, cohort = start(), Cohort(7, MANY[:3], selectors=Selectors(train))
    found = [
        trained(State(params, version), dict(rolora().configure(State(params, version), cohort)))
        for version in range(4)
    ]
    assert found == [{"B", "head"}, {"A", "head"}, {"B", "head"}, {"A", "head"}]


@pytest.mark.parametrize("train", [("*",), ("B", "head")])
def test_ffa_lora_never_trains_a(train: tuple[str, ...]) -> None:
    cohort = Cohort(1, MANY[:2], selectors=Selectors(train))
    for version in (0, 1, 5):
        state = State(start(), version)
        assert trained(state, dict(ffa_lora().configure(state, cohort))) == {"B", "head"}


def test_a_client_whose_tensors_all_rest_sits_the_round_out() -> None:
    tiers, clients = (Tier("small", 0.5, train=("A",)),), (Client("a", 1, "small"), Client("b", 1))
    for version, there in ((0, {"b"}), (1, {"a", "b"})):
        tasks = rolora().configure(State(start(), version), Cohort(1, clients, tiers=tiers))
        assert set(tasks) == there


def test_what_rests_cannot_be_kept() -> None:
    cohort = Cohort(1, MANY[:1], selectors=Selectors(keep=("B", "head")))
    assert rolora().configure(State(start(), 0), cohort)
    with pytest.raises(LayoutError, match="is kept and does not train"):
        rolora().configure(State(start(), 1), cohort)


def test_a_model_without_factors_is_trained_whole() -> None:
    layout = Layout((TensorSpec("one", (2,)),))
    state = State(Params(layout, start().vector[:2]))
    for strategy in (ffa_lora(), rolora()):
        task = strategy.configure(state, Cohort(1, MANY[:1]))["client-0"]
        assert task.selectors == Selectors()


def test_fedsa_lora_wants_b_kept() -> None:
    cohort = Cohort(1, MANY[:2], selectors=Selectors(keep=("B", "head")))
    assert trained(State(start()), dict(fedsa_lora().configure(State(start()), cohort))) >= {"A"}
    with pytest.raises(ConfigError, match=r"fedsa-lora: keep = \[\]: expected 'B' among it"):
        fedsa_lora().configure(State(start()), Cohort(1, MANY[:2]))


def ranks_of(planner: Ranks, cohort: Cohort) -> dict[str, int | None]:
    return {name: t.rank for name, t in planner.plan(State(start()), cohort).items()}


def test_shares_are_drawn_from_names_and_stay() -> None:
    planner = Ranks(shares=((1, 0.5), (2, 0.25), (3, 0.25)))
    found = ranks_of(planner, Cohort(1, MANY, seed=4))
    counts = Counter(found.values())
    assert abs(counts[1] - 200) < 40  # four standard deviations of 10
    assert abs(counts[2] - 100) < 36
    assert ranks_of(planner, Cohort(9, MANY[7:9], seed=4)) == {
        name: found[name] for name in ("client-7", "client-8")
    }
    assert ranks_of(planner, Cohort(1, MANY, seed=5)) != found
    twice = Ranks(shares=((1, 2.0), (2, 1.0), (3, 1.0)))  # of their sum
    assert ranks_of(twice, Cohort(1, MANY, seed=4)) == found


def test_memory_gives_the_largest_rank_that_fits() -> None:
    planner = Ranks(memory=((1, 0), (2, 100), (3, 500)))
    clients = tuple(
        Client(name, 1, memory=mib * MIB)
        for name, mib in {"silent": 0, "small": 99, "middle": 100, "large": 2000}.items()
    )
    found = ranks_of(planner, Cohort(1, clients))
    assert found == {"silent": 1, "small": 1, "middle": 2, "large": 3}


def test_a_tier_s_rank_goes_before() -> None:
    tiers = (Tier("phone", 0.5, rank=2), Tier("laptop", 0.5))
    clients = (Client("a", 1, "phone"), Client("b", 1, "laptop"), Client("c", 1))
    assert ranks_of(Ranks(shares=((1, 1.0),)), Cohort(1, clients, tiers=tiers)) == {
        "a": 2,
        "b": 1,
        "c": 1,
    }
    assert ranks_of(Ranks(), Cohort(1, clients, tiers=tiers)) == {"a": 2, "b": None, "c": None}
    with pytest.raises(ConfigError, match=r"tiers.phone.rank = 0: 1 or more"):
        Tier("phone", 0.5, rank=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shares": ((1, 0.5),), "memory": ((1, 0),)}, "by shares or by memory, not both"),
        ({"shares": ((0, 0.5),)}, "ranks = 0: 1 or more"),
        ({"shares": ((1, 0.0),)}, "ranks: share = 0.0: above 0"),
        ({"memory": ((1, -1),)}, "ranks: memory = -1: 0 MiB or more"),
    ],
)
def test_rules_are_checked(options: dict[str, tuple[tuple[int, float], ...]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Ranks(**options)  # type: ignore[arg-type]


def test_ranks_above_the_adapter_s_are_refused_before_the_first_round() -> None:
    with pytest.raises(ConfigError, match=f"ranks = 4: 1 to the adapter's rank, {RANK}"):
        flora(ranks=((4, 1.0),)).init(start(side=2))


def test_ranks_that_nobody_can_have_are_refused_before_the_round() -> None:
    layout, task = layout_of(), ClientTask("a", 2, 1)
    check_ranks(fedavg(), [task], layout, 2)
    ranked = [ClientTask("a", 2, 1, rank=2)]
    check_ranks(flora(), ranked, layout, 2)
    with pytest.raises(StrategyError, match=r"configure, round 2: 'a' is asked for rank 2; the st"):
        check_ranks(fedavg(), ranked, layout, 2)
    for rank in (0, 4):
        with pytest.raises(StrategyError, match=rf"rank {rank}; the adapter has 1 to 3"):
            check_ranks(flora(), [ClientTask("a", 2, 1, rank=rank)], layout, 2)
