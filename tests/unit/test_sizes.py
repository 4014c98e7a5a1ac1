import pytest

from fedloom.core.errors import ConfigError
from fedloom.core.sizes import bytes_of, megabytes


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("900MB", 900_000_000),
        ("900 mb", 900_000_000),
        ("1.5GB", 1_500_000_000),
        ("1.5G", 1_500_000_000),
        ("2GiB", 2 * 2**30),
        ("512Mi", 512 * 2**20),
        ("64kB", 64_000),
        ("900000000", 900_000_000),
        ("", 0),
    ],
)
def test_amounts(text: str, count: int) -> None:
    assert bytes_of("memory", text) == count


@pytest.mark.parametrize("text", ["0", "0MB", "-1GB", "much", "1TB", "1.2.3MB", "MB", "1e9"])
def test_no_amounts(text: str) -> None:
    with pytest.raises(ConfigError, match=r"memory = '.*': expected an amount such as 900MB"):
        bytes_of("memory", text)


def test_for_a_person() -> None:
    assert megabytes(1_240_400_000) == "1,240 MB"
    assert megabytes(1_500_000) == "1.5 MB"
