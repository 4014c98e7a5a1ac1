import pytest

from fedloom.client.refusals import failure, is_passing
from fedloom.core.errors import IdentityError, TransferError


@pytest.mark.parametrize("code", ["revoked", "not-enrolled", "token-used", "tls", "name"])
def test_who_is_not_let_in_gets_an_identity_error(code: str) -> None:
    error = failure("s", "PERMISSION_DENIED", "ask the operator", {"fedloom-reason": code})
    assert isinstance(error, IdentityError)
    assert (str(error), error.code) == ("ask the operator", code)


@pytest.mark.parametrize(
    ("code", "after", "passing"),
    [
        ("busy", "2.5", True),
        ("busy", "", True),
        ("benched", "60", True),
        ("benched", "", False),
        ("round-over", "", False),
        ("chunk-order", "", True),
        ("protocol", "", False),
    ],
)
def test_whether_trying_again_helps(code: str, after: str, passing: bool) -> None:
    trailers = {"fedloom-reason": code, **({"retry-after": after} if after else {})}
    error = failure("s", "FAILED_PRECONDITION", "text", trailers)
    assert isinstance(error, TransferError)
    assert error.code == code
    assert error.retry_after == (float(after) if after else None)
    assert is_passing(error) is passing


@pytest.mark.parametrize(
    ("details", "words"),
    [
        ("failed to connect ... Connection refused (111)", "nothing listens there"),
        ("Ssl handshake failed: CERTIFICATE_VERIFY_FAILED", "a wrong clock on this device"),
        ("Ssl handshake failed (TSI_PROTOCOL_FAILURE)", "the TLS handshake failed"),
        ("DNS resolution failed for nowhere:1", "its name cannot be resolved"),
        ("Deadline Exceeded", "it took too long"),
        ("something new\nand more", "something new (unavailable)"),
    ],
)
def test_a_server_that_does_not_answer(details: str, words: str) -> None:
    error = failure("host:1", "UNAVAILABLE", details, {})
    assert isinstance(error, TransferError)
    assert str(error).startswith("no answer from host:1: ")
    assert words in str(error)
    assert is_passing(error)


def test_a_server_of_another_version() -> None:
    error = failure("host:1", "UNIMPLEMENTED", "", {})
    assert isinstance(error, TransferError)
    assert "another version" in str(error)
    assert not is_passing(error)


def test_a_retry_after_that_is_no_number() -> None:
    error = failure("s", "UNAVAILABLE", "x", {"fedloom-reason": "busy", "retry-after": "soon"})
    assert isinstance(error, TransferError)
    assert error.retry_after is None
