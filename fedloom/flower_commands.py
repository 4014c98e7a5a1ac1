"""The commands of Flower's apps. Each imports what it needs when it runs."""

import argparse
from pathlib import Path
from typing import Any

__all__ = ["add_flower_commands"]


def add_flower_commands(commands: Any) -> None:
    """Add ``run`` and ``flower-app``.

    Args:
        commands: what ``ArgumentParser.add_subparsers`` gave.
    """
    _add_run(commands.add_parser("run", help="run an app of Flower: simulated, or live"))
    _add_app(commands.add_parser("flower-app", help="write a job as an app of Flower"))


def _add_app(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.description = (
        "Write a job as a Flower app: fedloom's method as ServerApp and ClientApp, for a "
        "federation of Flower's (flwr run) or for fedloom run."
    )
    add("config", metavar="CONFIG", help="a TOML file, or a recipe: fedloom list recipes")
    add("folder", metavar="OUT_DIR", help="made, and empty")
    hint = "change a value, such as local.lr=0.05; may be repeated"
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments", help=hint)
    parser.set_defaults(command=_app)


def _app(options: argparse.Namespace) -> int:
    from fedloom.strategies.flower.hosting import flower

    flower()
    from fedloom.core.config import override
    from fedloom.flower.job_app import write_app
    from fedloom.sources import job_of

    write_app(job_of(options.config, override({}, options.assignments)), Path(options.folder))
    print(f"{options.folder} is written; fedloom run {options.folder}, or flwr run there")
    return 0


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.description = (
        "Run a Flower app as it is: its ServerApp and ClientApp with virtual nodes on this "
        "machine; with --serve as a server whose clients run the same command with --join."
    )
    add("app", metavar="APP_DIR", help="folder with [tool.flwr.app] in its pyproject.toml")
    text = "nodes: virtual ones, or with --serve the clients that are waited for (10; 2)"
    add("--nodes", type=int, metavar="N", help=text)
    text = "change [tool.flwr.app.config], such as num-server-rounds=5; may be repeated"
    add("--run-config", action="append", default=[], metavar="KEY=VALUE", help=text)
    text = "what context.node_config has, such as partition-id=0; may be repeated"
    add("--node-config", action="append", default=[], metavar="KEY=VALUE", help=text)
    add("--seed", type=int, default=0, metavar="N", help="of global generators in the ServerApp")
    add("--out", metavar="DIR", help="folder of the results (runs/NAME-app)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    text = "delete an earlier run in the folder first"
    how.add_argument("--overwrite", action="store_true", help=text)
    text = "of all replies, which --resume needs, at most; 0 keeps none (8)"
    add("--journal-gb", type=float, default=8.0, metavar="GB", help=text)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quiet", action="store_true", help="show nothing but errors")
    how.add_argument("--json", action="store_true", help="one JSON object per event on stdout")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--serve", action="store_true", help="serve the ServerApp to clients")
    where.add_argument("--join", metavar="TOKEN", help="be a client: join; needed once")
    text = "be a client of a server without TLS"
    where.add_argument("--insecure", metavar="HOST:PORT", help=text)
    where.add_argument("--again", action="store_true", help="be a client that has joined before")
    add("--name", default="", help="of the client, proposed when it joins")
    add("--directory", metavar="DIR", default="", help="of the client's, or the server's, state")
    add("--listen", metavar="ADDRESS", default="0.0.0.0", help="to bind to, with --serve")
    add("--address", default="", help="that clients dial (the one this machine is reached by)")
    add("--port", type=int, default=7441, metavar="N", help="of the service")
    add("--enrol-port", type=int, default=7440, metavar="N", help="where clients enrol")
    add("--no-tls", action="store_true", help="with --serve: no TLS and no enrolment")
    parser.set_defaults(command=_run, resume_hint="--resume goes on")


def _run(options: argparse.Namespace) -> int:
    from fedloom.strategies.flower.hosting import flower

    flower()
    from fedloom.flower.app import read_app

    app = read_app(options.app, options.run_config)
    if options.join or options.insecure or options.again:
        return _client(app, options)
    from fedloom.progress import JsonLines, Quiet, progress

    app.client_app()  # a mistake in it is told before the first round
    run = _folder(app, options)
    play = _serve if options.serve else _simulate
    if options.quiet or options.json:
        play(app, run, Quiet() if options.quiet else JsonLines(), options)
        return 0
    with progress(resume=options.resume_hint) as observer:
        play(app, run, observer, options)
    return 0


def _folder(app: Any, options: argparse.Namespace) -> Any:
    from fedloom.core.errors import require
    from fedloom.flower.folder import folder_for

    nodes = (2 if options.serve else 10) if options.nodes is None else options.nodes
    require(nodes >= 1, "nodes", nodes, "1 or more")
    require(options.journal_gb >= 0, "journal-gb", options.journal_gb, "0 or more")
    options.nodes = nodes
    return folder_for(
        app,
        options.out,
        overwrite=options.overwrite,
        resume=options.resume,
        live=options.serve,
        nodes=nodes,
        seed=options.seed,
        most=int(options.journal_gb * 1e9),
    )


def _simulate(app: Any, run: Any, observer: Any, options: argparse.Namespace) -> None:
    from fedloom.flower.running import run_server_app
    from fedloom.flower.simulated import Simulated

    own = _table(options.node_config)
    carrier = Simulated(app.client_app(), options.nodes, app.config, own, seed=options.seed)
    run_server_app(app, carrier, run, observer)


def _serve(app: Any, run: Any, observer: Any, options: argparse.Namespace) -> None:
    import json

    from fedloom.flower.serving import Listening, serve_app
    from fedloom.security.floor import only_tls13

    only_tls13()
    where = Listening(
        folder=Path(options.directory or "federation"),
        listen=options.listen,
        address=options.address,
        port=options.port,
        enrol_port=options.enrol_port,
        insecure=options.no_tls,
        nodes=options.nodes,
    )

    def opened(how: str) -> None:
        line = f"fedloom run {options.app} {how}"
        if options.json:
            print(json.dumps({"event": "open", "join": line}), flush=True)
        elif not options.quiet:
            print(f"a client joins by\n\n  {line}\n", flush=True)

    serve_app(app, where, run, observer, opened)


def _client(app: Any, options: argparse.Namespace) -> int:
    from fedloom.client.logs import log
    from fedloom.core.errors import ConfigError
    from fedloom.core.logs import write_logs
    from fedloom.flower.node import Joining, join_app
    from fedloom.security.floor import only_tls13

    if options.run_config:
        raise ConfigError("--run-config: the server says it; give it to the server")
    only_tls13()
    write_logs(log, as_json=options.json)
    own = _table(options.node_config)
    how = options.join or "", options.insecure or "", options.name, options.directory
    join_app(app, Joining(*how, own))
    return 0


def _table(assignments: list[str]) -> dict[str, Any]:
    from fedloom.flower.app import assigned

    return assigned(assignments, "--node-config")
