"""Runs that are interrupted on purpose."""

from fedloom.progress import Quiet
from fedloom.results.observe import RoundLine


class StopsAfter(Quiet):
    """An observer that presses Ctrl-C when a round is over."""

    def __init__(self, round: int) -> None:
        self._round = round

    def round_done(self, line: RoundLine) -> None:
        if line.round == self._round:
            raise KeyboardInterrupt
