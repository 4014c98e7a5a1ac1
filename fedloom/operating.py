"""The operator's view of a live federation: tokens, clients, where it stands."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fedloom.core.errors import ConfigError, RunError
from fedloom.readable import bytes_text, duration, value_text
from fedloom.security.authority import Authority
from fedloom.security.names import check_name
from fedloom.security.tokens import JoinToken
from fedloom.server.database import Database
from fedloom.server.register import Enrolled, Register
from fedloom.server.standing import Standing, read_standing

__all__ = [
    "clients_table",
    "new_token",
    "pause",
    "register_of",
    "standing_lines",
    "standing_table",
    "tokens_table",
    "watch",
]

_SILENT = 15.0
"""Seconds without a word after which a server is thought not to run."""
_WIDE = 240


def register_of(folder: Path) -> Register:
    """Tokens and clients of a server's state folder, beside a running server too.

    Raises:
        RunError: no federation's state is there.
    """
    return Register(Database.open(folder, exclusive=False))


def new_token(folder: Path, *, name: str, uses: int, seconds: float) -> str:
    """A join token as its text, for the server that works in `folder`, or did last.

    Raises:
        RunError: no server has worked there, or it has no TLS.
        IdentityError: nobody may be called so.
    """
    if name:
        check_name(name)
    register = register_of(folder)
    standing = read_standing(folder)
    if not standing.enrol_port:
        raise RunError(f"{folder}: its server has no TLS: clients join it by HOST:PORT, unasked")
    id, secret = register.tokens.create(name, uses=uses, ttl_seconds=seconds)
    pin = Authority.open(folder / "authority").pin
    return str(JoinToken(standing.address, standing.enrol_port, id, secret, pin))


def seconds_of(text: str) -> float:
    """Seconds of a duration such as ``90s``, ``30m``, ``12h`` or ``7d``.

    >>> seconds_of("90s"), seconds_of("1.5h")
    (90.0, 5400.0)

    Raises:
        ConfigError: it is no duration.
    """
    units = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    try:
        return float(text[:-1]) * units[text[-1:]]
    except (ValueError, KeyError):
        raise ConfigError(f"ttl = {text!r}: a number and s, m, h or d, such as 12h") from None


def pause(folder: Path, *, paused: bool) -> None:
    """Let no further round begin, or let them go on.

    Raises:
        RunError: no federation's state is there.
    """
    register_of(folder).paused = paused


def tokens_table(folder: Path) -> list[dict[str, Any]]:
    """Tokens, oldest first."""
    now = time.time()
    rows = []
    for token in register_of(folder).tokens.list():
        ended = token.revoked or token.expires <= now or token.uses <= 0
        rows.append({**asdict(token), "usable": not ended})
    return rows


def clients_table(folder: Path) -> list[dict[str, Any]]:
    """Clients by name."""
    return [
        {**asdict(client), "status": _status(client)} for client in register_of(folder).clients()
    ]


def _status(client: Enrolled) -> str:
    if client.shut_out:
        return "revoked"
    if client.quarantined is not None:
        return f"quarantined ({client.last_code})"
    return "enrolled" if client.num_examples or client.seen is None else "enrolled, no data"


def standing_table(folder: Path) -> dict[str, Any]:
    """Where a federation stands, as a program reads it."""
    standing = read_standing(folder)
    return {**asdict(standing), "eta": standing.eta, "alive": _alive(standing)}


def standing_lines(folder: Path) -> list[str]:
    """Where a federation stands, as people read it."""
    s = read_standing(folder)
    clients = register_of(folder).clients()
    lines = [
        f"{s.name}: {s.phase}{_hint(s)}",
        f"  round     {s.round} of {s.rounds} {s.stage}".rstrip(),
        f"  updates   {s.arrived} of {s.asked}" + (f", {s.refused} gave up" if s.refused else ""),
        f"  clients   {len(clients)} enrolled, {s.present} there",
        f"  bytes     up {bytes_text(s.bytes_up)}, down {bytes_text(s.bytes_down)}",
    ]
    if s.resyncs:
        lines.append(f"  resyncs   {s.resyncs}: their model was not the server's")
    if s.evaluation:
        found = (f"{name} {value_text(name, value)}" for name, value in s.evaluation.items())
        lines.append(f"  model     {', '.join(found)}")
    if s.eta is not None and s.phase not in ("finished", "stopped"):
        lines.append(f"  remaining {duration(s.eta)}, at {duration(s.seconds_per_round)} a round")
    return lines


def _hint(standing: Standing) -> str:
    if standing.phase == "finished" or _alive(standing):
        return ""
    return "  (no server is running: the same `fedloom server` goes on)"


def _alive(standing: Standing) -> bool:
    if standing.phase in ("finished", "stopped"):
        return False
    return time.time() - standing.written < _SILENT and Path(f"/proc/{standing.pid}").exists()


def watch(folder: Path) -> None:
    """Show where a federation stands until it is over, or Ctrl-C."""
    from rich.live import Live

    with Live(auto_refresh=False) as live:
        while True:
            live.update("\n".join(standing_lines(folder)), refresh=True)
            if read_standing(folder).phase in ("finished", "stopped"):
                return
            time.sleep(0.5)


def show(rows: Sequence[dict[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Rows as a table on stdout, or as JSON."""
    if as_json:
        print(json.dumps(list(rows), indent=2))
        return
    table = Table(box=None)
    for column in columns:
        table.add_column(column.replace("_", " "), no_wrap=column != "device")
    for row in rows:
        table.add_row(*(_cell(column, row[column]) for column in columns))
    console = Console()
    if not console.is_terminal:  # for grep: a row a line
        console.width = _WIDE
    console.print(table)


def _cell(column: str, value: object) -> str:
    if value is None or value == "":
        return "-"
    if column in ("created", "expires", "enrolled", "seen") and isinstance(value, float):
        return f"{datetime.fromtimestamp(value):%Y-%m-%d %H:%M}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
