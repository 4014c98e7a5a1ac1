"""The commented configuration that `fedloom init` writes."""

from importlib.resources import files
from pathlib import Path

from fedloom.core.errors import ConfigError

__all__ = ["template", "write_template"]


def template() -> str:
    """TOML text with every key of a job, its default and what it means."""
    return files("fedloom").joinpath("template.toml").read_text(encoding="utf-8")


def write_template(path: Path) -> None:
    """Write the template to a new file.

    Raises:
        ConfigError: the file exists, or cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(template().replace("THIS_FILE", path.name))
    except FileExistsError:
        raise ConfigError(f"{path}: exists; choose another name or delete it first") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
