"""The ClientApp of the Flower baseline.

It stands in a module of its own because Ray ships functions of an importable module by name: only
then does the cached model below survive from one call of an actor to the next.
"""

import functools
import os

import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from baselines.job import Job
from baselines.model import ResidentModel


@functools.cache
def resident_model(job_text: str) -> ResidentModel:
    """Build the model on an actor's first call and keep it for all later ones."""
    job = Job.from_json(job_text)
    torch.set_num_threads(job.threads)
    return ResidentModel(job.what, job.dtype, job.attention)


def train(message: Message, context: Context) -> Message:
    """Train the client of this node for a local epoch.

    The message holds the global weights `[P]` under `arrays` and the job under `config`; the
    reply holds the local weights `[P]`, the samples, the steps done and the actor's process.
    """
    job_text = str(message.content.config_records["config"]["job"])
    model = resident_model(job_text)
    weights = message.content.array_records["arrays"]["weights"].numpy()
    model.weights.copy_(torch.from_numpy(weights))
    before = model.counter.steps
    model.local_epoch(int(context.node_config["partition-id"]))
    metrics: dict[str, int | float | list[int] | list[float]] = {
        "num-examples": Job.from_json(job_text).what.samples,
        "steps": model.counter.steps - before,
        "process": os.getpid(),
    }
    content = RecordDict(
        {
            "arrays": ArrayRecord({"weights": Array(model.weights.numpy())}),
            "metrics": MetricRecord(metrics),
        }
    )
    return Message(content, reply_to=message)


app = ClientApp()
app.train()(train)
