from fedloom.tuning.leg_bytes import figure_bytes, length_bytes, place_bytes


def test_numbers_beside_a_body_are_of_four_bytes() -> None:
    assert length_bytes(5) == 20
    assert place_bytes(3) == 24  # a place and a label each
    # loss, right ones and count of the client; the loss and the class of each prediction
    assert figure_bytes(3) == 4 * (3 + 2 * 3)
    assert figure_bytes(7, clients=2) == 4 * (2 * 3 + 2 * 7)
