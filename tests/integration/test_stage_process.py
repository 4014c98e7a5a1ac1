"""``fedloom stage`` as its users start it: a process that serves blocks of a model."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from cohorts import CASES, Folders

from fedloom.backbones.fused import load_fused
from fedloom.backbones.lengths import Lengths, packing_of
from fedloom.client.channel import Channel, Credentials
from fedloom.client.span import RemoteFar, SpanPlan
from fedloom.core.errors import ConfigError
from fedloom.security import certificates as certs
from fedloom.security.authority import Authority
from fedloom.security.request import make_request
from fedloom.server.database import Database
from fedloom.server.register import Register
from fedloom.stage_command import blocks_of

LINE = re.compile(r"blocks 1 to 3 at (\S+):(\d+), weights ([0-9a-f]{64})")


@contextmanager
def stage(folder: Path, *words: str) -> Iterator[tuple[int, str]]:
    """A stage that runs; its port and the digest that it says."""
    command = [sys.executable, "-m", "fedloom", "stage", str(folder), "--blocks", "1-3", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = LINE.fullmatch(process.stdout.readline().strip())
            assert found is not None
            yield int(found[2]), found[3]
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            process.kill()


@pytest.mark.parametrize("tls", [False, True])
def test_hidden_states_through_a_process(model_folder: Folders, tmp_path: Path, tls: bool) -> None:
    folder, credentials, words = CASES["bert"].folder(model_folder), None, ["--insecure"]
    if tls:
        database = Database.open(tmp_path, exclusive=True)
        authority, register = Authority.open(tmp_path / "authority"), Register(database)
        key = certs.new_key()
        issued = authority.sign(make_request(key), "pi", hours=1)
        token = register.tokens.create()
        register.tokens.redeem(*token, name="pi", key="k", issue=lambda _: issued)
        database.close()
        own = certs.key_to_pem(key), issued.certificate
        credentials, words = Credentials(authority.certificate, *own), ["--in", str(tmp_path)]
    backbone = load_fused(folder, dtype=torch.float32, device=torch.device("cpu"))
    packing = packing_of(Lengths(((3, 5),), "first"))
    x = torch.rand(1, 8, 32)
    expected = backbone.run(x.requires_grad_(), packing, first=1, last=3, trim=True)
    (grad,) = torch.autograd.grad(expected, x, expected)
    with stage(folder, *words) as (port, digest):
        assert digest == backbone.digest
        channel = Channel("127.0.0.1", port, credentials=credentials, name="pi")
        far = RemoteFar(channel.split, SpanPlan(digest, 1, 3))
        out = far.forward(1, x.detach(), packing, train=True)
        assert torch.equal(out, expected)
        assert torch.equal(far.backward(1, out), grad)
        far.close()
        channel.close()


@pytest.mark.parametrize("text", ["", "3", "a-b", "-1-2", "1-2-3"])
def test_what_are_no_blocks(text: str) -> None:
    with pytest.raises(ConfigError, match="two numbers, such as 2-6"):
        blocks_of(text)
