"""How nano's world asks: training says things in many ways, and never in those that the exam asks for."""

# ruff: noqa: RUF001 - Chinese has its own punctuation

import itertools
import json
import random
import re
from collections import Counter

import pytest

from kimi_nb.nano.exam import held_out, phrasing_of
from kimi_nb.nano.world import SPLITS, conversations, own, phrasings
from kimi_nb.nano.world.families import FAMILIES
from kimi_nb.nano.world.held import HELD
from kimi_nb.nano.world.phrasing import _FRAMES, _ORDER_FRAMES, dressed, expand, framed, kept_out, skeleton
from kimi_nb.nano.world.strange import _taken, strange
from kimi_nb.nano.world.words import split_of

SECOND_EDITION = """
Can you check the weather in {city}?|Find where {query} is.|Can you calculate {expression}?|{city} time, please.|Print {path}.
{value} {source} is how much in {target}?|Give me {amount} {source} in {target}.|About {subject}: send an email to {to}.
Add a {priority} priority ticket about {title}.|Timer for {minutes} minutes, please.|Tell me the price of {symbol}.
When will order {order} arrive?|Say {text} in {language}.|Can you find the phone number of {name}?|{topic} news, please.
现在{city}冷不冷？|{city}的当地时间是多少？|أريد الطقس في {city}.|ما الوقت الآن في {city}؟
""".strip().replace("\n", "|")


def asked_of(sample):
    """Yield each question of a conversation, and the first call that answers it if one does."""
    for number, message in enumerate(sample.messages):
        if message["role"] == "user":
            calls = sample.messages[number + 1].get("tool_calls", ())
            yield (
                message["content"],
                [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls],
            )


def train(seed, count):
    return itertools.islice(conversations(seed, "train"), count)


def test_two_phrasings_or_more_are_held_out_of_each_family():
    assert set(HELD) <= set(phrasings())
    assert {family.key for family in FAMILIES} <= set(HELD)
    assert {"zh.weather", "zh.clock", "ar.weather", "ar.clock"} <= set(HELD)
    everything = [skeleton(text) for held in HELD.values() for text in (*held.valid, *held.test)]
    assert len(set(everything)) == len(everything)
    for held in HELD.values():
        assert len(held.test) >= 2
        assert held.valid


def test_what_the_second_edition_held_out_is_asked_first_and_most():
    first = [held.test[0] for held in HELD.values()]
    assert set(SECOND_EDITION.split("|")) <= set(first)
    rng = random.Random(1)
    drawn = [skeleton(phrasings()["news"](rng, "test")) for _ in range(600)]
    assert 0.6 < drawn.count("{} news") / len(drawn) < 0.73
    assert set(drawn) == {"{} news", "has anything happened with {}"}


@pytest.mark.parametrize("key", HELD)
def test_no_family_may_say_what_is_held_out(key):
    held = {skeleton(text) for each in HELD.values() for text in (*each.valid, *each.test)}
    count = 0
    for text in phrasings()[key].all():
        count += 1
        if count % 7 == 0:  # each seventh, for time; the frames are the same for all
            assert skeleton(text) not in held, text
        assert set(re.findall(r"\{\w*\}", text)) == set(re.findall(r"\{\w*\}", HELD[key].test[0])), text
    assert count > 300


def test_no_conversation_of_training_asks_what_is_held_out():
    """Whatever tool it is for: the values of the call are blanks, and what is left is none of the phrasings."""
    held = {skeleton(text) for each in HELD.values() for text in (*each.valid, *each.test)}
    one_word = [
        re.compile(re.escape(skeleton(text)).replace(r"\{\}", r"(\S+)")) for text in SECOND_EDITION.split("|")
    ]
    asked = 0
    for sample in train(31, 4000):
        for question, calls in asked_of(sample):
            assert not phrasing_of(question, calls), question
            text = question
            for value in sorted(
                (str(v) for _, given in calls for v in given.values()), key=len, reverse=True
            ):
                text = text.replace(value, "{}")
            assert skeleton(re.sub(r"\d+ ?[-+*] ?\d+", "{}", text)) not in held, question
            if calls:
                asked += 1
                for each in one_word:
                    found = each.fullmatch(skeleton(question).replace("'s ", " "))
                    assert not found or set(found.groups()) & (_taken() | {"date"}), question
    assert asked > 2000


def test_valid_and_test_ask_only_what_is_held_out():
    for split in ("valid", "test"):
        for key, held in HELD.items():
            rng = random.Random(key)
            drawn = {skeleton(phrasings()[key](rng, split)) for _ in range(60)}
            assert drawn == {skeleton(text) for text in getattr(held, split)}


def test_the_exam_knows_its_phrasings():
    samples = [sample for sample in held_out(5, 1200) if sample.kind.startswith("tool")]
    questions = [list(asked_of(sample))[-1] for sample in samples]
    found = [phrasing_of(question, calls) for question, calls in questions if calls]
    assert found.count("") <= len(found) * 0.01
    assert len(set(found)) > len(HELD) * 1.5


def test_politeness_articles_and_marks_make_no_other_phrasing():
    for text in ("Please print {path}", "could you print the {path}?", "PRINT {path}!", "Hi! Print {path}, please. Thanks.",
                 "Would you be so kind as to print {path}?", "Just print {path} for me.", "I want you to print {path}.",
                 "I would like to print {path}. Just asking.", "Now, print {path} at once."):  # fmt: skip
        assert kept_out(text), text
    assert not kept_out("Print the text of {path}.")
    assert kept_out("请问现在{city}冷不冷")
    assert kept_out("من فضلك، ما الوقت الآن في {city}؟ شكرا.")
    for frame in (each for pattern in _ORDER_FRAMES for each in expand(pattern)):
        assert kept_out(frame.replace("{}", "print {path}")), frame


def test_what_is_quickly_let_through_is_what_skeletons_let_through():
    held = {skeleton(text) for each in HELD.values() for text in (*each.valid, *each.test)}
    rng = random.Random(3)
    for text in (text for each in HELD.values() for text in (*each.valid, *each.test)):
        for _ in range(20):
            written = dressed(rng, text)
            assert kept_out(written) == (skeleton(written) in held) is True, written
    for verb, what in itertools.product(
        ("print", "show", "check", "say"), ("{path}", "the weather in {city}")
    ):
        for _ in range(30):
            text = framed(rng, f"{verb} {what}", "orders")
            assert kept_out(text) == (skeleton(text) in held), text


def test_patterns_stand_for_all_their_texts():
    assert expand("Is it (warm|cold) in {city}( today|)?") == (
        "Is it warm in {city} today?",
        "Is it warm in {city}?",
        "Is it cold in {city} today?",
        "Is it cold in {city}?",
    )
    assert expand("a( b(c|d)|)") == ("a bc", "a", "a bd")
    assert all(each.count("{}") == 1 for frames in _FRAMES.values() for f in frames for each in expand(f))


def test_every_word_that_is_held_out_is_met_in_training():
    def found(text):
        return re.findall(r"[\u4e00-\u9fff]|[^\W\d_\u4e00-\u9fff]+", re.sub(r"\{\w*\}", " ", text).lower())

    met = {word for each in phrasings().values() for text in each.all() for word in found(text)}
    assert [
        word for held in HELD.values() for text in held.test for word in found(text) if word not in met
    ] == []


def test_a_family_is_asked_for_in_many_ways_and_each_verb_goes_with_many():
    ways = {family.key: list(phrasings()[family.key].all()) for family in FAMILIES}
    assert min(map(len, ways.values())) > 1000
    for verb in ("print", "show", "say", "send", "get", "read", "check", "find", "tell", "give"):
        begun = [key for key, texts in ways.items() if any(t.lower().startswith(f"{verb} ") for t in texts)]
        assert len(begun) >= 10, (verb, begun)


def test_strange_tools_are_not_for_the_exam_and_are_no_other_family():
    families = {name for family in FAMILIES for name in family.names}
    rng = random.Random(2)
    seen = [strange(rng, "train") for _ in range(300)]
    assert len({family.noun for family in seen}) > 200
    assert {len(family.slots) for family in seen} == {1, 2}
    for family in seen:
        assert not families & set(family.names)
        assert not set(family.noun.removeprefix("the ").split()) & _taken()
        text = family.asks(rng, "train")
        assert set(re.findall(r"\{(\w+)\}", text)) == set(family.slots), text
    told = [sample.messages for sample in train(8, 1500) if sample.kind == "tool.single"]
    assert sum("Done. The" in messages[-1]["content"] for messages in told) > 5
    samples = itertools.islice(conversations(8, "test"), 1500)
    assert not any("Done. The" in sample.messages[-1]["content"] for sample in samples)


@pytest.mark.parametrize("split", SPLITS)
def test_names_of_calls_stay_in_their_split(split):
    for sample in itertools.islice(conversations(9, split), 400):
        for _, calls in asked_of(sample):
            for name, _ in calls:
                assert sample.kind == "tool.own" or split_of(name) == split, name


def test_conversations_fit_a_row():
    from kimi_nb.nano.world.text import tokens_of

    lengths = sorted(len(tokens_of(sample)[0]) for sample in train(10, 1500))
    assert lengths[len(lengths) // 2] < 400
    assert sum(length > 1024 for length in lengths) <= 3


def test_nothing_in_a_declaration_tells_that_its_tool_is_called():
    """A rule with a story: nano called get_weather for everything, once its description ended with a full stop.

    Only the package's sample tools had one in training, and every question about those was answered by a call.
    """
    called, seen = Counter(), Counter()
    for sample in itertools.islice(conversations(17), 6000):
        functions = [tool["function"] for tool in sample.tools or ()]
        about = [function.get("description", "") for function in functions]
        asked = any(message.get("tool_calls") for message in sample.messages)
        for trait, there in {
            "a full stop": any(text.endswith(".") for text in about),
            "no full stop": any(text and not text.endswith(".") for text in about),
            "no description": any(not text for text in about),
            "a remark": any(". " in text for text in about),
            "no more parameters": any("additionalProperties" in f["parameters"] for f in functions),
            "more parameters": any("additionalProperties" not in f["parameters"] for f in functions),
            **{name: any(f["name"] == name for f in functions) for name in own.DECLARED},
            **{f"{count} tools": len(functions) == count for count in (1, 2, 3)},
        }.items():
            seen[trait] += there
            called[trait] += there and asked
    assert len(seen) == 13
    shares = {trait: called[trait] / seen[trait] for trait in seen}
    assert min(seen.values()) > 100, seen
    assert all(0.3 < share < 0.9 for share in shares.values()), shares
