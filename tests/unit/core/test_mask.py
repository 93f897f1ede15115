"""The mask over three families of tokenizers: every character the model writes is trained on once, nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from agentflow.mask import IGNORED, encode
from agentflow.records import Segment, Span, ToolCall, ToolResult
from agentflow.rendering import PromptConfig, completion_spans, prompt_text
from agentflow.syntax import Syntax

END = 1
SYNTAXES = {name: Syntax(name, {"Calculator": "expression"}) for name in ("compact", "json")}  # type: ignore[arg-type]
CORPUS = [
    prompt_text("How many clips did Mia sell in all in May?", PromptConfig()),
    "<think>In May she sold 48/2 = [Calculator(48/2) -> 24] 24 clips.</think><answer>72</answer>",
    '<tool_call>{"name": "Calculator", "arguments": {"expression": "48/2"}}</tool_call>',
    "<tool_response>24</tool_response> 24 -> ][ )( 0123456789",
]


def byte_level_bpe():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<pad>", "<end>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def word_piece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["<pad>", "<end>", "<unk>"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<pad>", "<end>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


TOKENIZERS = {maker.__name__: maker() for maker in (byte_level_bpe, word_piece, unigram)}
FAMILIES = pytest.mark.parametrize("family", TOKENIZERS)

words = st.text(st.sampled_from("ab 12.\n=é日<>[]"), min_size=1, max_size=12)
expressions = st.sampled_from(["1+1", "(48/2)*3"])
calls = st.builds(
    lambda expression, result: Segment("call", call=ToolCall("Calculator", {"expression": expression}), result=result),
    expressions,
    st.builds(ToolResult, words),
)
rows = st.tuples(words, st.lists(st.builds(lambda t: Segment("text", text=t), words) | calls, max_size=5), words)


def spans_of(row, name="compact"):
    question, segments, answer = row
    return [Span("prompt", prompt_text(question, PromptConfig())), *completion_spans(segments, answer, SYNTAXES[name])]


def tokenize_with(family):
    return lambda text: TOKENIZERS[family].encode(text, add_special_tokens=False).ids


@FAMILIES
@pytest.mark.parametrize("name", SYNTAXES)
@given(row=rows)
def test_every_model_written_token_is_trained_on_once_and_no_other(family, name, row):
    spans = spans_of(row, name)
    encoded = encode(spans, tokenize_with(family), end_id=END)
    place = 0
    for span in spans:
        ids = tokenize_with(family)(span.text)
        labels = encoded.labels[place : place + len(ids)]
        assert encoded.input_ids[place : place + len(ids)] == ids
        assert encoded.roles[place : place + len(ids)] == [span.role] * len(ids)
        assert labels == (ids if span.role in ("think", "call", "answer") else [IGNORED] * len(ids))
        place += len(ids)
    assert encoded.input_ids[place:] == encoded.labels[place:] == [END], "the end token is trained on, once"
    assert len(encoded.input_ids) == len(encoded.labels) == len(encoded.roles) == place + 1
    assert encoded.trained == sum(role in ("think", "call", "answer") for role in encoded.roles)


@FAMILIES
@given(row=rows)
def test_every_model_written_character_stands_in_exactly_one_trained_token(family, row):
    covered_of = {}
    for span in spans_of(row):
        encoding = TOKENIZERS[family].encode(span.text, add_special_tokens=False)
        covered = [0] * len(span.text)
        previous = None
        for start, end in encoding.offsets:
            # The bytes of one character may be several tokens; together they cover it once.
            if (start, end) != previous:
                for i in range(start, end):
                    covered[i] += 1
            previous = (start, end)
        covered_of[span] = covered
    for span, covered in covered_of.items():
        # WordPiece has no token for white space.
        visible = [n for n, char in zip(covered, span.text, strict=True) if not char.isspace()]
        assert set(visible) <= {1}, (span, covered)


@given(row=rows)
def test_the_trained_tokens_of_a_byte_level_tokenizer_decode_to_what_the_model_writes(row):
    spans = spans_of(row)
    encoded = encode(spans, tokenize_with("byte_level_bpe"))
    trained = [label for label in encoded.labels if label != IGNORED]
    written = "".join(span.text for span in spans if span.role not in ("prompt", "result"))
    assert TOKENIZERS["byte_level_bpe"].decode(trained, skip_special_tokens=False) == written
    everything = "".join(span.text for span in spans)
    assert TOKENIZERS["byte_level_bpe"].decode(encoded.input_ids, skip_special_tokens=False) == everything


@FAMILIES
def test_a_token_never_straddles_the_border_of_two_roles(family):
    spans = [Span("call", "[Calculator(1+1) ->"), Span("result", " 2]"), Span("think", " 2")]
    encoded = encode(spans, tokenize_with(family))
    alone = [tokenize_with(family)(span.text) for span in spans]
    assert encoded.input_ids == [token for ids in alone for token in ids]
    assert encoded.roles == [span.role for span, ids in zip(spans, alone, strict=True) for _ in ids]


def test_the_end_token_has_the_role_of_the_last_span():
    encoded = encode([Span("think", "a"), Span("answer", "b")], tokenize_with("byte_level_bpe"), end_id=END)
    assert (encoded.roles[-1], encoded.labels[-1]) == ("answer", END)
    after_prompt = encode([Span("prompt", "a")], tokenize_with("byte_level_bpe"), end_id=END)
    assert after_prompt.labels[-1] == IGNORED, "a row in which the model writes nothing has nothing to train"


def test_no_span_at_all_is_an_empty_row_and_with_an_end_token_one_token():
    assert encode([], tokenize_with("byte_level_bpe")).input_ids == []
    assert encode([], tokenize_with("byte_level_bpe"), end_id=END).labels == [END]
