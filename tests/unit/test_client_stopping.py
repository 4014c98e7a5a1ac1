import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from command_forks import command_environment

from fedloom.client.stopping import Stop, Stopped


def send(number: int, after: float = 0.05) -> threading.Timer:
    timer = threading.Timer(after, lambda: os.kill(os.getpid(), number))
    timer.start()
    return timer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_wait_and_tells(number: int) -> None:
    stop, told = Stop(), threading.Event()
    stop.tell(told.set)
    before = signal.getsignal(number)
    with stop.signals():
        assert not stop.is_set()
        timer = send(number)
        assert stop.wait(30.0)
        assert told.wait(5.0)
        timer.join()
    assert signal.getsignal(number) is before


def test_a_signal_ends_a_computation() -> None:
    stop = Stop()

    def compute() -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            sum(range(1000))

    with stop.signals():
        timer = send(signal.SIGTERM)
        with pytest.raises(Stopped), stop.interruptible():
            compute()
        timer.join()
    assert stop.is_set()


def test_nothing_is_begun_once_it_is_to_stop() -> None:
    stop = Stop()
    stop.set()
    with pytest.raises(Stopped), stop.interruptible():
        raise AssertionError


def test_a_second_signal_ends_the_process() -> None:
    code = """
import time
from fedloom.client.stopping import Stop
with Stop().signals():
    print("ready", flush=True)
    time.sleep(0.3)
    print("still here", flush=True)
    time.sleep(60)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=command_environment(), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == b"still here\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM
