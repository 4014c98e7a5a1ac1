"""What a live federation needs besides its job: where the server listens, when a round ends."""

import ipaddress
import re
from dataclasses import dataclass

from fedloom.core.errors import require

__all__ = ["ServerConfig"]


@dataclass(frozen=True)
class ServerConfig:
    """The ``[server]`` table; a simulation reads none of it.

    Attributes:
        directory: the server's state: its certificate authority, clients, updates on their way.
        listen: address to listen on.
        address: name or address that clients dial (empty: this machine's).
        port: where enrolled clients work.
        enrol_port: where new clients enrol.
        metrics_port: where Prometheus reads, on the loopback only (0: nowhere).
        insecure: no TLS and no certificates: whoever reaches the port is who they say they are.
        durable: an update is acknowledged only once it is on the disk.
        min_clients: a round begins when so many clients are there.
        over_select: so many times `clients_per_round` are asked, against those who do not answer.
        goal: share of `clients_per_round` whose updates end a round.
        minimum: share of `clients_per_round` without which a round is not applied.
        patience: seconds that a round waits at least for those who are late.
        longest: seconds after which a round ends whatever came; below `minimum` it is begun again
            with other clients.
        present: seconds after its last word in which a client counts as there.
        attempts: tries that a client has at a task when its update is refused.
        quarantine: refusals in a row after which a client is given no work until an operator
            clears it (0: never).
        norm_bound: largest L2 norm of an update (0: any finite one).
        max_examples: largest weight that an update may claim.
        inflight_mb: memory for updates that are arriving; more are told to come again.
        certificate_hours: life of a client's certificate, which it renews at two thirds.
        evaluate_clients: so many clients evaluate the global model on their own data when an
            evaluation is due (0: none).
    """

    directory: str = "federation"
    listen: str = "0.0.0.0"
    address: str = ""
    port: int = 7441
    enrol_port: int = 7440
    metrics_port: int = 0
    insecure: bool = False
    durable: bool = True
    min_clients: int = 2
    over_select: float = 1.0
    goal: float = 1.0
    minimum: float = 0.5
    patience: float = 60.0
    longest: float = 3600.0
    present: float = 180.0
    attempts: int = 3
    quarantine: int = 5
    norm_bound: float = 0.0
    max_examples: int = 1_000_000
    inflight_mb: int = 256
    certificate_hours: float = 24.0
    evaluate_clients: int = 0

    def __post_init__(self) -> None:
        text = "a host name or an IP address, without a port"
        require(not self.address or _is_host(self.address), "server.address", self.address, text)
        for name in ("port", "enrol_port", "metrics_port"):
            value = getattr(self, name)
            require(0 <= value < 65536, f"server.{name}", value, "0 (any free port) to 65535")
        for name in ("min_clients", "attempts", "max_examples", "inflight_mb"):
            require(getattr(self, name) >= 1, f"server.{name}", getattr(self, name), "1 or more")
        for name in ("patience", "norm_bound", "quarantine", "evaluate_clients"):
            require(getattr(self, name) >= 0, f"server.{name}", getattr(self, name), "0 or more")
        for name in ("longest", "present", "certificate_hours"):
            require(getattr(self, name) > 0, f"server.{name}", getattr(self, name), "above 0")
        require(self.over_select >= 1, "server.over_select", self.over_select, "1 or more")
        require(0 < self.goal <= 1, "server.goal", self.goal, "above 0, at most 1")
        require(
            0 < self.minimum <= self.goal, "server.minimum", self.minimum, "above 0, at most goal"
        )
        require(
            self.certificate_hours <= 168,
            "server.certificate_hours",
            self.certificate_hours,
            "at most 168: a week",
        )


def _is_host(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return bool(re.fullmatch(r"[0-9A-Za-z._-]{1,253}", text))
    return True
