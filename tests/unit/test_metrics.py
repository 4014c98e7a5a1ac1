import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_server import opened

from fedloom.core.errors import RunError
from fedloom.server.federation import Federation
from fedloom.server.metrics import readings, serve_metrics


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with opened(tmp_path, rounds=5) as found:
        found.counting.check_ins = 7
        found.counting.bytes_up = 9
        found.counting.refused["norm"] += 2
        found.board.seen("ann", 3)
        yield found


def test_everything_has_a_name_and_a_value(federation: Federation) -> None:
    found = {name: values for name, _, _, values in readings(federation)}
    assert found["rounds"] == {"": 5}
    assert (found["check_ins"], found["received_bytes"]) == ({"": 7}, {"": 9})
    assert (found["clients_present"], found["clients_waiting"]) == ({"": 1}, {"": 0})
    assert found["resyncs"] == {"": 0}
    assert found["refused"] == {"norm": 2.0}
    assert found["evaluation"] == {}
    federation.live._stand(evaluation={"loss": 0.5})
    assert {n: v for n, _, _, v in readings(federation)}["evaluation"] == {"loss": 0.5}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def test_prometheus_reads_them(federation: Federation) -> None:
    pytest.importorskip("prometheus_client")
    port = free_port()
    end = serve_metrics(port, federation)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
            text = reply.read().decode()
        with pytest.raises(RunError, match=f"server.metrics_port = {port}: Address already in"):
            serve_metrics(port, federation)
    finally:
        end()
    lines = text.splitlines()
    assert "fedloom_check_ins_total 7.0" in lines
    assert 'fedloom_refused_total{code="norm"} 2.0' in lines
    assert "fedloom_rounds 5.0" in lines


def test_no_port_is_none(federation: Federation) -> None:
    serve_metrics(0, federation)()
