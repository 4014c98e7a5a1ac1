"""A job of fedloom as a ServerApp: the course of its rounds, over whatever Grid Flower gives."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

from flwr.serverapp import ServerApp

from fedloom.codecs.base import Codec
from fedloom.codecs.frame import OVERHEAD
from fedloom.core.config import override
from fedloom.core.errors import ConfigError, RunError, UpdateRefusedError
from fedloom.core.job import Job, Stage, job_from
from fedloom.core.registry import create
from fedloom.core.types import Client, ClientId, ClientTask, ClientUpdate, Cohort, Refusal, State
from fedloom.flower.job_messages import asked, told, work_of
from fedloom.progress import progress
from fedloom.results.observe import Observer, RunInfo, Summary
from fedloom.results.rundir import RunDirectory
from fedloom.server.contents import Content, Contents
from fedloom.server.course import Judge, Played, begin, drawn_for, follow
from fedloom.server.gate import Gate
from fedloom.server.judged import judged
from fedloom.server.live_round import order_of
from fedloom.server.manifest import manifest
from fedloom.server.memories import remembered
from fedloom.server.plan import Finished, Plan
from fedloom.server.publishing import Published, Publishing
from fedloom.server.records import Ticket
from fedloom.server.round import Dispatch, run_round
from fedloom.server.selection import choose
from fedloom.server.setup import plan_of
from fedloom.strategies.base import Strategy

__all__ = ["check_carried", "server_app"]

_LOOK = 0.5


def check_carried(job: Job) -> None:
    """Find a job that Flower's messages cannot carry.

    Raises:
        ConfigError: its model is split: every batch would be an exchange of messages, which take
            seconds each, with processes that are gone in between.
    """
    if job.split.mode != "none":
        text = "Flower's messages cannot carry split learning; serve it by 'fedloom server'"
        raise ConfigError(f"split.mode = {job.split.mode!r}: {text}")


def server_app(table: Mapping[str, Any]) -> Any:
    """The ServerApp of a job.

    Its ``run_config`` may have ``settings``: ``key=value`` over the job, separated by blanks.

    Args:
        table: the job, as TOML gives it.
    """
    app = ServerApp()

    @app.main()  # type: ignore[untyped-decorator, unused-ignore]
    def main(grid: Any, context: Any) -> None:
        changes = str(context.run_config.get("settings", "")).split()
        job = job_from(override(table, changes))
        check_carried(job)
        with progress() as observer:
            _run(job, grid, observer)

    return app


def _run(job: Job, grid: Any, observer: Observer) -> None:
    RunDirectory.check(job, resume=True)
    plan = plan_of(job, observer.note)
    text = manifest(plan, "flower", {})
    clients = _clients(grid, job.server.min_clients, text, job.server.patience)
    directory = RunDirectory.create(job, resume=True)
    course = begin(directory, plan.start, seed=job.seed)
    info = RunInfo(job.name, directory.path, job.rounds, tuple(s.name for s in job.stages))
    observer.started(replace(info, clients=len(clients), resumed_from=course.done))
    follow(job, course, _OverGrid(plan, grid, clients, text), directory, observer)
    found = Finished()
    if plan.finishing:
        found = plan.finishing(course.state.params, directory.adapter)
    summary = Summary(
        before=course.before,
        after=found.test or course.evaluated,
        rounds=course.done,
        elapsed=course.elapsed,
        directory=directory.path,
        adapter=directory.adapter,
        references=found.references,
        spent=course.spent,
    )
    directory.write_summary(summary)
    observer.finished(summary)


def _clients(
    grid: Any, least: int, text: bytes, patience: float
) -> Mapping[ClientId, tuple[Client, int]]:
    """Who is there, by name, with their nodes; as many as the job waits for."""
    while len(nodes := list(grid.get_node_ids())) < least:
        time.sleep(_LOOK)
    found = {}
    messages = [asked("query", node, manifest=text) for node in nodes]
    for reply in grid.send_and_receive(messages, timeout=patience):
        if reply.has_error():
            text_of = f"node {reply.metadata.src_node_id}: {reply.error.reason}"
            raise RunError(f"a node cannot take part: {text_of}")
        name = work_of(reply)["client"]
        if name in found:
            raise RunError(f"two nodes say that they are {name!r}: node_config client names them")
        examples = int(reply.content.metric_records["metrics"]["num-examples"])
        found[name] = Client(name, examples), reply.metadata.src_node_id
    return dict(sorted(found.items()))


@dataclass(eq=False)
class _OverGrid:
    """Plays rounds over a Grid (`fedloom.server.course.Playing`)."""

    plan: Plan
    grid: Any
    clients: Mapping[ClientId, tuple[Client, int]]
    manifest: bytes
    contents: Contents = field(default_factory=Contents)

    def judge(self, index: int, params: Any) -> Judge:
        """Evaluates models on the server's own examples, where it has some."""
        return self.plan.judging(index, params) if self.plan.judging else lambda model: {}

    def play(self, index: int, state: State, *, first: int, last: int) -> Iterator[Played]:
        """Rounds of a stage, one at a time."""
        job, stage = self.plan.job, self.plan.job.stages[index]
        strategy = cast(Strategy, create("strategies", stage.strategy))
        up = cast(Codec, create("codecs", job.up(index)))
        publishing = Publishing(self.plan, self.contents)
        stands = strategy, job, index, state
        with remembered(*stands, done=first - 1, prunes=self.plan.prunes) as kept:
            for number in range(first, last + 1):
                began = time.perf_counter()
                published = publishing.round(index, strategy, state, number - 1)
                cohort = self._cohort(number, stage, state)
                dispatch = self._dispatch(index, number, state, up, published)
                state, report = asyncio.run(
                    run_round(strategy, state, cohort, dispatch, decode=up.decode, kept=kept)
                )
                judge = partial(self._judged, index)
                state, report = judged(strategy, state, report, judge)
                yield Played(stage.name, state, report, time.perf_counter() - began)

    def _judged(self, index: int, params: Any) -> Any:
        return self.judge(index, params)(params)

    def _cohort(self, number: int, stage: Stage, state: State) -> Cohort:
        job = self.plan.job
        there = [client for client, _ in self.clients.values()]
        drawn = drawn_for(state, number)
        chosen = choose(there, stage.clients_per_round, seed=job.seed, number=drawn)
        terms = job.seed, job.tiers, self.plan.cuts, stage.rounds
        return Cohort(number, chosen, stage.local, stage.selectors, *terms)

    def _dispatch(
        self, index: int, number: int, state: State, up: Codec, published: Published
    ) -> Dispatch:
        server = self.plan.job.server

        async def dispatch(
            tasks: Mapping[ClientId, ClientTask],
        ) -> AsyncIterator[ClientUpdate | Refusal]:
            models = {name: self._model(task, published) for name, task in tasks.items()}
            messages = [self._message(task, index, models[name]) for name, task in tasks.items()]
            names = {self.clients[name][1]: name for name in tasks}
            gate = Gate(
                tasks,
                state.params.layout,
                up.decode,
                bytes_down=published.models.content.size,
                norm_bound=server.norm_bound,
                max_examples=server.max_examples,
                largest=OVERHEAD + 1024 + 8 * state.params.layout.size,
                prunes=self.plan.prunes,
            )
            replies = self.grid.send_and_receive(messages, timeout=server.longest)
            sizes = {name: model.size for name, model in models.items()}
            for update in _updates(replies, names, gate, number, sizes):
                yield update

        return dispatch

    def _model(self, task: ClientTask, published: Published) -> Content:
        models = published.models
        own = published.branches[task.branch] if task.branch else models.cut(task.rank)
        return models.content if own is None else own

    def _message(self, task: ClientTask, index: int, content: Content) -> Any:
        node = self.clients[task.client][1]
        order, model = order_of(task, index), self._bytes(content)
        return asked("train", node, order=order, manifest=self.manifest, model=model)

    def _bytes(self, content: Content) -> bytes:
        return b"".join(bytes(piece[-1]) for piece in self.contents.open(content.sha256))


def _updates(
    replies: Sequence[Any],
    names: Mapping[int, ClientId],
    gate: Gate,
    number: int,
    sizes: Mapping[ClientId, int],
) -> Iterator[ClientUpdate | Refusal]:
    """What came, each checked as a live server does."""
    for reply in replies:
        client = names[reply.metadata.src_node_id]
        if reply.has_error():
            yield Refusal(client, str(reply.error.reason))
            continue
        try:
            result, payload = told(reply)
            result = replace(result, cost=replace(result.cost, bytes_down=sizes[client]))
            yield gate.admit(Ticket("", number, client), result, payload or None)
        except UpdateRefusedError as error:
            yield Refusal(client, str(error))
