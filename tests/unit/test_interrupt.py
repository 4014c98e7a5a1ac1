import asyncio
import os
import signal

import pytest

from fedloom.core.interrupt import Interrupt


def test_an_interrupt_that_asyncio_loses_is_raised_again() -> None:
    async def last_step() -> int:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        return 1

    with Interrupt() as interrupt:
        interrupt.check()
        assert asyncio.run(last_step()) == 1
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_in_a_destructor_is_raised_again() -> None:
    class Late:
        def __del__(self) -> None:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                return  # where Python would write "Exception ignored"

    with Interrupt() as interrupt:
        late = Late()
        del late
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()


def test_a_programs_own_handler_is_left_alone() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGINT)
            interrupt.check()
    finally:
        signal.signal(signal.SIGINT, before)
    assert came == [signal.SIGINT]
