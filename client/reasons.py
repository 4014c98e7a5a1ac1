"""Why a device gives a task up, in words for the server and for whoever reads its log."""

__all__ = ["in_words", "short"]

_LONGEST = 500
"""Characters of a reason that the server is told."""


def in_words(error: Exception) -> str:
    """An error; one of too little memory in plain words."""
    text = f"{type(error).__name__}: {error}"
    lowered = text.lower()
    if "out of memory" in lowered or "can't allocate" in lowered or "memoryerror" in lowered:
        return f"out of memory ({text})"
    return text


def short(text: str) -> str:
    """A text in one line that is not too long.

    >>> short("a\\n b")
    'a b'
    """
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
