import pytest

from fedloom.core.errors import IdentityError
from fedloom.security.tokens import JoinToken, digest, matches, new_id, new_secret

SECRET = "abcdefghijklmnopqrstu_-9"
PIN = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("example.org", "example.org:7440"),
        ("192.0.2.7", "192.0.2.7:7440"),
        ("2001:db8::1", "[2001:db8::1]:7440"),
        ("fe80::1%eth0", "[fe80::1%eth0]:7440"),
        ("pi", "pi:7440"),
    ],
)
def test_a_token_is_one_line_and_reads_back(host: str, address: str) -> None:
    token = JoinToken(host, 7440, "a1b2c3", SECRET, PIN)
    assert str(token) == f"flt1.{address}.a1b2c3.{SECRET}.{PIN}"
    assert JoinToken.parse(f"  {token}\n") == token


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "begins with 'flt1.'"),
        (f"flt2.h:1.abcd.{SECRET}.{PIN}", "begins with 'flt1.'"),
        (f"flt1.h:1.{SECRET}.{PIN}", "a part is missing"),
        (f"flt1.h.abcd.{SECRET}.{PIN}", "HOST:PORT expected"),
        (f"flt1.h:x.abcd.{SECRET}.{PIN}", "HOST:PORT expected"),
        (f"flt1.h:0.abcd.{SECRET}.{PIN}", "port = 0: 1 to 65535"),
        (f"flt1.h:65536.abcd.{SECRET}.{PIN}", "port = 65536: 1 to 65535"),
        (f"flt1.:1.abcd.{SECRET}.{PIN}", "host = ''"),
        (f"flt1.a b:1.abcd.{SECRET}.{PIN}", "host = 'a b'"),
        (f"flt1.2001:db8::1:1.abcd.{SECRET}.{PIN}", "an IPv6 address stands in brackets"),
        (f"flt1.h:1.a!cd.{SECRET}.{PIN}", "id: 4 to 64"),
        (f"flt1.h:1.abcd.{SECRET[:21]}.{PIN}", "secret: at least 22"),
        (f"flt1.h:1.abcd.{SECRET}.{PIN[:-1]}", "pin: 64 hex digits"),
        (f"flt1.h:1.abcd.{SECRET}.{PIN.upper()}", "pin: 64 hex digits"),
    ],
)
def test_what_is_wrong_with_a_token_is_named(text: str, why: str) -> None:
    with pytest.raises(IdentityError, match=why) as caught:
        JoinToken.parse(text)
    assert SECRET[:21] not in str(caught.value)


def test_the_secret_is_not_shown_by_accident() -> None:
    assert SECRET not in repr(JoinToken("h", 1, "abcd", SECRET, PIN))


def test_fresh_ids_and_secrets_make_a_token() -> None:
    ids, secrets = {new_id() for _ in range(100)}, {new_secret() for _ in range(100)}
    assert len(ids) == len(secrets) == 100
    for name, secret in zip(ids, secrets, strict=True):
        assert len(secret) == 32  # 24 bytes in base 64: 192 bits
        token = JoinToken("h", 1, name, secret, PIN)
        assert JoinToken.parse(str(token)) == token


def test_what_is_stored_tells_the_right_secret_and_no_other() -> None:
    stored = digest(SECRET)
    assert len(stored) == 64
    assert SECRET not in stored
    assert matches(SECRET, stored)
    assert not matches(SECRET + "x", stored)
    assert not matches("é", stored)
