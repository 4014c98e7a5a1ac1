"""The aggregation server; `round.py` is also the simulator's round."""
