from lora_rounds import start as with_pairs
from step_runs import LAYOUT, SEED, advance, start

from fedloom.codecs.dense import Float32
from fedloom.codecs.downlink import Downlink
from fedloom.core.step_ledger import advanced
from fedloom.core.types import State
from fedloom.server.contents import Contents
from fedloom.server.models import Holding, Models


def played(rounds: int) -> State:
    state = State(start())
    for number in range(1, rounds + 1):
        state = advanced(state, advance(number), SEED)
    return state


def models(rounds: int = 3, contents: Contents | None = None) -> tuple[Models, Downlink]:
    state = played(rounds)
    made = Downlink(state, Float32(), LAYOUT, number=rounds, following=True)
    return Models(made, contents or Contents()), made


def held(made: Downlink, version: int) -> Holding:
    return Holding(version, made.digest_of(version))


def test_what_is_given_depends_on_what_is_held() -> None:
    found, made = models()
    new, old = found.given("ann", None), found.given("bob", held(made, 2))
    assert (new.base, old.base, old.keeps, old.digest) == (0, 2, 3, made.digest)
    assert old.content.size < new.content.size < found.content.size
    assert (found.size("bob"), found.size("cy")) == (old.content.size, found.content.size)
    assert found.given("cy", held(made, 2)).content == old.content
    beyond = found.given("di", Holding(7, b"x"))  # of a run before this one
    assert (beyond.base, beyond.content, beyond.resync) == (None, found.content, False)


def test_a_rank_has_one_form_that_all_of_it_share() -> None:
    params, contents = with_pairs(), Contents()
    made = Downlink(State(params), Float32(), params.layout, number=0)
    found = Models(made, contents)
    assert found.cut(None) is None
    one, two = found.cut(1), found.cut(2)
    assert one is not None
    assert two is not None
    assert one.size < two.size < found.content.size
    assert found.cut(1) == one
    assert made.cut(1) is made.cut(1)
    assert set(contents._stored) == {c.sha256 for c in (found.content, one, two)}
    found.forget()
    assert not contents._stored
    assert models()[0].cut(1) is None  # who follows has all of it


def test_another_model_than_ours_is_replaced_and_told_once() -> None:
    found, made = models()
    other = found.given("ann", Holding(2, b"?" * 16))
    assert (other.base, other.content, other.resync) == (None, found.content, True)
    assert not found.given("ann", Holding(2, b"?" * 16)).resync
    assert found.given("bob", None, resync=True).resync
    assert found.given("bob", None, resync=True).base is None
    assert not found.given("cy", held(made, 2)).resync


def test_it_is_offered_until_it_is_forgotten() -> None:
    contents = Contents()
    found, made = models(contents=contents)
    given = found.given("ann", held(made, 2))
    assert b"".join(bytes(data) for _, _, data in contents.open(given.content.sha256)).startswith(
        b"FLA1"
    )
    found.forget((found.content.sha256,))
    assert list(contents._stored) == [found.content.sha256]
    assert found.given("bob", held(made, 2)).base is None  # too late for another form
    found.forget()
    assert list(contents._stored) == [found.content.sha256]


def test_where_clients_do_not_follow_they_are_given_the_model() -> None:
    state = State(start())
    found = Models(Downlink(state, Float32(), LAYOUT, number=4), Contents())
    given = found.given("ann", None)
    assert (given.content, given.base, given.digest) == (found.content, None, b"")
