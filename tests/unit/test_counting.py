from fedloom.server.counting import Counting


def test_everything_begins_at_zero_and_refusals_are_counted_by_code() -> None:
    counting = Counting()
    assert (counting.check_ins, counting.results) == (counting.bytes_up, counting.bytes_down)
    for code in ("norm", "codec", "norm"):
        counting.refused[code] += 1
    assert counting.refused == {"norm": 2, "codec": 1}
    assert Counting().refused == {}
