"""Tasks within a budget, and what becomes of one that takes more than there is."""

import pytest

from fedloom.client.memory import Memory, allowed, bare, spare
from fedloom.client.settings import ClientSettings
from fedloom.core.errors import ModelError
from fedloom.tuning.ways import Way

MB = 10**6
WAYS = [
    Way(8, 1, False, 512, 400 * MB),
    Way(4, 2, False, 256, 220 * MB),
    Way(1, 8, False, 64, 80 * MB),
    Way(1, 8, True, 64, 50 * MB),
]
FULL = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"


class Machine:
    """One with so much memory that only ways up to some size go well."""

    def __init__(self, most: int, error: type[Exception] = RuntimeError) -> None:
        self.most, self.error = most, error
        self.tried: list[Way] = []
        self.given_back = 0

    def train(self, way: Way) -> str:
        self.tried.append(way)
        if way.bytes > self.most:
            raise self.error(FULL)
        return "trained"

    def give_back(self) -> None:
        self.given_back += 1

    def memory(self, most: int = 10**9) -> Memory:
        return Memory(most, 300 * MB, give_back=self.give_back)


@pytest.mark.parametrize(
    ("most", "index"), [(700 * MB, 0), (699 * MB, 1), (400 * MB, 2), (350 * MB, 3)]
)
def test_the_budget_is_of_the_whole_process(most: int, index: int) -> None:
    assert Machine(0).memory(most).choose(WAYS) == WAYS[index]


def test_what_is_kept_counts_as_taken() -> None:
    assert Machine(0).memory(700 * MB).choose(WAYS, 1) == WAYS[1]


def test_a_budget_that_is_too_small_says_which_would_do() -> None:
    text = r"memory: 349 MB may be taken here; the smallest that would do is 350 MB \(batches in 8"
    with pytest.raises(ModelError, match=text):
        Machine(0).memory(349 * MB).choose(WAYS)


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_out_of_memory_tries_the_next_smaller_way(error: type[Exception]) -> None:
    machine = Machine(100 * MB, error)
    memory = machine.memory()
    assert memory.run(WAYS, memory.choose(WAYS), machine.train) == "trained"
    assert machine.tried == WAYS[:3]
    assert machine.given_back == 2
    assert memory.choose(WAYS) == WAYS[2]  # the next task does not begin with what failed


def test_out_of_memory_in_the_smallest_way() -> None:
    machine = Machine(0)
    memory = machine.memory()
    with pytest.raises(ModelError, match=r"out of memory in the smallest way there is: .*allocate"):
        memory.run(WAYS, WAYS[0], machine.train)
    assert machine.tried == WAYS


def test_other_errors_are_passed_on() -> None:
    def broken(way: Way) -> str:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        Machine(0).memory().run(WAYS, WAYS[0], broken)


def test_what_the_owner_says() -> None:
    assert allowed(ClientSettings(memory="900MB")) == 900 * MB
    for engine in ("torch", "onnx"):
        given = ClientSettings(memory="900MB", engine=engine)
        assert spare(given) == 900 * MB - bare(given)
    assert bare(ClientSettings(engine="onnx")) < bare(ClientSettings(engine="torch")) / 2
    assert spare(ClientSettings(memory="1MB")) == 1
    assert allowed(ClientSettings()) > 0
