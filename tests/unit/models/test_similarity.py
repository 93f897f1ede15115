"""Models that say how close two texts are: a real tiny cross-encoder and bi-encoder, and what is refused."""

from __future__ import annotations

import pytest
import torch
from tiny_bert import save_bert
from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

from agentflow.errors import InputError
from agentflow.models.similarity import load_similarity
from agentflow.models.sources import LocalModel

PAIRS = [("Red Sea", "the Red Sea"), ("Red Sea", "Red Sea"), ("Ida Venn", "")]


def test_a_cross_encoder_gives_the_sigmoid_of_its_logit(tmp_path):
    folder = save_bert(tmp_path, outputs=1)
    similarity = load_similarity("cross_encoder", LocalModel(path=folder))
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    with torch.no_grad():
        logits = [model(**tokenizer(*pair, return_tensors="pt")).logits[0, 0] for pair in PAIRS]
    assert similarity(PAIRS) == pytest.approx([torch.sigmoid(logit).item() for logit in logits], abs=1e-5)
    assert similarity([]) == []


def test_a_bi_encoder_gives_the_cosine_of_two_embeddings_and_nothing_below_zero(tmp_path):
    similarity = load_similarity("bi_encoder", LocalModel(path=save_bert(tmp_path, outputs=None)))
    close, same, _ = values = similarity(PAIRS)
    assert same == pytest.approx(1.0, abs=1e-5) and close < same
    assert all(0.0 <= value <= 1.0 for value in values) and similarity([]) == []


def test_a_model_with_several_outputs_is_no_cross_encoder_for_closeness(tmp_path):
    with pytest.raises(InputError, match="has 3 outputs; a cross-encoder that says how close two texts are has one"):
        load_similarity("cross_encoder", LocalModel(path=save_bert(tmp_path, outputs=3)))


@pytest.mark.parametrize("kind", ["cross_encoder", "bi_encoder"])
def test_a_folder_without_a_model_is_refused_by_name(tmp_path, kind):
    with pytest.raises(InputError, match=f"similarity model '{tmp_path}' cannot be loaded"):
        load_similarity(kind, LocalModel(path=tmp_path))
