import pytest

from fedloom.core.body import PIECE, Body, pieces
from fedloom.core.errors import TransferError


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE])
def test_pieces_make_the_body_again(size: int) -> None:
    data = bytes(i % 251 for i in range(1000)) * (size // 1000 + 1)
    body = Body(size)
    parts = list(pieces(data[:size]))
    assert len(parts) == -(-size // PIECE)
    for piece in parts:
        assert len(piece[2]) <= PIECE
        body.add(*piece)
    assert body.whole
    assert bytes(body.data) == data[:size]


@pytest.mark.parametrize(
    ("piece", "code", "text"),
    [
        ((0, 0, b""), "chunk-order", "a piece of 0 bytes; 4 of 4 are missing"),
        ((0, 0, b"12345"), "chunk-order", "a piece of 5 bytes; 4 of 4"),
        ((2, 0, b"12"), "chunk-order", "a piece at 2; the next one begins at 0"),
        ((0, 1, b"12"), "chunk-crc", "the piece at 0 was damaged"),
    ],
)
def test_what_is_no_next_piece(piece: tuple[int, int, bytes], code: str, text: str) -> None:
    with pytest.raises(TransferError, match=text) as refused:
        Body(4).add(*piece)
    assert refused.value.code == code


def test_nothing_comes_after_the_end() -> None:
    body = Body(2)
    body.add(*next(pieces(b"ab")))
    with pytest.raises(TransferError, match="a piece of 1 bytes; 0 of 2 are missing"):
        body.add(2, 0, b"c")
