"""What nano learns from: the text is exactly the server's prompt, splits are apart, facts agree with the catalog."""

import itertools
import json
from importlib.resources import files

import pytest

from kimi_nb.model import catalog, encode_tools, prompt
from kimi_nb.nano import vocabulary
from kimi_nb.nano.training.text import NEVER, READ, WRITTEN, pieces, tokens_of
from kimi_nb.nano.world import SPLITS, conversations, words
from kimi_nb.nano.world.facts import FACTS
from kimi_nb.nano.world.families import FAMILIES


def some(split="train", count=300, seed=3):
    return list(itertools.islice(conversations(seed, split), count))


@pytest.mark.parametrize("split", SPLITS)
def test_the_text_is_the_prompt_that_the_server_makes(split):
    for sample in some(split):
        declared = {"tools_ts_str": encode_tools(sample.tools)} if sample.tools else {}
        last_user = max(n for n, message in enumerate(sample.messages) if message["role"] == "user")
        asked = [n for n, m in enumerate(sample.messages) if n > last_user and m["role"] == "assistant"]
        text, places = "", iter(asked)
        for piece, written in pieces(sample):
            if written:
                before = sample.messages[: next(places)]
                assert text == prompt.render(before, tools=sample.tools, thinking=sample.thinking, **declared)
            text += piece
        assert next(places, None) is None, "every answer is learnt"


def test_what_is_learnt_is_what_the_model_writes():
    end, thought_end = (vocabulary().id(token) for token in (prompt.IM_END, prompt.THINK_END))
    for sample in some():
        tokens, learn = tokens_of(sample)
        assert len(tokens) == len(learn)
        assert set(learn) <= {READ, WRITTEN, NEVER}
        assert (tokens[-1], learn[-1]) == (end, WRITTEN)
        thoughts = [mark for token, mark in zip(tokens, learn, strict=True) if token == thought_end]
        assert (WRITTEN in thoughts) == sample.thinking
        assert READ not in thoughts


def test_it_thinks_exactly_when_told():
    for sample in some(count=2000):
        last_user = max(n for n, message in enumerate(sample.messages) if message["role"] == "user")
        for message in sample.messages[last_user + 1 :]:
            if message["role"] == "assistant":
                assert bool(message["reasoning_content"]) == sample.thinking, sample


def test_the_same_seed_gives_the_same_conversations():
    assert some(count=50) == some(count=50)
    assert some(count=50) != some(count=50, seed=4)


def test_splits_share_no_held_out_phrasing_and_no_name():
    for asked in [*(fact.questions for fact in FACTS), *(family.asks for family in FAMILIES)]:
        if len(asked) >= 4:
            train, valid, test = (set(words.templates(asked, split)) for split in SPLITS)
            assert valid
            assert test
            assert train.isdisjoint(valid | test)
            assert valid.isdisjoint(test)
    for things in (words.CITIES, words.PEOPLE):
        parts = [{thing for thing in things if words.split_of(thing) == split} for split in SPLITS]
        assert all(parts)
        assert sum(map(len, parts)) == len(set(things))


def test_wrapping_leaves_names_and_i_alone():
    import random

    rng = random.Random(1)
    wrapped = [
        words.wrapped(rng, text) for text in ("{to} needs it", "I need {x}.", "Can you?") for _ in range(200)
    ]
    assert all("{to} needs it" in text or "I need {x}." in text or "an you?" in text for text in wrapped)
    assert "Hi, can you?" in wrapped


def test_the_facts_agree_with_the_catalog():
    said = {fact.topic: fact.answer for fact in FACTS}
    kimi = catalog().model("kimi-k2.5")
    shape, numbers = kimi.architecture, kimi.parameters
    assert f"{numbers.total / 1e12:.2f} trillion" in said["Kimi K2.5"]
    assert f"{numbers.total / 1e12:.2f} trillion" in said["its parameters"]
    assert f"{numbers.active / 1e9:.0f} billion" in said["active parameters"]
    assert f"{shape.n_expert} experts" in said["experts"]
    assert f"uses {shape.n_expert_used} of them" in said["experts"]
    assert f"{shape.n_layer} layers" in said["layers"]
    assert f"other {shape.n_layer - shape.n_layer_dense_lead} are" in said["layers"]
    assert f"{kimi.context_limit:,} tokens" in said["context"]
    assert f"{shape.n_vocab:,} tokens" in said["the vocabulary"]
    assert f"{shape.n_layer * (shape.n_lora_kv + shape.n_rot) * 2:,} bytes" in said["the KV cache"]
    assert f"{kimi.native.bytes / 1e9:.0f} GB" in said["the native weights"]
    for name in ("UD-Q2_K_XL", "UD-Q4_K_XL"):
        quant = kimi.quant(f"unsloth/{name}")
        assert f"{quant.bytes / 1e9:.0f} GB in {quant.shards} files" in said[name]
    smallest = min((q for q in kimi.publishers[0].quants if q.bytes), key=lambda quant: quant.bytes)
    assert smallest.name in said["the smallest quant"]
    assert f"{smallest.bytes / 1e9:.0f} GB in {smallest.shards} files" in said["the smallest quant"]
    assert f"{smallest.bytes / 1e9:.0f} GB for {smallest.name}" in said["what must fit"]
    thinking, instant = (mode.sampling for mode in kimi.modes)
    assert f"{thinking.temperature} when thinking and {instant.temperature} in instant" in said["sampling"]
    assert f"top_p {thinking.top_p}" in said["sampling"]
    assert "modified MIT" in said["the licence"]
    assert kimi.licence.name == "Modified MIT"


def test_the_loss_curve_is_the_one_of_the_shipped_weights():
    data = files("kimi_nb.nano").joinpath("data")
    losses = json.loads(data.joinpath("losses.json").read_text(encoding="utf-8"))
    stages = json.loads(data.joinpath("nano.json").read_text(encoding="utf-8"))["training"]["stages"]
    for number, stage in enumerate(stages, 1):
        rows = [row for row in losses["losses"] if row[0] == number]
        assert rows[-1][1] == stage["steps"]
        assert rows[-1][2] < rows[0][2]
