"""``fedloom stage`` as its users start it: a process that serves blocks of a model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cohorts import CASES, Folders
from small_jobs import fedloom
from stage_process import stage

from fedloom.backbones.fused import load_fused
from fedloom.backbones.kernels.buffer import Buffer
from fedloom.backbones.kernels.rounding import rounded
from fedloom.backbones.lengths import Lengths, packing_of
from fedloom.client.channel import Channel, Credentials
from fedloom.client.span import RemoteFar, SpanPlan
from fedloom.core.errors import ConfigError, IdentityError, SplitError
from fedloom.security import certificates as certs
from fedloom.security.authority import Authority
from fedloom.security.request import make_request
from fedloom.server.database import Database
from fedloom.server.register import Register
from fedloom.stage_command import blocks_of


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
    with stage(folder, "1-3", *words) as served:
        assert served.weights == backbone.digest
        channel = Channel("127.0.0.1", served.port, credentials=credentials, name="pi")
        told = channel.describe()
        assert (told.plan, told.first, told.last, told.depth) == (served.weights, 1, 3, 3)
        assert (told.width, told.dtype, told.bits, told.sessions) == (32, "float32", 32, 0)
        assert told.throughput > 0
        far = RemoteFar(channel.split, SpanPlan(served.weights, 1, 3))
        out = far.forward(1, x.detach(), packing, train=True)
        assert torch.equal(out, expected)
        assert channel.describe().sessions == 1
        assert torch.equal(far.backward(1, out), grad)
        far.close()
        channel.close()


def test_a_stranger_learns_nothing(model_folder: Folders, tmp_path: Path) -> None:
    Database.open(tmp_path, exclusive=True).close()
    authority, key = Authority.open(tmp_path / "authority"), certs.new_key()
    issued = authority.sign(make_request(key), "stranger", hours=1)
    own = Credentials(authority.certificate, certs.key_to_pem(key), issued.certificate)
    folder = CASES["bert"].folder(model_folder)
    with stage(folder, "1-3", "--in", str(tmp_path)) as served:
        channel = Channel("127.0.0.1", served.port, credentials=own)
        with pytest.raises(IdentityError, match="stranger"):
            channel.describe()
        channel.close()


@pytest.mark.parametrize("text", ["", "3", "a-b", "-1-2", "1-2-3"])
def test_what_are_no_blocks(text: str) -> None:
    with pytest.raises(ConfigError, match="two numbers, such as 2-6"):
        blocks_of(text)


def test_hidden_states_through_blocks_in_8_bits(model_folder: Folders) -> None:
    folder = CASES["bert"].folder(model_folder)
    whole = load_fused(folder, dtype=torch.float32, device=torch.device("cpu"))
    small = replace(whole, layers=tuple(rounded(block, Buffer()) for block in whole.layers))
    packing = packing_of(Lengths(((3, 5),), None))
    x = torch.rand(1, 8, 32)
    expected = small.run(x.requires_grad_(), packing, first=1, last=2)
    (grad,) = torch.autograd.grad(expected, x, expected)
    with stage(folder, "0-3", "--insecure", "--bits", "8") as served:
        channel = Channel("127.0.0.1", served.port, name="pi")
        told = channel.describe()
        assert (told.bits, told.plan) == (8, whole.digest)  # of whatever bits, the same model
        far = RemoteFar(channel.split, SpanPlan(served.weights, 1, 2))  # within what is served
        out = far.forward(1, x.detach(), packing, train=True)
        assert torch.equal(out, expected)
        assert not torch.equal(out, whole.run(x, packing, first=1, last=2))
        assert torch.equal(far.backward(1, out), grad)
        far.close()
        with pytest.raises(SplitError, match="blocks 2 to 4; here are 0 to 3"):
            RemoteFar(channel.split, SpanPlan(served.weights, 2, 4)).forward(
                1, x.detach(), packing, train=False
            )
        channel.close()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--blocks", "2-9"), "blocks = 2-9: expected 0 <= first < last <= 3"),
        (("--blocks", "1-2", "--bits", "3"), "bits = 3: expected 8"),
        (("--blocks", "2-1"), "blocks = 2-1"),
    ],
)
def test_what_cannot_be_served(
    model_folder: Folders, tmp_path: Path, words: tuple[str, ...], text: str
) -> None:
    folder = CASES["bert"].folder(model_folder)
    ended = fedloom("stage", str(folder), *words, "--insecure", cwd=tmp_path)
    assert ended.returncode == 2
    assert text in ended.stderr
