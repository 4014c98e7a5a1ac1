import threading
import time

import pytest

from fedloom.client import channel
from fedloom.client.channel import Channel, Credentials, enrol
from fedloom.client.watch import Watch
from fedloom.core.errors import TransferError
from fedloom.protos.federation_pb2 import EnrolRequest

OPTIONS = dict(channel._OPTIONS)


def test_pings_are_no_more_often_than_servers_bear() -> None:
    # servers end connections that ping more often than every 30 s; mobile networks forget after 4
    # minutes
    assert 60_000 <= OPTIONS["grpc.keepalive_time_ms"] <= 240_000


def test_no_message_exceeds_a_mebibyte() -> None:
    assert OPTIONS["grpc.max_receive_message_length"] == 2**20 + 4096
    assert OPTIONS["grpc.max_send_message_length"] == 2**20 + 4096


@pytest.mark.parametrize(
    ("host", "target"), [("10.0.0.1", "10.0.0.1:7"), ("::1", "[::1]:7"), ("a.b", "a.b:7")]
)
def test_addresses(host: str, target: str) -> None:
    made = Channel(host, 7, name="device")
    assert made.server == target
    made.close()


def test_keys_are_not_shown() -> None:
    assert "secret" not in repr(Credentials(b"authority", b"secret", b"certificate"))


def test_enrolling_where_nobody_listens(tmp_path: object) -> None:
    with pytest.raises(TransferError, match=r"no answer from 127\.0\.0\.1:1: "):
        enrol("127.0.0.1", 1, b"", EnrolRequest())


def test_a_watch_ends_what_stands_still_and_not_what_moves() -> None:
    ended = threading.Event()
    with Watch(ended.set, 0.2) as watch:
        for _ in range(20):
            time.sleep(0.02)
            watch.moved()
        assert not ended.is_set()
        assert ended.wait(10)
