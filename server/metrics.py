"""What Prometheus reads of a server, on the loopback only."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from fedloom.core.errors import ConfigError, RunError

if TYPE_CHECKING:
    from fedloom.server.federation import Federation

__all__ = ["readings", "serve_metrics"]


def serve_metrics(port: int, federation: "Federation") -> Callable[[], None]:
    """Serve metrics over HTTP on the loopback; what is returned ends that.

    Args:
        port: where; 0 for nowhere.
        federation: what is watched.

    Raises:
        ConfigError: prometheus-client is not installed.
        RunError: the port is taken.
    """
    if not port:
        return lambda: None
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError:
        text = f"server.metrics_port = {port}: needs pip install 'fedloom[server]'"
        raise ConfigError(text) from None
    registry = CollectorRegistry()
    registry.register(_Collector(federation))
    try:
        server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    except OSError as error:
        raise RunError(f"server.metrics_port = {port}: {error.strerror}") from None

    def end() -> None:
        server.shutdown()
        thread.join()
        server.server_close()

    return end


def readings(federation: "Federation") -> Iterator[tuple[str, str, str, dict[str, float]]]:
    """Name, kind, help and values by label of everything that is measured."""
    standing, counting = federation.live.standing, federation.counting
    present, waiting = federation.board.counts
    gauge, counter = "gauge", "counter"
    yield "round", gauge, "Round that is on, or was last", {"": standing.round}
    yield "rounds", gauge, "Rounds of the job", {"": standing.rounds}
    yield "round_asked", gauge, "Clients that the round asked", {"": standing.asked}
    yield "round_arrived", gauge, "Updates of the round on the disk", {"": standing.arrived}
    yield "clients_present", gauge, "Clients heard of since the start", {"": present}
    yield "clients_waiting", gauge, "Clients that wait for work", {"": waiting}
    yield "uploads_bytes", gauge, "Memory of arriving uploads", {"": federation.intake.uploads.held}
    yield "check_ins", counter, "Calls that asked for work", {"": counting.check_ins}
    yield "results", counter, "Results acknowledged", {"": counting.results}
    yield "received_bytes", counter, "Bytes of payloads", {"": counting.bytes_up}
    yield "sent_bytes", counter, "Bytes of contents", {"": counting.bytes_down}
    text = "Clients whose model was not the server's"
    yield "resyncs", counter, text, {"": counting.resyncs}
    refused = {code: float(n) for code, n in sorted(counting.refused.items())}
    yield "refused", counter, "Refusals by code", refused
    evaluation = {k: v for k, v in (standing.evaluation or {}).items()}
    yield "evaluation", gauge, "The newest evaluation by metric", evaluation


class _Collector:
    """Reads the federation whenever it is asked."""

    def __init__(self, federation: "Federation") -> None:
        self._federation = federation

    def collect(self) -> Iterator[Any]:
        """Metric families, as prometheus-client wants them."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        labels = {"refused": "code", "evaluation": "metric"}
        for name, kind, text, values in readings(self._federation):
            family = GaugeMetricFamily if kind == "gauge" else CounterMetricFamily
            label = labels.get(name)
            metric = family(f"fedloom_{name}", text, labels=[label] if label else None)
            for key, value in values.items():
                metric.add_metric([key] if label else [], value)
            yield metric
