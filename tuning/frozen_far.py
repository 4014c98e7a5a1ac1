"""Far blocks that nobody trains: what a job must then keep at home."""

from collections.abc import Iterator

from fedloom.core.errors import ConfigError
from fedloom.core.job import Job
from fedloom.tuning.cut import Cut
from fedloom.tuning.fused_model import FusedModel

__all__ = ["check_frozen"]


def check_frozen(job: Job, model: FusedModel, cut: Cut) -> None:
    """Refuse a job that trains a tensor of a far block, or attaches anything there that acts.

    Whoever serves the far blocks knows the frozen backbone and no adapter (Petals: Borzunov et al.,
    ACL 2023 demo, section 2.2: what trains lies with the client).

    Raises:
        ConfigError: it names the first such tensor.
    """
    for name, why in _acting(job, model, cut):
        text = f"{name!r} {why}, and its block is far away, where nothing but the backbone is"
        hint = "keep it at home: adapter.layers, train, split.bottom or split.top"
        raise ConfigError(f"split.mode = 'frozen': {text}; {hint}")


def _acting(job: Job, model: FusedModel, cut: Cut) -> Iterator[tuple[str, str]]:
    far = model.holding(cut.far(model.depth))
    own = [tier.train for tier in job.tiers if tier.train is not None]
    for train in (*(stage.train for stage in job.stages), *own):
        trained = model.layout.select(train)
        yield from ((spec.name, "trains") for spec in trained if spec.name in far.layout)
    for part in far.active(far.initial(job.seed), ()):
        yield part.specs[0].name, "changes the model before it trains"
