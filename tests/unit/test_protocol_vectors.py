"""The conformance vectors are up to date, and a decoder of the protocol's text alone reads them."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import reference_steps as steps
import reference_wire as wire
from protocol_vectors import FOLDER, made

KINDS = ("float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "int64")
TABLES = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
PROTOCOL = (FOLDER.parent / "protocol.md").read_text()


def floats(digits: str) -> wire.Floats:
    return np.frombuffer(bytes.fromhex(digits), "<f4").astype(np.float32)


def same(found: wire.Floats, digits: str) -> bool:
    """To the bit, signs of zeros included."""
    return found.astype("<f4").tobytes().hex() == digits


def data_of(frame: dict[str, Any]) -> bytes:
    data: bytes = (FOLDER / frame["file"]).read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (frame["size"], frame["sha256"])
    return data


def test_the_folder_is_up_to_date_and_small() -> None:
    """Else: python tests/protocol_vectors.py."""
    there = {path.name: path.read_bytes() for path in FOLDER.iterdir()}
    assert there == made()
    assert sum(map(len, there.values())) < 200_000


@pytest.mark.parametrize("module", [wire, steps])
def test_the_reference_is_independent(module: Any) -> None:
    text = Path(module.__file__).read_text()
    assert not re.search(r"^\s*(from|import) (fedloom|google)", text, re.MULTILINE)


@pytest.mark.parametrize("vector", TABLES["codecs"]["frames"], ids=lambda v: v["name"])
def test_codecs(vector: dict[str, Any]) -> None:
    specs = TABLES["codecs"]["tensors"]
    names, found = wire.decode(vector["codec"], data_of(vector["frame"]), specs)
    assert names == vector["tensors"]
    assert same(found, vector["decoded"])


@pytest.mark.parametrize("vector", TABLES["scalars"]["frames"], ids=lambda v: v["name"])
def test_scalars(vector: dict[str, Any]) -> None:
    table, options = TABLES["scalars"], vector["options"]
    exact, moved, origin = table["exact"], table["moved"], table["origin"]
    frame = data_of(vector["frame"])
    scalars, worth, rest = steps.scalars_frame(frame, exact, moved, options)
    assert (scalars.tolist(), worth) == (vector["scalars"], vector["coefficient"])
    assert same(rest, vector["rest"])
    scheme, family = options.get("scheme", "distinct"), options.get("family", "rademacher")
    owner = steps.owner_of(scheme, origin["client"])
    assert owner == int(vector["owner"])
    round = 0 if scheme == "pool" else origin["round"]
    size, seed = wire.size_of(moved), origin["seed"]
    total = steps.change(scalars, family=family, seed=seed, round=round, owner=owner, size=size)
    assert np.array_equal(steps.scaled(total, worth, family), floats(vector["change"]))


def test_perturbations() -> None:
    table = TABLES["perturbations"]
    seed, client = table["seed"], steps.client_number(table["client"]["name"])
    assert steps.run_id(seed).hex() == table["run_id"]
    assert client == int(table["client"]["number"])
    for each in table["keys"]:
        key = steps.group_key(seed, each["round"], client, each["group"])
        assert f"{key:032x}" == each["key"]
    for group, expected in enumerate(table["pool_keys"]):
        assert f"{steps.group_key(seed, 0, 0, group):032x}" == expected
    key, told = int(table["stream"]["key"], 16), table["stream"]
    assert steps.stream(key, 80).hex() == told["bytes_0_80"]
    assert steps.stream(key, 1010)[1000:].hex() == told["bytes_1000_1010"]
    assert steps.stream(key, 40, 1).hex() == told["channel_1_bytes_0_40"]
    for number, signs in enumerate(table["rademacher"]["signs"]):
        assert steps.direction("rademacher", key, number, 40).tolist() == signs
    for number, values in enumerate(table["gaussian"]["values"]):
        assert steps.direction("gaussian", key, number, 20).tolist() == values
    quantiles = np.array(steps.normal_table()).astype("<i2").tobytes()
    assert hashlib.sha256(quantiles).hexdigest() == table["gaussian"]["table_sha256"]


def test_derived_orders() -> None:
    """A permutation sorts the first words of the stream of what it is for."""
    table = TABLES["perturbations"]
    told = table["derived"]
    text = f"{table['seed']}\0{told['round']}\0{told['client']}\0{told['purpose']}"
    raw = hashlib.blake2b(text.encode(), digest_size=16, person=b"fedloom/seed/1").digest()
    key = int.from_bytes(raw, "little")
    assert f"{key:032x}" == told["key"]
    words = np.frombuffer(steps.stream(key, 40), "<u8").tolist()
    assert sorted(range(5), key=words.__getitem__) == told["permutation_of_5"]


def test_ledger() -> None:
    table = TABLES["ledger"]
    specs, seed, versions = table["tensors"], table["seed"], table["versions"]
    model = floats(versions[0]["values"])
    assert steps.model_digest(model) == versions[0]["digest"]
    for advance, after in zip(table["advances"], versions[1:], strict=True):
        model = steps.advanced(data_of(advance), specs, model, seed)
        assert same(model, after["values"])
        assert steps.model_digest(model) == after["digest"]
    down, start = table["downlink"], floats(versions[table["downlink"]["base"]]["values"])
    last = steps.followed(data_of(down["frame"]), specs, start, seed)
    assert steps.model_digest(last) == down["digest"]


def test_what_stands_beside_a_model() -> None:
    table = TABLES["beside"]
    reader = wire.Reader(data_of(table["briefing"]["frame"]))
    assert reader.take(4) == b"FLB1"
    found = {}
    for _ in range(reader.unpack("H")):
        name = reader.take(reader.unpack("B")).decode()
        kind, axes = reader.unpack("B"), reader.unpack("B")
        shape = [reader.unpack("I") for _ in range(axes)]
        dtype = KINDS[kind]
        array = reader.array(np.dtype(dtype).str, int(np.prod(shape, dtype=int)))
        found[name] = [dtype, array.reshape(shape).tolist()]
    assert found == table["briefing"]["arrays"]
    model = reader.take(reader.left)
    assert hashlib.sha256(model).hexdigest() == table["briefing"]["model"]
    reader = wire.Reader(data_of(table["branch"]["frame"]))
    assert reader.take(4) == b"FLP1"
    chosen = wire.Reader(reader.take(reader.varint()))
    specs = chosen.tensors(table["tensors"])
    chosen.end()
    names, values = wire.decode("float32", reader.take(reader.left), specs)
    assert names == table["branch"]["tensors"]
    assert same(values, table["branch"]["values"])


def test_contents_layouts_and_tokens() -> None:
    table = TABLES["contents"]
    told = table["content"]
    data = bytes((31 * i + 7) % 256 for i in range(told["size"]))
    assert hashlib.sha256(data).hexdigest() == told["sha256"]
    cut = {at: data[at : at + 262_144] for at in range(0, len(data), 262_144)}
    assert [[at, len(part), crc32(part)] for at, part in cut.items()] == told["chunks"]
    layout, token = table["layout"], table["token"]
    assert wire.layout_digest(layout["tensors"]).hex() == layout["digest"]
    address, *rest = token["text"].removeprefix("flt1.").rsplit(".", 3)
    assert [*address.rsplit(":", 1), *rest] == [
        token["host"],
        str(token["port"]),
        *(token[name] for name in ("id", "secret", "pin")),
    ]
    stored = hashlib.sha256(b"fedloom join token\0" + token["secret"].encode()).hexdigest()
    assert stored == token["stored"]


@pytest.mark.parametrize("vector", TABLES["messages"], ids=lambda v: v["frame"]["file"][:-4])
def test_messages(vector: dict[str, Any]) -> None:
    found = wire.message(data_of(vector["frame"]), vector["fields"])
    assert found == vector["fields"]


@pytest.mark.parametrize("vector", TABLES["contents"]["refusals"], ids=lambda v: v["code"])
def test_refusals_are_those_of_the_table(vector: dict[str, Any]) -> None:
    if not vector["metadata"]:  # a status without a reason is no refusal of fedloom's
        assert (vector["code"], vector["passes"]) == ("unreachable", True)
        return
    row = next(line for line in PROTOCOL.splitlines() if line.startswith(f"| `{vector['code']}`"))
    _, code, status, _, device, _ = (cell.strip() for cell in row.split("|"))
    assert code == f"`{vector['metadata']['fedloom-reason']}`"
    assert status == f"`{vector['status']}`"
    assert vector["ends"] == device.startswith("ends")
    assert vector["passes"] == device.startswith("tries again")
    assert str(vector["retry_after"]) == vector["metadata"].get("retry-after", "None")
