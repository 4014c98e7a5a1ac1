"""`fedloom.serve`: a live federation from Python, or from the command line."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING

from fedloom.core.job import Job
from fedloom.results.observe import Observer, Summary
from fedloom.results.rundir import RunDirectory
from fedloom.security.floor import only_tls13
from fedloom.sources import Source, job_of

if TYPE_CHECKING:
    from fedloom.server.serve import Open

__all__ = ["join_line", "serve"]

_TOKEN_HOURS = 24.0
_LOG_BYTES = 10_000_000


def serve(
    config: Source,
    *,
    observer: Observer,
    settings: Mapping[str, object] | None = None,
    overwrite: bool = False,
    opened: Callable[[str], None] | None = print,
) -> Summary:
    """Serve a job to devices until its last round is done, or SIGINT or SIGTERM comes.

    A server that is started again goes on where it was, in mid-round too. To be called from the
    main thread.

    Args:
        config: as `fedloom.simulate` takes it; ``[server]`` says where it listens.
        observer: told of every round.
        settings: values by dotted key; they win over `config`.
        overwrite: begin again: delete the results of an earlier run, not who is enrolled.
        opened: given the command that a device joins with, once the ports are open; None to make
            no token.

    Raises:
        FedloomError: something in the job cannot be done, a port is taken, or another server works
            in the folder; nothing already written is damaged.
    """
    only_tls13()
    from fedloom.server.serve import serve as run_server
    from fedloom.server.setup import plan_of

    job = job_of(config, settings)
    RunDirectory.check(job, resume=True, overwrite=overwrite)
    plan = plan_of(job, observer.note)

    def tell(where: "Open") -> None:
        if opened is not None:
            opened(join_line(where, job))

    with ExitStack() as logs:
        return run_server(
            plan,
            lambda: RunDirectory.create(job, resume=True, overwrite=overwrite),
            observer,
            opened=tell,
            folder_made=lambda folder: logs.enter_context(_logged(folder)),
        )


def join_line(where: "Open", job: Job) -> str:
    """The command that a device joins with; its token lets in as many as a round asks for."""
    from fedloom.security.tokens import JoinToken

    if not where.enrol_port:
        return f"fedloom client --insecure {where.address}:{where.port} --data FILE"
    uses = max(job.server.min_clients, *(stage.clients_per_round for stage in job.stages))
    register = where.federation.register
    id, secret = register.tokens.create(uses=uses, ttl_seconds=_TOKEN_HOURS * 3600)
    pin = where.federation.authority.pin
    token = JoinToken(where.address, where.enrol_port, id, secret, pin)
    return f"fedloom client --join {token} --data FILE"


@contextmanager
def _logged(folder: Path) -> Iterator[None]:
    """Write what happens to ``server.log`` in the state folder, one JSON object a line."""
    from fedloom.core.logs import JsonLines

    handler = RotatingFileHandler(folder / "server.log", maxBytes=_LOG_BYTES, backupCount=3)
    handler.setFormatter(JsonLines())
    log = logging.getLogger("fedloom.server")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
