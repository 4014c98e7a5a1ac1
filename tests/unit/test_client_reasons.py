from fedloom.client.reasons import in_words, out_of_memory, short


def test_too_little_memory_is_said_in_plain_words() -> None:
    assert in_words(ValueError("no")) == "ValueError: no"
    text = in_words(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert text.startswith("out of memory (RuntimeError: ")


def test_a_reason_is_a_short_line() -> None:
    assert short("one\n  two") == "one two"
    assert short("a" * 501) == "a" * 497 + "..."
    assert short("a" * 500) == "a" * 500


def test_what_says_that_memory_is_out() -> None:
    assert out_of_memory(MemoryError())
    assert out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert out_of_memory(RuntimeError("std::bad_alloc"))
    assert out_of_memory(RuntimeError("could not create a primitive"))
    assert not out_of_memory(RuntimeError("expected scalar type Float"))
