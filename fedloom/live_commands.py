"""The commands of a live federation. Each imports what it needs when it runs."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from fedloom.stage_command import add_stage

__all__ = ["add_live_commands"]

_FOLDER = "federation"


def add_live_commands(commands: Any) -> None:
    """Add the commands of a live federation: ``client``, ``token``, ``status`` and the others.

    Args:
        commands: what ``ArgumentParser.add_subparsers`` gave.
    """
    _add_client(commands.add_parser("client", help="take part in a federation with own data"))
    _add_token(commands.add_parser("token", help="tokens with which devices join"))
    _add_clients(commands.add_parser("clients", help="who has joined; revoke, clear"))
    _add_status(commands.add_parser("status", help="where a federation stands"))
    _add_pause(commands.add_parser("stop", help="let no further round begin"), paused=True)
    _add_pause(commands.add_parser("resume", help="let rounds go on"), paused=False)
    add_stage(commands.add_parser("stage", help="serve blocks of a backbone to devices"))
    _add_load(commands.add_parser("load", help="put light clients by the thousand on a server"))


def _in(parser: argparse.ArgumentParser) -> None:
    text = f"the server's state, its server.directory (default: {_FOLDER})"
    parser.add_argument("--in", dest="folder", metavar="DIR", default=_FOLDER, help=text)


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs: JSON on stdout")


def _add_client(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.description = "Train on this device's own data until the federation is finished."
    parser.epilog = (
        'Every option may stand in the TOML file (memory = "2GB") or in the environment '
        "(FEDLOOM_MEMORY=2GB), and there also disk_gb, wait and allow; flags win."
    )
    add("--join", metavar="TOKEN", help="join a federation; needed once, harmless afterwards")
    add(
        "--data", metavar="FILE", help="CSV, JSONL, Parquet or NPZ file, or module:callable; needed"
    )
    add("--config", metavar="TOML", help="the device's settings")
    add("--directory", metavar="DIR", help="key, downloads, results (~/.fedloom/FEDERATION)")
    add("--name", help="proposed to the server (the host's name)")
    add("--tier", metavar="NAME", help="what kind of device it is, or auto: by its memory")
    add("--threads", type=int, metavar="N", help="threads of training (0: one per core)")
    text = "that the process may take in all, such as 900MB (half of what is free)"
    add("--memory", metavar="SIZE", help=text)
    add("--cache-gb", type=float, metavar="GB", help="memory for frozen activations (0: none)")
    add("--engine", metavar="NAME", help="torch, onnx (no torch needed; forwards only) or auto")
    add("--device", metavar="NAME", help="cpu, cuda or auto")
    add("--only-on-power", action="store_true", default=None, help="rest on battery")
    add("--only-unmetered", action="store_true", default=None, help="rest on a metered network")
    add("--hours", metavar="FROM-TO", help="work only then, such as 22-6")
    add("--server", metavar="HOST[:PORT]", help="where the server is now, if it has moved")
    add("--insecure", metavar="HOST:PORT", help="a server without TLS, instead of joining")
    add("--json-log", action="store_true", help="log for programs: one JSON object a line")
    add("--check", action="store_true", help="say what this device can run, and end")
    add("--job", metavar="JOB", help="with --check: a job's file or recipe, and how it would train")
    hint = "the same command goes on"
    parser.set_defaults(command=_client, resume_hint=hint)


_NO_SETTING = ("command", "resume_hint", "config", "json_log", "check", "job")


def _client(options: argparse.Namespace) -> int:
    from fedloom.security.floor import only_tls13

    only_tls13()
    from fedloom.client.logs import log
    from fedloom.client.settings import settings_from
    from fedloom.client.wheels import require_torch
    from fedloom.client.which_engine import engine_of
    from fedloom.core.logs import write_logs

    flags = {k: v for k, v in vars(options).items() if k not in _NO_SETTING and v is not None}
    settings = settings_from(Path(options.config) if options.config else None, os.environ, flags)
    if engine_of(settings) == "torch":
        require_torch()
    if options.check:
        from fedloom.client.probe import check
        from fedloom.sources import job_of

        return check(settings, job_of(options.job) if options.job else None)
    write_logs(log, as_json=options.json_log)
    from fedloom.client.start import take_part

    return take_part(settings)


def _add_token(parser: argparse.ArgumentParser) -> None:
    parser.description = "Tokens with which devices join; a token is shown once, when it is made."
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    create = actions.add_parser("create", help="a new token, on stdout")
    create.description = (
        "A new token, on stdout. On the device: fedloom client --join TOKEN --data FILE"
    )
    create.add_argument("--client", metavar="NAME", default="", help="whose it is, if one client's")
    text = "how long it holds: 90s, 30m, 12h, 7d (1h)"
    create.add_argument("--ttl", metavar="TIME", default="1h", help=text)
    text = "how many devices may use it (1)"
    create.add_argument("--uses", metavar="N", type=int, default=1, help=text)
    create.set_defaults(command=_token_create)
    listed = actions.add_parser("list", help="all tokens, without their secrets")
    _json(listed)
    listed.set_defaults(command=_token_list)
    revoke = actions.add_parser("revoke", help="let nobody join with it any more")
    revoke.add_argument("id", metavar="ID", help="the token's, from fedloom token list")
    revoke.set_defaults(command=_token_revoke)
    for action in (create, listed, revoke):
        _in(action)


def _token_create(options: argparse.Namespace) -> int:
    from fedloom.core.errors import require
    from fedloom.operating import new_token, seconds_of

    require(options.uses >= 1, "uses", options.uses, "1 or more")
    seconds = seconds_of(options.ttl)
    folder = Path(options.folder)
    print(new_token(folder, name=options.client, uses=options.uses, seconds=seconds))
    return 0


def _token_list(options: argparse.Namespace) -> int:
    from fedloom.operating import show, tokens_table

    columns = ("id", "name", "uses", "created", "expires", "usable")
    show(tokens_table(Path(options.folder)), columns, as_json=options.json)
    return 0


def _token_revoke(options: argparse.Namespace) -> int:
    from fedloom.operating import register_of

    register_of(Path(options.folder)).tokens.revoke(options.id)
    print(f"token {options.id} lets nobody in any more")
    return 0


def _add_clients(parser: argparse.ArgumentParser) -> None:
    parser.description = "Who has joined a federation, and what becomes of them."
    _in(parser)
    _json(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--revoke", metavar="NAME", help="shut a client out, from its next call on")
    what.add_argument("--clear", metavar="NAME", help="give a quarantined client work again")
    parser.set_defaults(command=_clients)


def _clients(options: argparse.Namespace) -> int:
    from fedloom.operating import clients_table, register_of, show

    folder = Path(options.folder)
    if options.revoke:
        register_of(folder).revoke(options.revoke)
        print(f"{options.revoke} is shut out; a new token lets it in again")
    elif options.clear:
        register_of(folder).clear(options.clear)
        print(f"{options.clear} is given work again")
    else:
        columns = ("id", "status", "num_examples", "accepted", "refused", "seen", "device")
        show(clients_table(folder), columns, as_json=options.json)
    return 0


def _add_status(parser: argparse.ArgumentParser) -> None:
    parser.description = "Where a federation stands: round, phase, clients, bytes, time left."
    _in(parser)
    how = parser.add_mutually_exclusive_group()
    _json(how)  # type: ignore[arg-type]  # a group takes arguments as a parser does
    how.add_argument("--watch", action="store_true", help="until it is over, or Ctrl-C")
    parser.set_defaults(command=_status)


def _status(options: argparse.Namespace) -> int:
    from fedloom.operating import standing_lines, standing_table, watch

    folder = Path(options.folder)
    if options.json:
        print(json.dumps(standing_table(folder), indent=2))
    elif options.watch:
        watch(folder)
    else:
        print("\n".join(standing_lines(folder)))
    return 0


def _add_pause(parser: argparse.ArgumentParser, *, paused: bool) -> None:
    if paused:
        parser.description = "The round that is on ends as usual; no other begins until resume."
    else:
        parser.description = "Rounds go on after fedloom stop."
    _in(parser)
    parser.set_defaults(command=_pause, paused=paused)


def _pause(options: argparse.Namespace) -> int:
    from fedloom.operating import pause

    pause(Path(options.folder), paused=options.paused)
    text = "no further round begins; `fedloom resume` goes on" if options.paused else "rounds go on"
    print(text)
    return 0


def _add_load(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Put load on a server: clients that enrol, check in, download and upload as devices do, "
        "but train nothing. Not for a federation whose model matters: their updates are noise."
    )
    add = parser.add_argument
    add("server", metavar="TOKEN", help="a join token of many uses, or HOST:PORT without TLS")
    add("--clients", type=int, default=1000, metavar="N", help="how many (default: 1000)")
    add("--seconds", type=float, default=60.0, metavar="S", help="how long (default: 60)")
    add("--updates", type=int, default=0, metavar="N", help="of each client at most (0: any)")
    add("--examples", type=int, default=100, metavar="N", help="that a client says it holds")
    add("--prefix", default="load", metavar="NAME", help="of the clients' names (default: load)")
    parser.set_defaults(command=_load, resume_hint="the clients' names stay enrolled")


def _load(options: argparse.Namespace) -> int:
    from fedloom.security.floor import only_tls13

    only_tls13()
    from rich.console import Console

    from fedloom.load import LoadPlan, run_load

    plan = LoadPlan(
        options.server,
        clients=options.clients,
        seconds=options.seconds,
        updates=options.updates,
        num_examples=options.examples,
        prefix=options.prefix,
    )
    Console().print(run_load(plan).table())
    return 0
