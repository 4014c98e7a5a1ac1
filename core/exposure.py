"""What a split gives away, in words for whoever runs the job."""

from fedloom.core.privacy import gaussian_epsilon
from fedloom.core.split import SplitConfig

__all__ = ["exposed"]

BLOCKS = 2
"""Blocks below the far ones, at home, from which on nothing is said."""


def exposed(split: SplitConfig) -> tuple[str, ...]:
    """One line for each thing that a far side can find out more easily than it need.

    Args:
        split: how the model is split. Of one that is not nothing is said.
    """
    if split.mode == "none":
        return ()
    found = []
    if split.bottom < BLOCKS:
        text = "hidden states so close to the text give most of its tokens away"
        found.append(f"split.bottom = {split.bottom}: {text}; {BLOCKS} or more blocks give fewer")
    if split.labels == "far":
        found.append("split.labels = 'far': the far side is told every label")
    elif split.top == 0:
        text = "gradients right below the head give labels away"
        found.append(f"split.top = 0: {text}; 1 or more blocks above give fewer")
    if split.noise:
        found.append(_worth(split))
    return tuple(found)


def _worth(split: SplitConfig) -> str:
    """What the noise is worth where it can be proved, for one vector."""
    epsilon = gaussian_epsilon(split.noise)
    text = f"a token's vector, sent once, is ({epsilon:.3g}, 1e-5)-differentially private"
    return f"split.noise = {split.noise:g}: {text}; a text is many tokens, sent many times"
