"""Why a device gives a task up, in words for the server and for whoever reads its log."""

__all__ = ["in_words", "out_of_memory", "short"]

_LONGEST = 500
"""Characters of a reason that the server is told."""


_NO_MEMORY = (
    *("out of memory", "allocate memory", "not enough memory", "bad_alloc"),
    "could not create a primitive",  # oneDNN, which gets no memory for its code
)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in _NO_MEMORY)


def in_words(error: Exception) -> str:
    """An error; one of too little memory in plain words."""
    text = f"{type(error).__name__}: {error}"
    return f"out of memory ({text})" if out_of_memory(error) else text


def short(text: str) -> str:
    """A text in one line that is not too long.

    >>> short("a\\n b")
    'a b'
    """
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
