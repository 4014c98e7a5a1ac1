import json
from pathlib import Path

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

from fedloom.backbones.mask_head import load_mask_head
from fedloom.core.errors import ConfigError, ModelError

CPU = torch.device("cpu")
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}
TOKENS = (7, 31, 12)


def models() -> list[PreTrainedModel]:
    bert = BertConfig(**SMALL, intermediate_size=20, hidden_act="gelu_new", layer_norm_eps=1e-5)
    roberta = RobertaConfig(**SMALL, intermediate_size=20)
    distil = DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=20, vocab_size=40)
    free = BertConfig(**SMALL, intermediate_size=20, tie_word_embeddings=False)
    return [
        BertForMaskedLM(bert),
        BertForMaskedLM(free),
        RobertaForMaskedLM(roberta),
        DistilBertForMaskedLM(distil),
    ]


def test_it_says_of_tokens_what_the_whole_model_says(tmp_path: Path) -> None:
    torch.manual_seed(4)
    for i, model in enumerate(models()):
        for parameter in model.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
        model.eval().save_pretrained(tmp_path / str(i))
        head = load_mask_head(tmp_path / str(i), CPU)
        ids = torch.tensor([[1, 4, 9, 2], [1, 30, 8, 2]])
        with torch.no_grad():
            hidden = model.base_model(input_ids=ids).last_hidden_state[:, 2]
            expected = model(input_ids=ids).logits[:, 2, list(TOKENS)]
            weight, bias = head.rows(TOKENS)
            found = head(hidden) @ weight.T + bias
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_model_without_such_a_head_is_refused(tmp_path: Path) -> None:
    BertModel(BertConfig(**SMALL, intermediate_size=20)).save_pretrained(tmp_path)
    text = r"backbone\.pooling = 'mask': mean, last or model: .*no head of a masked language model"
    with pytest.raises(ConfigError, match=text):
        load_mask_head(tmp_path, CPU)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"hidden_act": "silu"}, r"hidden_act = 'silu' .* one of gelu, gelu_new, relu"),
        ({"layer_norm_eps": "small"}, r"layer_norm_eps = 'small': expected a number"),
    ],
)
def test_what_its_configuration_must_say(
    tmp_path: Path, change: dict[str, object], text: str
) -> None:
    BertForMaskedLM(BertConfig(**SMALL, intermediate_size=20)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError, match=text):
        load_mask_head(tmp_path, CPU)
