import ipaddress
import multiprocessing
import re
import stat
import uuid
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from fedloom.core.errors import ConfigError, IdentityError, RunError
from fedloom.security import certificates as certs
from fedloom.security.authority import Authority
from fedloom.security.request import make_request

DAY = timedelta(days=1)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path / "authority")


def parsed(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def names_of(leaf: x509.Certificate) -> x509.SubjectAlternativeName:
    return leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_an_authority_is_made_once(tmp_path: Path) -> None:
    first, second = Authority.open(tmp_path / "a"), Authority.open(tmp_path / "a")
    assert first.certificate == second.certificate
    assert first.pin == second.pin
    assert first.federation == second.federation
    assert Authority.open(tmp_path / "b").federation != first.federation


def pin_in(folder: Path) -> str:
    return Authority.open(folder).pin


def test_two_processes_at_once_get_the_same_authority(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        pins = pool.map(pin_in, [tmp_path / "a"] * 3, chunksize=1)
    assert len(set(pins)) == 1


def test_key_and_folder_are_their_owners(tmp_path: Path) -> None:
    Authority.open(tmp_path / "a")
    (file,) = (tmp_path / "a").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_the_authoritys_certificate(authority: Authority) -> None:
    root = parsed(authority.certificate)
    assert uuid.UUID(authority.federation).version == 4
    assert certs.federation_of(root) == authority.federation
    assert authority.federation in root.subject.rfc4514_string()
    assert re.fullmatch("[0-9a-f]{64}", authority.pin)
    assert root.extensions.get_extension_for_class(x509.BasicConstraints).value == (
        x509.BasicConstraints(ca=True, path_length=0)
    )
    # 10 years of 365 days, and 5 minutes for clocks that are behind
    assert root.not_valid_after_utc - root.not_valid_before_utc == 3650 * DAY + timedelta(minutes=5)
    root.verify_directly_issued_by(root)


def test_nothing_secret_is_shown_by_accident(authority: Authority) -> None:
    assert "PRIVATE" not in repr(authority)
    assert "PRIVATE" not in repr(authority.server_identity())


def test_a_servers_certificate(authority: Authority) -> None:
    pair = authority.server_identity(["example.org", "192.0.2.7", "localhost", "2001:db8::1"])
    leaf = parsed(pair.certificate)
    leaf.verify_directly_issued_by(parsed(authority.certificate))
    names = names_of(leaf)
    assert names.get_values_for_type(x509.DNSName) == ["fedloom-server", "localhost", "example.org"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address(text) for text in ("127.0.0.1", "::1", "192.0.2.7", "2001:db8::1")
    ]
    assert certs.uses(leaf) == {certs.SERVER_USE}
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == 825 * DAY + timedelta(minutes=5)
    key = load_pem_private_key(pair.key, None)
    assert key.public_key() == leaf.public_key()
    carried = leaf.extensions.get_extension_for_oid(certs.AUTHORITY_EXTENSION)
    assert not carried.critical
    assert isinstance(carried.value, x509.UnrecognizedExtension)
    assert carried.value.value == parsed(authority.certificate).public_bytes(Encoding.DER)


@pytest.mark.parametrize("name", ["", "a b", "*.example.org", "a..b", "é.org", "a" * 254])
def test_a_server_is_dialled_by_a_host_name_or_an_address(authority: Authority, name: str) -> None:
    with pytest.raises(ConfigError, match=r"a host name .* or an IP address"):
        authority.server_identity([name])


def test_a_clients_certificate(authority: Authority) -> None:
    key, now = certs.new_key(), certs.utc_now().replace(microsecond=0)
    issued = authority.sign(make_request(key), "Foo Bar <foo@x.org>", hours=24, now=now)
    leaf = parsed(issued.certificate)
    leaf.verify_directly_issued_by(parsed(authority.certificate))
    assert leaf.public_key() == key.public_key()
    assert certs.uses(leaf) == {certs.CLIENT_USE}
    assert list(certs.uris(leaf)) == [
        f"fedloom://{authority.federation}/client/Foo%20Bar%20%3Cfoo%40x.org%3E"
    ]
    assert issued.serial == leaf.serial_number
    assert issued.not_before == leaf.not_valid_before_utc == now - timedelta(minutes=5)
    assert issued.not_after == leaf.not_valid_after_utc == now + DAY
    constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not constraints.ca


def test_serial_numbers_differ(authority: Authority) -> None:
    csr = make_request(certs.new_key())
    assert len({authority.sign(csr, "a", hours=1).serial for _ in range(20)}) == 20


def test_no_certificate_outlives_its_authoritys(authority: Authority) -> None:
    end = parsed(authority.certificate).not_valid_after_utc
    issued = authority.sign(make_request(certs.new_key()), "a", hours=24, now=end - DAY / 2)
    assert issued.not_after == end


def test_what_is_not_signed(authority: Authority) -> None:
    csr = make_request(certs.new_key())
    with pytest.raises(IdentityError, match="does not print"):
        authority.sign(csr, "a\n", hours=1)
    with pytest.raises(IdentityError, match="not a PKCS #10"):
        authority.sign(csr[:-1], "a", hours=1)
    with pytest.raises(ConfigError, match="hours = 0: above 0"):
        authority.sign(csr, "a", hours=0)


def test_a_damaged_authority_is_not_replaced(tmp_path: Path) -> None:
    Authority.open(tmp_path / "a")
    Authority.open(tmp_path / "b")
    path, other = tmp_path / "a" / "authority.pem", tmp_path / "b" / "authority.pem"
    whole = path.read_bytes()
    key, begin, _ = whole.partition(b"-----BEGIN CERTIFICATE-----")
    mixed = key + begin + other.read_bytes().partition(begin)[2]
    for damaged, why in [(b"", "not an authority's"), (key, "not an authority's")]:
        path.write_bytes(damaged)
        with pytest.raises(RunError, match=why):
            Authority.open(tmp_path / "a")
        assert path.read_bytes() == damaged
    path.write_bytes(mixed)
    with pytest.raises(RunError, match="not this key's"):
        Authority.open(tmp_path / "a")


def test_an_authority_that_others_may_read_is_refused(tmp_path: Path) -> None:
    Authority.open(tmp_path / "a")
    (tmp_path / "a" / "authority.pem").chmod(0o644)
    with pytest.raises(IdentityError, match="others may read it"):
        Authority.open(tmp_path / "a")
