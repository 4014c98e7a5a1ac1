"""The command line. Each command imports what it needs when it runs, so that help is instant."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fedloom import __version__
from fedloom.complaint import complain
from fedloom.core.errors import ConfigError, FedloomError
from fedloom.export_command import add_export
from fedloom.flower_commands import add_flower_commands
from fedloom.layers_command import add_layers
from fedloom.list_command import add_list
from fedloom.live_commands import add_live_commands
from fedloom.merge_command import add_merge
from fedloom.new_command import add_new
from fedloom.quantize_command import add_quantize
from fedloom.sweep_command import add_sweep

if TYPE_CHECKING:
    from fedloom.results.observe import Observer

__all__ = ["main"]

_INTERRUPTED = 130  # 128 + SIGINT, as shells count


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 2 for a mistake of the user's, 130 when interrupted.

    Other exceptions are defects and keep their traceback.
    """
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except FedloomError as error:
        complain(error)
        return 2
    except KeyboardInterrupt:
        print(f"fedloom: interrupted; {options.resume_hint}", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # `fedloom list | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


class _Parser(argparse.ArgumentParser):
    """A mistake in the arguments reads like any other mistake."""

    def error(self, message: str) -> NoReturn:
        print(f"fedloom: error: {message}; {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fedloom",
        description="Federated fine-tuning of foundation models.",
        epilog="fedloom COMMAND --help says more.",
    )
    parser.add_argument("--version", action="version", version=f"fedloom {__version__}")
    parser.set_defaults(resume_hint="nothing is left behind")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    _add_simulate(commands.add_parser("simulate", help="run a job on this machine"))
    add_sweep(commands.add_parser("sweep", help="run every combination of some values"))
    add_layers(commands.add_parser("layers", help="which layers clients should share"))
    _add_server(commands.add_parser("server", help="run a job with real devices"))
    add_live_commands(commands)
    add_flower_commands(commands)
    _add_report(commands.add_parser("report", help="plots and a web page of one or more runs"))
    _add_init(commands.add_parser("init", help="write a commented configuration"))
    add_new(commands.add_parser("new", help="write a package with a strategy of your own"))
    add_list(commands.add_parser("list", help="names that a configuration may use"))
    _add_fetch(commands.add_parser("fetch", help="download a backbone into the cache"))
    text = "store a backbone in 8 or 4 bits"
    add_quantize(commands.add_parser("quantize", help=text))
    text = "write a job's forward pass as a program for phones"
    add_export(commands.add_parser("export", help=text))
    add_merge(commands.add_parser("merge", help="put what a run has trained into its backbone"))
    return parser


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.description = "Simulate a federated fine-tuning job on this machine."
    _add_job(parser)
    add("--resume", action="store_true", help="go on from the last checkpoint, if there is one")
    add("--overwrite", action="store_true", help="delete an earlier run in the folder first")
    hint = "to go on, give the same command with --resume"
    parser.set_defaults(command=_simulate, resume_hint=hint)


def _add_job(parser: argparse.ArgumentParser) -> None:
    """What every command has that runs a job."""
    add = parser.add_argument
    add("config", metavar="CONFIG", help="a TOML file, or a recipe: fedloom list recipes")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="assignments",
        help="change a value, such as local.lr=0.05; may be repeated",
    )
    add("--out", metavar="DIR", help="folder of the results (run.directory)")
    add("--tensorboard", action="store_true", help="also write TensorBoard event files")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quiet", action="store_true", help="show nothing but errors")
    how.add_argument("--json", action="store_true", help="one JSON object per event on stdout")


def _add_server(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.description = (
        "Serve a job to devices, which train it on data that stays with them. A server that is "
        "started again goes on where it was, in mid-round too."
    )
    _add_job(parser)
    add("--overwrite", action="store_true", help="begin again; who has joined stays")
    parser.set_defaults(command=_server, resume_hint="the same command goes on")


def _server(options: argparse.Namespace) -> int:
    from fedloom.ending import Ending
    from fedloom.serving import serve

    ending = Ending()
    with _shown(options) as shown:
        from fedloom.results.observe import Observers

        serve(
            options.config,
            settings=_changes(options),
            observer=Observers([shown, ending, *_event_files(options)]),
            overwrite=options.overwrite,
            opened=None if options.quiet else lambda line: _tell_how_to_join(line, options),
        )
    if ending.directory and not options.quiet:
        _report_after(ending.directory, quiet=options.json)
    return 0


def _tell_how_to_join(line: str, options: argparse.Namespace) -> None:
    if options.json:
        import json

        print(json.dumps({"event": "open", "join": line}), flush=True)
    else:
        print(f"a device joins by\n\n  {line}\n", flush=True)


def _simulate(options: argparse.Namespace) -> int:
    from fedloom.ending import Ending
    from fedloom.sources import job_of

    if options.resume and options.overwrite:
        raise ConfigError("--resume and --overwrite exclude each other: keep the run or delete it")
    job = job_of(options.config, _changes(options))
    ending = Ending()
    with _shown(options) as shown:
        from fedloom.results.observe import Observers
        from fedloom.simulation.simulator import simulate

        watching = [shown, ending, *_event_files(options)]
        simulate(
            job,
            observer=Observers(watching),
            resume=options.resume,
            overwrite=options.overwrite,
        )
    if ending.directory and not options.quiet:
        _report_after(ending.directory, quiet=options.json)
    return _INTERRUPTED if ending.interrupted else 0


def _changes(options: argparse.Namespace) -> dict[str, Any]:
    from fedloom.core.config import override

    changes = override({}, options.assignments)
    return {**changes, "run.directory": options.out} if options.out else changes


@contextmanager
def _shown(options: argparse.Namespace) -> "Iterator[Observer]":
    from fedloom.progress import JsonLines, Quiet, progress

    if options.quiet or options.json:
        yield Quiet() if options.quiet else JsonLines()
        return
    with progress(resume=options.resume_hint) as observer:
        yield observer


def _event_files(options: argparse.Namespace) -> "list[Observer]":
    from fedloom.results.events import TensorBoard

    return [TensorBoard()] if options.tensorboard else []


def _report_after(directory: Path, *, quiet: bool) -> None:
    """The report of a run that has just ended; without the pictures' library, how to get it."""
    from fedloom.report import can_draw, write_report

    text = "not written: pip install 'fedloom[plots]'"
    if can_draw():
        text = str(write_report([directory]))
    if not quiet:
        print(f"  {'report':<10} {text}", file=sys.stderr)


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.description = "Plots (PNG) and a self-contained web page of a run, or of several."
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, finished or not")
    text = "where to write (default: the run's folder; ./comparison for several)"
    parser.add_argument("--out", metavar="DIR", help=text)
    text = "also say what each run took until its metric came to this, such as 0.8"
    parser.add_argument("--target", type=float, metavar="VALUE", help=text)
    parser.set_defaults(command=_report)


def _report(options: argparse.Namespace) -> int:
    from fedloom.report import can_draw, write_report

    out, runs = Path(options.out) if options.out else None, [Path(run) for run in options.runs]
    if options.target is not None:
        from fedloom.record import Record
        from fedloom.targets import target_text

        print(target_text([Record.read(run) for run in runs], options.target))
        if not can_draw():  # the table needs no pictures
            return 0
    print(write_report(runs, out=out, target=options.target))
    return 0


def _add_init(parser: argparse.ArgumentParser) -> None:
    parser.description = "Write a configuration with every key, its default and what it means."
    parser.add_argument("file", nargs="?", default="fedloom.toml", metavar="FILE")
    parser.set_defaults(command=_init)


def _init(options: argparse.Namespace) -> int:
    from fedloom.template import write_template

    write_template(Path(options.file))
    print(f"{options.file} is written; set data.path, then: fedloom simulate {options.file}")
    return 0


def _add_fetch(parser: argparse.ArgumentParser) -> None:
    parser.description = "Download a backbone into the cache, once; simulate does so by itself."
    parser.add_argument("name", metavar="NAME", help="such as minilm or smollm2")
    hint = "the same command goes on"
    parser.set_defaults(command=_fetch, resume_hint=hint)


def _fetch(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from fedloom.backbones.fetch import fetch

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(options.name, total=None)
        show = lambda done, total: bar.update(task, completed=done, total=total or None)  # noqa: E731
        path = fetch(options.name, show)
    print(path)
    return 0
