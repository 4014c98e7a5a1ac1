from collections.abc import Iterator

import pytest
from store_parts import Clock, Paper

from fedloom.core.errors import IdentityError
from fedloom.server.database import Database
from fedloom.server.register import Enrolled, Register


@pytest.fixture
def register(database: Database, clock: Clock) -> Register:
    return Register(database, quarantine=3, clock=clock)


@pytest.fixture
def beside(database: Database, clock: Clock) -> Iterator[Register]:
    """What a command beside the running server opens."""
    opened = Database.open(database.folder, exclusive=False)
    yield Register(opened, clock=clock)
    opened.close()


def enrol(register: Register, name: str, serial: int = 1) -> None:
    token = register.tokens.create()
    register.tokens.redeem(*token, name=name, key=f"k{serial}", issue=lambda _: Paper(serial))


def known(register: Register, name: str) -> Enrolled:
    client = register.client(name)
    assert client is not None
    return client


def refusal(register: Register, name: str, not_before: float, serial: int) -> str:
    with pytest.raises(IdentityError) as caught:
        register.let_in(name, not_before, serial)
    return caught.value.code


def test_who_is_enrolled_is_let_in(register: Register) -> None:
    assert refusal(register, "pi", 900.0, 1) == "not-enrolled"
    enrol(register, "pi")
    register.let_in("pi", 900.0, 1)


def test_a_command_beside_the_server_takes_effect_on_the_next_call(
    register: Register, beside: Register
) -> None:
    enrol(beside, "pi")
    register.let_in("pi", 900.0, 1)
    beside.revoke("pi")
    assert refusal(register, "pi", 900.0, 1) == "revoked"
    assert not register.paused
    beside.paused = True
    assert register.paused
    beside.paused = False
    assert not register.paused


def test_who_was_revoked_comes_back_with_a_new_token_only(register: Register, clock: Clock) -> None:
    enrol(register, "pi", 1)
    clock.now = 2000.0
    register.revoke("pi")
    # No certificate of it counts, whenever it began, and none is renewed.
    assert [refusal(register, "pi", t, 1) for t in (900.0, 2000.0, 3000.0)] == ["revoked"] * 3
    register.renewed("pi", 5)
    assert refusal(register, "pi", 900.0, 5) == "revoked"

    enrol(register, "pi", 2)
    register.let_in("pi", 1700.0, 2)  # the new one, though it began before
    assert refusal(register, "pi", 1999.0, 1) == "revoked"
    register.renewed("pi", 3)
    register.let_in("pi", 1800.0, 3)
    register.let_in("pi", 2001.0, 2)
    assert known(register, "pi").revoked == 2000.0


def test_who_is_unknown_cannot_be_revoked_or_cleared(register: Register) -> None:
    for act in (register.revoke, register.clear):
        with pytest.raises(IdentityError, match="no client 'x'"):
            act("x")
    register.accepted("x")
    register.seen("x", num_examples=1, device="")
    assert not register.refused("x", "norm")
    assert register.clients() == []


def test_what_clients_say_is_written_when_asked(register: Register, beside: Register) -> None:
    enrol(register, "pi")
    register.seen("pi", num_examples=70, device="aarch64, 4 cores")
    assert (known(register, "pi").num_examples, known(register, "pi").seen) == (70, 1000.0)
    assert known(beside, "pi").num_examples == 0
    register.flush()
    beside.revoke("pi")  # whereupon it is read again
    there = known(beside, "pi")
    assert (there.num_examples, there.device, there.seen) == (70, "aarch64, 4 cores", 1000.0)


def test_refusals_in_a_row_put_a_client_in_quarantine(
    register: Register, beside: Register, clock: Clock
) -> None:
    enrol(register, "pi")
    assert [register.refused("pi", "norm") for _ in range(2)] == [False, False]
    register.accepted("pi")  # counted anew
    assert [register.refused("pi", "norm") for _ in range(2)] == [False, False]
    clock.now = 2000.0
    assert register.refused("pi", "not-finite")
    assert not register.refused("pi", "norm")  # it is already
    for where in (register, beside):
        assert known(where, "pi").quarantined == 2000.0
    client = known(beside, "pi")
    assert (client.strikes, client.accepted, client.refused) == (3, 1, 5)
    assert client.last_code == "not-finite"
    register.let_in("pi", 900.0, 1)  # it may come, and is told

    beside.clear("pi")
    cleared = known(register, "pi")
    assert (cleared.quarantined, cleared.strikes, cleared.refused) == (None, 0, 6)
    register.flush()
    assert not register.refused("pi", "norm")


def test_no_quarantine_if_none_is_wanted(database: Database) -> None:
    register = Register(database)
    enrol(register, "pi")
    assert not any(register.refused("pi", "norm") for _ in range(50))


def test_decisions_beside_do_not_undo_what_is_not_written_yet(
    register: Register, beside: Register
) -> None:
    enrol(register, "pi")
    register.seen("pi", num_examples=70, device="")
    beside.revoke("pi")
    assert (known(register, "pi").num_examples, known(register, "pi").revoked) == (70, 1000.0)


def test_clients_are_listed_by_name_and_there_after_opening_again(
    register: Register, database: Database
) -> None:
    for serial, name in enumerate(("b", "c", "a")):
        enrol(register, name, serial)
    assert [client.id for client in register.clients()] == ["a", "b", "c"]
    assert Register(database).clients() == register.clients()


def test_a_failed_flush_is_done_again(
    register: Register, database: Database, beside: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    enrol(register, "pi")
    register.seen("pi", num_examples=70, device="")

    def full(*, durable: bool = True) -> None:
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(database, "writing", full)
        with pytest.raises(OSError, match="no room"):
            register.flush()
    register.flush()
    assert known(beside, "pi").num_examples == 70
