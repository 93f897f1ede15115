"""How close two texts are, by a model: what paper B's reward asks of an answer and its gold answer.

In: pairs of texts. Out: a number in [0, 1] for each. `cross_encoder` reads both texts at once and gives the sigmoid of
its logit (paper B: the bge-reranker family; the sigmoid is ours); `bi_encoder` embeds each text and gives the cosine,
negative ones as 0 (ours, a stand-in that small models can do). A model of plain transformers format is pooled by the
mean of its last layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from agentflow.errors import InputError
from agentflow.models.loading import no_foreign_code
from agentflow.models.sources import HubModel, LocalModel
from agentflow.rewards.composite import ModelSimilarity

if TYPE_CHECKING:
    # Imported where it is used: it takes seconds, and few policies are graded by a model.
    from sentence_transformers import CrossEncoder, SentenceTransformer

Similarity = Callable[[Sequence[tuple[str, str]]], list[float]]
# Pairs of texts to a number in [0, 1] each.


def load_similarity(kind: ModelSimilarity, source: LocalModel | HubModel) -> Similarity:
    """The similarity that `kind` computes with the model of `source`, on the GPU if this process sees one.

    Raises InputError if the model cannot be loaded, needs code of its own, or (cross_encoder) has more than one output.
    """
    from sentence_transformers import CrossEncoder, SentenceTransformer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = str(source.path) if isinstance(source, LocalModel) else source.id
    revision = None if isinstance(source, LocalModel) else source.revision
    try:
        with no_foreign_code(name):
            if kind == "cross_encoder":
                model = CrossEncoder(name, revision=revision, device=device, trust_remote_code=False)
                return _cross_encoder(model, name)
            return _bi_encoder(SentenceTransformer(name, revision=revision, device=device, trust_remote_code=False))
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"similarity model {name!r} cannot be loaded: {error}; give a folder that save_pretrained wrote, or a hub "
            "id at a commit"
        ) from error


def _cross_encoder(model: CrossEncoder, name: str) -> Similarity:
    if model.num_labels != 1:
        raise InputError(
            f"similarity model {name!r} has {model.num_labels} outputs; a cross-encoder that says how close two texts "
            "are has one"
        )

    def similarity(pairs: Sequence[tuple[str, str]]) -> list[float]:
        if not pairs:
            return []
        said = model.predict(list(pairs), activation_fn=torch.nn.Sigmoid(), show_progress_bar=False)
        return [float(value) for value in said]

    return similarity


def _bi_encoder(model: SentenceTransformer) -> Similarity:
    from sentence_transformers.util import pairwise_cos_sim

    def similarity(pairs: Sequence[tuple[str, str]]) -> list[float]:
        if not pairs:
            return []
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        place = {text: i for i, text in enumerate(texts)}
        embedded = model.encode(texts, convert_to_tensor=True, show_progress_bar=False)
        first, second = (embedded[[place[pair[side]] for pair in pairs]] for side in (0, 1))
        return [_unit(float(value)) for value in pairwise_cos_sim(first, second)]

    return similarity


def _unit(cosine: float) -> float:
    """A cosine as a similarity in [0, 1]; not a number stays one, for the grader to refuse."""
    return cosine if math.isnan(cosine) else min(1.0, max(0.0, cosine))
