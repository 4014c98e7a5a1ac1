"""How a backbone reads examples."""

import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from fedloom.core.job import BackboneConfig
from fedloom.core.patterns import Pattern
from fedloom.tuning.tokens import read_tokenizer

__all__ = ["Reading", "reading_of"]


@dataclass(frozen=True)
class Reading:
    """How a backbone reads examples.

    Attributes:
        task: ``classify`` (text), ``causal-lm`` or ``classify-image``.
        tokenizer: the backbone's; None for images.
        max_tokens: longer texts are cut.
        pattern: what stands around each text (``classify``).
        eos: token id put after a learned text (``causal-lm``); None for none.
    """

    task: str = "classify"
    tokenizer: Tokenizer | None = None
    max_tokens: int = 64
    pattern: Pattern = Pattern()
    eos: int | None = None


def reading_of(backbone: BackboneConfig, folder: Path) -> Reading:
    """How the backbone in `folder` reads the examples of a job.

    Raises:
        ModelError: the folder has no tokenizer that can be read, and the task needs one.
    """
    image = backbone.task == "classify-image"
    return Reading(
        task=backbone.task,
        tokenizer=None if image else read_tokenizer(folder),
        max_tokens=backbone.max_tokens,
        eos=_end_of_text(folder) if backbone.task == "causal-lm" else None,
        pattern=Pattern.of(backbone.pattern),
    )


def _end_of_text(folder: Path) -> int | None:
    path = folder / "config.json"
    found = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
    return int(found[0] if isinstance(found, list) else found) if found is not None else None
