from typing import Any

import pytest

from fedloom.core.config import build, to_table
from fedloom.core.errors import ConfigError
from fedloom.core.serving import ServerConfig


def test_the_defaults_hold() -> None:
    config = ServerConfig()
    assert (config.port, config.enrol_port, config.insecure) == (7441, 7440, False)
    assert build(ServerConfig, to_table(config)) == config


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"port": -1}, r"server\.port = -1: 0 \(any free port\) to 65535"),
        ({"metrics_port": 65536}, r"server\.metrics_port = 65536"),
        ({"min_clients": 0}, r"server\.min_clients = 0: 1 or more"),
        ({"attempts": 0}, r"server\.attempts"),
        ({"inflight_mb": 0}, r"server\.inflight_mb"),
        ({"patience": -1.0}, r"server\.patience = -1\.0: 0 or more"),
        ({"quarantine": -1}, r"server\.quarantine"),
        ({"longest": 0.0}, r"server\.longest = 0\.0: above 0"),
        ({"present": 0.0}, r"server\.present"),
        ({"over_select": 0.9}, r"server\.over_select = 0\.9: 1 or more"),
        ({"goal": 0.0}, r"server\.goal = 0\.0: above 0, at most 1"),
        ({"goal": 0.4, "minimum": 0.5}, r"server\.minimum = 0\.5: above 0, at most goal"),
        ({"certificate_hours": 169.0}, r"server\.certificate_hours = 169\.0: at most 168"),
    ],
)
def test_what_is_not_allowed_is_named(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        ServerConfig(**values)


def test_not_a_number_is_never_allowed() -> None:
    for name in ("longest", "over_select", "goal", "minimum", "patience", "certificate_hours"):
        with pytest.raises(ConfigError, match=f"server.{name} = nan"):
            ServerConfig(**{name: float("nan")})  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["", "pi.local", "192.0.2.10", "2001:db8::1", "fe80::1%eth0"])
def test_what_devices_may_dial(address: str) -> None:
    assert ServerConfig(address=address).address == address


@pytest.mark.parametrize("address", ["pi.local:7440", "http://pi.local", "192.0.2.10:7440", "a b"])
def test_an_address_is_a_host_alone(address: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.address = '.*': a host name or an IP address"):
        ServerConfig(address=address)
