"""Anything that arrives as a token, a name or a request is understood or refused, never a crash."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.errors import IdentityError
from fedloom.security.certificates import new_key
from fedloom.security.names import LONGEST, check_name, client_uri, read_client
from fedloom.security.request import make_request, read_request
from fedloom.security.tokens import JoinToken

CSR = make_request(new_key())
HOSTS = st.from_regex(r"[0-9a-z._-]{1,40}", fullmatch=True) | st.ip_addresses().map(str)
SECRETS = st.from_regex(r"[0-9A-Za-z_-]{22,64}", fullmatch=True)
PINS = st.binary(min_size=32, max_size=32).map(bytes.hex)
TOKENS = st.builds(
    JoinToken,
    HOSTS,
    st.integers(1, 65535),
    st.from_regex(r"[0-9a-f]{12}", fullmatch=True),
    SECRETS,
    PINS,
)


@given(TOKENS)
def test_a_token_reads_back(token: JoinToken) -> None:
    assert JoinToken.parse(str(token)) == token


@given(TOKENS, st.data())
def test_a_token_that_was_copied_badly(token: JoinToken, data: st.DataObject) -> None:
    text = str(token)
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.text(max_size=3)) + text[at + 1 :]
    try:
        read = JoinToken.parse(changed)
    except IdentityError:
        return
    assert JoinToken.parse(str(read)) == read


@given(st.text(min_size=1, max_size=LONGEST))
def test_a_name_that_is_allowed_survives_its_uri(name: str) -> None:
    try:
        check_name(name)
    except IdentityError:
        return
    assert read_client(client_uri("f", name)) == ("f", name)


@given(st.text(max_size=60))
def test_any_uri_names_one_client_or_nobody(text: str) -> None:
    found = read_client(f"fedloom://f/client/{text}")
    assert found is None or client_uri(*found) == f"fedloom://f/client/{text}"


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_request_is_refused(data: st.DataObject) -> None:
    at, byte = data.draw(st.integers(0, len(CSR) - 1)), data.draw(st.integers(1, 255))
    damaged = CSR[:at] + bytes([CSR[at] ^ byte]) + CSR[at + 1 :]
    with pytest.raises(IdentityError, match="certificate request"):
        read_request(damaged[: data.draw(st.integers(at + 1, len(CSR)))])
