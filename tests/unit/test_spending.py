from fedloom.core.types import Cost
from fedloom.results.spending import spending


def test_ratios_are_those_of_the_paper() -> None:
    # 1200 tokens in 40 s at 15 W: 30 tokens/s, 2 tokens/s/W; 40 s of computing for 10 on the line
    cost = Cost(tokens=1200, joules=40 * 15.0, device_seconds=40, network_seconds=10, bytes_up=5)
    found = spending(cost, 50.0)
    assert (found["eta_e"], found["granularity"]) == (2.0, 4.0)
    assert (found["simulated_seconds"], found["bytes_up"], found["joules"]) == (50.0, 5.0, 600.0)


def test_what_was_not_counted_is_left_out() -> None:
    assert spending(Cost(tokens=3, device_seconds=2.0), 0.0) == {"tokens": 3, "device_seconds": 2}
