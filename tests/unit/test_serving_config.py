import pytest

from fedloom.core.errors import ConfigError
from fedloom.core.serving import ServerConfig


@pytest.mark.parametrize("address", ["", "pi.local", "192.0.2.10", "2001:db8::1", "fe80::1%eth0"])
def test_what_devices_may_dial(address: str) -> None:
    assert ServerConfig(address=address).address == address


@pytest.mark.parametrize("address", ["pi.local:7440", "http://pi.local", "192.0.2.10:7440", "a b"])
def test_an_address_is_a_host_alone(address: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.address = '.*': a host name or an IP address"):
        ServerConfig(address=address)
