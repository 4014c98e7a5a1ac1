import json
import os
import stat
from datetime import timedelta
from pathlib import Path

import pytest

from fedloom.core.errors import IdentityError
from fedloom.security import certificates as certs
from fedloom.security.authority import Authority
from fedloom.security.identity import Identity

NOW = certs.utc_now().replace(microsecond=0)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.open(tmp_path_factory.mktemp("authority"))


def enrolled(folder: Path, authority: Authority, name: str = "pi", hours: float = 24) -> Identity:
    new = Identity.create(folder)
    issued = authority.sign(new.csr(), name, hours=hours, now=NOW)
    return new.save(issued.certificate, authority.certificate, client=name, host="h", port=7441)


def test_an_enrolled_device_knows_itself_again(tmp_path: Path, authority: Authority) -> None:
    saved = enrolled(tmp_path / "me", authority, "Foo <f@x.org>")
    assert Identity.load(tmp_path / "me") == saved
    assert (saved.client, saved.host, saved.port) == ("Foo <f@x.org>", "h", 7441)
    assert saved.federation == authority.federation
    assert saved.not_after == NOW + timedelta(hours=24)
    assert json.loads((tmp_path / "me" / "federation.json").read_text()) == {
        "federation": authority.federation,
        "client": "Foo <f@x.org>",
        "host": "h",
        "port": 7441,
        "enrol_port": 0,
    }


def test_the_key_is_its_owners_and_not_shown(tmp_path: Path) -> None:
    new = Identity.create(tmp_path / "me")
    assert stat.S_IMODE((tmp_path / "me" / "key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "me").stat().st_mode) == 0o700
    assert "PRIVATE" not in repr(new)


def test_an_enrolment_that_was_cut_goes_on_with_its_key(tmp_path: Path) -> None:
    assert Identity.create(tmp_path).key == Identity.create(tmp_path).key
    with pytest.raises(IdentityError, match=r"not enrolled \(federation.json is missing\)") as got:
        Identity.load(tmp_path)
    assert got.value.code == "not-enrolled"


def test_a_certificate_is_renewed_at_two_thirds_of_its_life(
    tmp_path: Path, authority: Authority
) -> None:
    identity = enrolled(tmp_path, authority)
    at = NOW + timedelta(hours=16)  # 2/3 of 24
    assert not identity.renew_due(at - timedelta(seconds=1))
    assert identity.renew_due(at)
    issued = authority.sign(identity.csr(), "pi", hours=24, now=at)
    fresh = identity.renewed(issued.certificate)
    assert not fresh.renew_due(at)
    assert Identity.load(tmp_path) == fresh


def test_a_short_life_is_not_due_at_its_begin(tmp_path: Path, authority: Authority) -> None:
    identity = enrolled(tmp_path, authority, hours=0.01)  # 36 s; it begins 300 s before it is made
    assert not identity.renew_due(NOW + timedelta(seconds=23))
    assert identity.renew_due(NOW + timedelta(seconds=24))


def test_what_does_not_belong_together_is_not_saved(tmp_path: Path, authority: Authority) -> None:
    identity = enrolled(tmp_path / "me", authority)
    other = Authority.open(tmp_path / "other")
    theirs = other.sign(identity.csr(), "pi", hours=1).certificate
    somebody = enrolled(tmp_path / "somebody", authority).certificate
    renamed = authority.sign(identity.csr(), "pi2", hours=1).certificate
    with pytest.raises(IdentityError, match="not one that its authority signed"):
        identity.renewed(theirs)
    for certificate in (somebody, renamed, authority.server_identity().certificate):
        with pytest.raises(IdentityError, match="not of this key, name and federation"):
            identity.renewed(certificate)
    for junk in (b"", b"junk", identity.key):
        with pytest.raises(IdentityError, match="not one that its authority signed"):
            identity.renewed(junk)
    assert Identity.load(tmp_path / "me") == identity


def test_a_device_may_be_enrolled_again(tmp_path: Path, authority: Authority) -> None:
    enrolled(tmp_path / "me", authority, "old")
    other = Authority.open(tmp_path / "other")
    again = enrolled(tmp_path / "me", other, "new")
    assert Identity.load(tmp_path / "me") == again
    assert again.federation == other.federation


@pytest.mark.parametrize("missing", ["key.pem", "client.pem", "authority.pem", "federation.json"])
def test_a_missing_file_is_named(tmp_path: Path, authority: Authority, missing: str) -> None:
    enrolled(tmp_path, authority)
    (tmp_path / missing).unlink()
    with pytest.raises(IdentityError, match=rf"not enrolled \({missing} is missing\)"):
        Identity.load(tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("federation.json", "{", "federation.json: damaged"),
        ("federation.json", "[]", "federation.json: damaged"),
        ("federation.json", '{"client": "pi"}', "federation.json: damaged"),
        ("federation.json", '{"client": "x", "host": "h", "port": 1}', "not of this key, name"),
        ("client.pem", "", "not one that its authority signed"),
        ("authority.pem", "junk", "not one that its authority signed"),
        ("key.pem", "junk", "key.pem: not a private key"),
    ],
)
def test_a_damaged_file_is_named(
    tmp_path: Path, authority: Authority, file: str, text: str, why: str
) -> None:
    enrolled(tmp_path, authority)
    (tmp_path / file).write_text(text)
    with pytest.raises(IdentityError, match=why):
        Identity.load(tmp_path)


def test_a_key_that_others_may_read_is_refused(tmp_path: Path, authority: Authority) -> None:
    enrolled(tmp_path, authority)
    os.chmod(tmp_path / "key.pem", 0o604)
    with pytest.raises(IdentityError, match="others may read it"):
        Identity.load(tmp_path)


def test_what_cannot_be_read_is_named(tmp_path: Path, authority: Authority) -> None:
    enrolled(tmp_path, authority)
    (tmp_path / "client.pem").unlink()
    (tmp_path / "client.pem").mkdir()
    with pytest.raises(IdentityError, match=r"client.pem: cannot be read"):
        Identity.load(tmp_path)
