"""What a split gives away, in words for whoever runs the job."""

from fedloom.core.privacy import gaussian_epsilon
from fedloom.core.split import SplitConfig

__all__ = ["exposed"]

BLOCKS = 2
"""Blocks below the far ones, at home, from which on no more is said of them."""


def exposed(split: SplitConfig) -> tuple[str, ...]:
    """What a far side can find out, most general first: one line each, for whoever runs the job.

    Args:
        split: how the model is split. Of one that is not nothing is said.
    """
    if split.mode == "none":
        return ()
    found = ["split: what goes up gives texts and labels away to a far side that tries, at any cut"]
    if split.bottom < BLOCKS:
        text = "hidden states so close to the text need only be looked up in the embeddings"
        found.append(f"split.bottom = {split.bottom}: {text}")
    if split.labels == "far":
        found.append("split.labels = 'far': the far side is told every label")
    elif split.top == 0:
        text = "of gradients right below the head the sign alone tells the label"
        found.append(f"split.top = 0: {text}")
    if split.noise:
        found.append(_worth(split))
    return tuple(found)


def _worth(split: SplitConfig) -> str:
    """What the noise is worth where it can be proved, for one vector."""
    epsilon = gaussian_epsilon(split.noise)
    text = f"a token's vector, sent once, is ({epsilon:.3g}, 1e-5)-differentially private"
    return f"split.noise = {split.noise:g}: {text}; a text is many tokens, sent many times"
