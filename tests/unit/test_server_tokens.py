import pytest
from store_parts import Clock, Paper

from fedloom.core.errors import IdentityError
from fedloom.server.database import Database
from fedloom.server.register import Register
from fedloom.server.tokens import Token, Tokens


@pytest.fixture
def tokens(database: Database, clock: Clock) -> Tokens:
    return Tokens(database, clock=clock)


def redeem(tokens: Tokens, token: tuple[str, str], name: str = "pi", key: str = "k1") -> str:
    return tokens.redeem(*token, name=name, key=key, issue=lambda _: Paper(255))[0]


def refusal(tokens: Tokens, token: tuple[str, str], name: str = "pi", key: str = "k1") -> str:
    with pytest.raises(IdentityError) as caught:
        redeem(tokens, token, name, key)
    return caught.value.code


def test_a_token_enrols_once(tokens: Tokens, database: Database) -> None:
    token = tokens.create()
    assert redeem(tokens, token) == "pi"
    assert refusal(tokens, token, "other", "k2") == "token-used"
    client = Register(database).client("pi")
    assert client is not None
    assert (client.serial, client.enrolled, client.revoked) == ("ff", 1000.0, None)


def test_a_token_of_several_uses_enrols_as_many(tokens: Tokens) -> None:
    token = tokens.create(uses=2)
    assert [redeem(tokens, token, name, f"k-{name}") for name in ("a", "b")] == ["a", "b"]
    assert refusal(tokens, token, "c", "k-c") == "token-used"


def test_a_device_that_missed_the_answer_asks_again_with_its_key(tokens: Tokens) -> None:
    token = tokens.create()
    assert redeem(tokens, token) == "pi"
    assert redeem(tokens, token, "another name") == "pi"
    assert refusal(tokens, token, key="k2") == "token-used"


def test_the_tokens_name_goes_before_the_devices(tokens: Tokens) -> None:
    assert redeem(tokens, tokens.create("kitchen"), "pi") == "kitchen"


def test_a_name_that_is_taken_or_missing_uses_nothing(tokens: Tokens) -> None:
    redeem(tokens, tokens.create())
    token = tokens.create()
    assert refusal(tokens, token, "pi", "k2") == "name"
    assert refusal(tokens, token, "", "k2") == "name"
    assert redeem(tokens, token, "pi-2", "k2") == "pi-2"


def test_an_unknown_id_or_a_wrong_secret_is_refused(tokens: Tokens) -> None:
    id, secret = tokens.create()
    assert refusal(tokens, ("nothing", secret)) == "token-unknown"
    assert refusal(tokens, (id, "guess")) == "token-forged"
    assert redeem(tokens, (id, secret)) == "pi"


def test_an_expired_or_revoked_token_is_refused(tokens: Tokens, clock: Clock) -> None:
    expiring, revoked = tokens.create(ttl_seconds=60), tokens.create(ttl_seconds=600)
    tokens.revoke(revoked[0])
    clock.now += 60
    assert refusal(tokens, expiring) == "token-expired"
    assert refusal(tokens, revoked) == "token-expired"
    with pytest.raises(IdentityError, match="no token 'x'"):
        tokens.revoke("x")


def test_if_no_certificate_can_be_made_nothing_is_used(tokens: Tokens) -> None:
    token = tokens.create()

    def fail(_: str) -> Paper:
        raise IdentityError("bad request", code="csr")

    with pytest.raises(IdentityError, match="bad request"):
        tokens.redeem(*token, name="pi", key="k1", issue=fail)
    assert redeem(tokens, token) == "pi"


def test_tokens_are_listed_without_their_secrets(tokens: Tokens, database: Database) -> None:
    first, second = tokens.create("a", ttl_seconds=5), tokens.create(uses=3)
    tokens.revoke(first[0])
    redeem(tokens, second)
    by_id = {token.id: token for token in tokens.list()}
    assert by_id == {
        first[0]: Token(first[0], "a", 1, 1000.0, 1005.0, True),
        second[0]: Token(second[0], "", 2, 1000.0, 4600.0, False),
    }
    stored = str(database.rows("SELECT * FROM tokens"))
    assert first[1] not in stored
    assert second[1] not in stored


def test_a_secret_has_192_bits(tokens: Tokens) -> None:
    _, secret = tokens.create()
    assert len(secret) == 32  # 6 bits a character
    assert "." not in secret
