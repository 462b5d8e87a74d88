"""nano's vocabulary: our encoder gives llama.cpp's tokens, and names are spelt the same wherever they stand."""

# ruff: noqa: RUF001 - look-alike characters are what a tokeniser has to tell apart

import json
import random
import subprocess
import unicodedata
import urllib.request
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_nb.model import prompt
from kimi_nb.nano import SHAPE, vocabulary
from kimi_nb.nano.bpe import byte_chars, learn, merges_of_corpus
from kimi_nb.nano.split import kind, split
from kimi_nb.nano.vocab import n_merges

TEXTS = [
    "",
    " ",
    "Hello, world! How are you?",
    "The weather in Rome is sunny; it's 21 degrees, isn't it? I'LL see, we've GOT 'em, they're o'clock's",
    "  leading,   inner and trailing spaces   ",
    "tabs\tand\r\nline ends\n\n\n  indented\n\t\n x \r y\r\r\n",
    "1 12 123 1234 12345678901 3.14159 1,000,000 2026-01-27T10:00:00Z ½ ² Ⅳ ٣٤٥ 一二三",
    '{"city":"Rome","days":3,"nested":{"list":[1,2.5,null,true]},"quote":"a \\"b\\" \\n"}',
    "def main(args: list[str]) -> int:\n    return sum(x ** 2 for x in args)  # comment\n",
    'type get_weather = (_: {\n  // Name\n  city: string,\n  unit?: "celsius" | "fahrenheit"\n}) => any;',
    "llama-server --model ./models/UD-TQ1_0/Kimi-K2.5-UD-TQ1_0-00001-of-00005.gguf --ctx-size 98304 -ot exps=CPU",
    "你好，世界！我是 nano，一个小模型。今天北京的天气怎么样？Kimi模型K2.5版本",
    "مرحبا! أنا نموذج صغير. كم درجة الحرارة في القاهرة؟ شكراً جزيلاً، مع السلامة ١٢٣",
    "日本語のテキスト、カタカナ、ひらがな。한국어 텍스트. Ελληνικά, кириллица, עברית, ไทย, हिन्दी में",
    "emoji 😀👍🏽👨‍👩‍👧 flags 🇫🇷 and symbols ←→≠≤∞ № © ™ … “quotes” ‘single’ — – °C €£¥",
    "combining e\u0301 and nbsp\u00a0here zero\u200bwidth \u3000ideographic \u2028 line \ufeff bom \x00\x01\x7f\x85",
    "camelCase snake_case SCREAMING_CASE kebab-case dotted.name path/to/file.py C:\\temp user@example.com",
    "((([[[{{{<<<>>>}}}]]]))) ... !!! ??? --- === *** ### $$$ %%% ^^^ &&& ~~~ ``` ''' \"\"\"",
    "a" * 300 + " " * 40 + "\n" * 9 + "ab" * 70,
    "𠀀𪜀丽豈㐀 rare han, unassigned \U000e0fff and private \ue000",
    "İstanbul ſ K ẞ ŉ ǆ 'ſ 'S x'İ don'T we'LL",
    "<|im_user|>user<|im_middle|>Hi<|im_end|><|im_assistant|>assistant<|im_middle|><think>hm</think>Ho<|im_end|>",
    (
        '<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{"a":1}'
        "<|tool_call_end|><|tool_calls_section_end|>"
    ),
    "broken <|im_end| > <|im_ end|> <|im_end|><|im_end|> <think><think></think > [BOS][EOS] [PAD] x[UNK]y [EOT]",
    "<|<|im_end|>|> <|tool_call_begin|> <|media_begin|>image<|media_content|><|media_pad|><|media_end|>\n",
    "<|reserved_token_163589|> <|reserved_token_1|> <|start_header_id|>",
]


def random_texts(count=400):
    draw = random.Random(5)
    alphabets = [
        "abcdefghij XYZ", "0123456789 .,", " \n\t\r", "'sStTrReEvVmMlLdD a", '{}[]":,_-/\\.', "你好世界模型的了",
        "مرحباالعربيةَُِ", "😀👍éñß½²", "".join(chr(point) for point in range(0x20, 0x7F)), "\u00a0\u2003\u200b\u3000\x85x",
    ]  # fmt: skip
    for _ in range(count):
        chosen = "".join(draw.sample(alphabets, draw.randint(1, 4)))
        text = "".join(draw.choice(chosen) for _ in range(draw.randint(1, 60)))
        if draw.random() < 0.3:
            cut = draw.randint(0, len(text))
            text = text[:cut] + draw.choice(prompt.special_tokens()[:26]) + text[cut:]
        yield text


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


def test_the_merges_are_what_the_corpus_gives():
    folder = files("kimi_nb.nano").joinpath("data")
    corpus = folder.joinpath("corpus.txt").read_text(encoding="utf-8")
    learnt = merges_of_corpus(corpus, n_merges(SHAPE.n_vocab))
    assert tuple(learnt) == vocabulary().merges


def test_a_corpus_too_small_is_refused():
    with pytest.raises(ValueError, match="not 50"):
        merges_of_corpus("== words\nthe cat the cat\n", 50)


def test_learning_merges_the_commonest_pair_first():
    from collections import Counter

    assert learn(Counter({"abab": 3, "bc": 4}), 2, {}) == [("a", "b"), ("b", "c")]
    assert learn(Counter({"xy": 1}), 5, {}) == [], "what is seen once is not merged"


def test_the_vocabulary_fills_its_size_with_different_tokens():
    vocab = vocabulary()
    assert len(vocab.tokens) == SHAPE.n_vocab == len(set(vocab.tokens))
    assert list(vocab.tokens[:256]) == byte_chars()
    assert list(vocab.tokens[vocab.first_special :]) == prompt.special_tokens()


@given(ANY_TEXT)
@settings(max_examples=300, deadline=None)
def test_pieces_and_tokens_lose_nothing(text):
    assert "".join(split(text)) == text
    vocab = vocabulary()
    assert vocab.decode(vocab.encode(text)) == text
    assert vocab.decode(vocab.encode(text, parse_special=False), special=False) == text


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Hello  world", ["Hello", " ", " world"]),
        ('{"city":"Rome"}', ['{"', "city", '":"', "Rome", '"}']),
        ("x = 12345\n\n  y", ["x", " =", " ", "123", "45", "\n\n", " ", " y"]),
        ("we've don't", ["we've", " don't"]),
        ("你好world世界", ["你好", "world", "世界"]),
        ("end.\n\nNext", ["end", ".\n\n", "Next"]),
    ],
)
def test_pieces_are_kimis(text, pieces):
    assert split(text) == pieces


def test_a_name_is_spelt_the_same_wherever_it_stands():
    vocab = vocabulary()
    for name in ("Rome", "brenlith", "Reykjavik", "the", "theremin", "weather", "القاهرة", "北京"):
        alone = vocab.encode(name)
        for before, after in (
            (" ", "?"),
            ('{"city":"', '"}'),
            ("\n", "\n"),
            ("in ", ", "),
            ("/", "."),
            ("_", ":"),
        ):
            around = vocab.encode(before + name + after)
            places = [place for place in range(len(around)) if around[place : place + len(alone)] == alone]
            assert len(places) == 1, (before, name, after)


def test_tokens_do_not_mix_what_copying_keeps_apart():
    """A token is all letters or has none; no token has two digits or two Chinese characters."""
    vocab = vocabulary()
    for id_ in range(256, vocab.first_special):
        raw = bytes(byte_chars().index(char) for char in vocab.tokens[id_])
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            continue  # a part of a character
        kinds = {kind(char) for char in text}
        assert not ("letter" in kinds and len(kinds) > 1), text
        assert "number" not in kinds, text
        assert "han" not in kinds or len(text) == 1, text
    scripts = {unicodedata.name(char).split()[0] for char in "aم你"}
    assert scripts == {"LATIN", "ARABIC", "CJK"}


def test_special_text_is_plain_text_when_it_is_not_parsed():
    vocab = vocabulary()
    assert vocab.encode("<|im_end|>") == [vocab.id("<|im_end|>")]
    assert max(vocab.encode("<|im_end|>", parse_special=False)) < vocab.first_special
    assert vocab.decode([vocab.id("<|im_end|>"), *vocab.encode("x")], special=False) == "x"


def ask(server, path, body):
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{path}",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {server.api_key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


@pytest.mark.engine
@pytest.mark.parametrize("parse_special", [True, False])
def test_llama_cpp_gives_the_same_tokens(server, parse_special):
    vocab = vocabulary()
    for text in [*TEXTS, *random_texts()]:
        asked = {"content": text, "add_special": True, "parse_special": parse_special}
        ids = ask(server, "/tokenize", asked)["tokens"]
        assert ids == vocab.encode(text, parse_special=parse_special), text
        assert ask(server, "/detokenize", {"tokens": ids})["content"] == text


@pytest.mark.engine
def test_llama_tokenize_gives_the_same_tokens(build, nano, tmp_path):
    text = "\n".join(text.replace("\0", "") for text in TEXTS)
    file = tmp_path / "text.txt"
    file.write_bytes(text.encode())
    done = subprocess.run(
        [build.program("llama-tokenize"), "-m", nano, "-f", file, "--ids", "--no-escape", "--log-disable"],
        capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    assert json.loads(done.stdout) == vocabulary().encode(text)
