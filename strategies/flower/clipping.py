"""The clipping that two of Flower's strategies expect of clients, done where updates arrive.

``DifferentialPrivacyClientSide...Clipping`` sends a norm, and a mod of Flower's on the client clips
the update to it. Clients of fedloom run no mods: the same functions run on the decoded update. The
numbers are the same; the server sees updates before they are clipped.
"""

from collections.abc import Sequence
from typing import Any

__all__ = ["clipped"]


def clipped(strategy: Any, messages: Sequence[Any], replies: Sequence[Any]) -> list[Any]:
    """The replies as the mod that a strategy expects would have sent them.

    Args:
        strategy: of Flower's.
        messages: that the replies may answer.
        replies: whole models.
    """
    mod = _mod_for(strategy)
    if mod is None:
        return list(replies)
    asked = {message.metadata.message_id: message for message in messages}
    return [
        mod(asked[reply.metadata.reply_to_message_id], None, lambda *_, reply=reply: reply)
        for reply in replies
    ]


def _mod_for(strategy: Any) -> Any:
    from flwr.clientapp import mod
    from flwr.serverapp import strategy as known

    while strategy is not None:
        if isinstance(strategy, known.DifferentialPrivacyClientSideFixedClipping):
            return mod.fixedclipping_mod
        if isinstance(strategy, known.DifferentialPrivacyClientSideAdaptiveClipping):
            return mod.adaptiveclipping_mod
        strategy = getattr(strategy, "strategy", None)
    return None
