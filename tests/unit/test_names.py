import pytest

from fedloom.core.errors import IdentityError
from fedloom.security.names import (
    authority_uri,
    check_name,
    client_uri,
    read_client,
    read_federation,
)


@pytest.mark.parametrize(
    "name", ["pi-1", "Foo Bar <foo@x.org>", "../../etc", "Zoë 東京", "a/b?c#d%20", "x" * 200]
)
def test_a_name_survives_its_uri(name: str) -> None:
    assert check_name(name) == name
    uri = client_uri("f", name)
    assert uri.isascii()
    assert " " not in uri
    assert read_client(uri) == ("f", name)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "at least one letter"),
        ("   ", "at least one letter"),
        ("x" * 201, r"\(201 characters\): at most 200"),
        ("a\nb", r"'\\n' does not print"),
        ("a\x00", r"'\\x00' does not print"),
        ("\u202egro.x", "does not print"),  # a change of direction, which can hide a name
        ("\ud800", "does not print"),  # half a character
    ],
)
def test_a_name_that_cannot_be(name: str, why: str) -> None:
    with pytest.raises(IdentityError, match=why) as caught:
        check_name(name)
    assert caught.value.code == "name"


@pytest.mark.parametrize(
    "uri",
    [
        "fedloom://f",
        "fedloom://f/client/",
        "http://f/client/a",
        "fedloom://f/client/a b",  # not as client_uri writes it
        "fedloom://f/client/%ff",  # not UTF-8
        "fedloom://f/client/%2D",
        "fedloom://f/client/a/b",
    ],
)
def test_other_uris_name_nobody(uri: str) -> None:
    assert read_client(uri) is None


def test_the_uri_of_an_authority() -> None:
    assert read_federation(authority_uri("f")) == "f"
    assert read_federation("fedloom://f/client/a") is None
    assert read_federation("f") is None
    assert read_federation("fedloom://") is None
