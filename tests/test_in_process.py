"""A model inside this process: nano, tokenised and continued by llama-cpp-python on our libraries."""

import sys

import pytest

from kimi_nb.engine import InProcess
from kimi_nb.errors import BuildError, ModelFileError, UsageError

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def model(build, nano):
    with InProcess(nano, n_ctx=256, build=build) as loaded:
        yield loaded


@pytest.mark.parametrize(
    "text", ["The capital of France", "naïve Ωmega 你好 🙂", "  two  spaces\n\ttab", "x"]
)
def test_tokens_give_the_text_back(model, text):
    tokens = model.tokenize(text)
    assert tokens
    assert all(isinstance(token, int) for token in tokens)
    assert model.detokenize(tokens) == text


def test_special_tokens_are_one_token_only_when_meant(model):
    assert len(model.tokenize("<|im_end|>")) == 1
    assert len(model.tokenize("<|im_end|>", special=False)) > 1
    assert model.detokenize(model.tokenize("<|im_end|>")) == "<|im_end|>"
    assert model.tokenize("") == []


def test_a_completion_is_the_same_each_time(model):
    one = model.complete("Once upon a time", max_tokens=12)
    assert model.complete("Once upon a time", max_tokens=12) == one
    warm = model.complete(model.tokenize("Once upon a time"), max_tokens=12, temperature=1.0, seed=7)
    assert model.complete("Once upon a time", max_tokens=12, temperature=1.0, seed=7) == warm
    assert isinstance(warm, str)


@pytest.mark.parametrize(
    ("prompt", "max_tokens"), [("", 5), ("fits", 0), ("word " * 400, 5), ([], 5), ([1] * 256, 1)]
)
def test_a_prompt_that_cannot_be_continued_is_wrong_use(model, prompt, max_tokens):
    with pytest.raises(UsageError, match=r"KNB232: cannot complete a prompt of"):
        model.complete(prompt, max_tokens=max_tokens)
    assert model.complete("still well", max_tokens=2) is not None


@pytest.mark.parametrize("token", [-1, 10**9])
def test_an_id_that_is_no_token_is_wrong_use(model, token):
    with pytest.raises(UsageError, match=rf"KNB232: {token} is not a token"):
        model.detokenize([1, token])


def test_nothing_is_printed(build, nano, capfd):
    with InProcess(nano, n_ctx=128, build=build) as loaded:
        loaded.complete("quiet", max_tokens=3)
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_closing_frees_it_and_can_be_repeated(build, nano):
    loaded = InProcess(nano, n_ctx=128, build=build)
    loaded.close()
    loaded.close()
    with pytest.raises(UsageError, match=r"KNB232: this model is closed"):
        loaded.tokenize("x")


def test_a_path_without_a_file(tmp_path):
    with pytest.raises(UsageError, match=r"KNB230: there is no model file .*leads nowhere"):
        InProcess(tmp_path / "none.gguf")
    with pytest.raises(UsageError, match=r"KNB230: .*it is a folder"):
        InProcess(tmp_path)


@pytest.mark.parametrize("kind", ["truncated", "page", "empty"])
def test_a_file_that_is_no_whole_model(kind, build, nano, tmp_path, capfd):
    file = tmp_path / "model.gguf"
    whole = nano.read_bytes()
    file.write_bytes({"truncated": whole[: len(whole) // 2], "page": b"<!DOCTYPE html>", "empty": b""}[kind])
    with pytest.raises(ModelFileError, match=r"KNB231: llama.cpp cannot load") as failed:
        InProcess(file, build=build)
    assert "\n" not in str(failed.value)
    assert failed.value.why
    assert capfd.readouterr() == ("", "")
    print(failed.value)


def test_without_the_binding_it_is_one_line_that_installs_it(nano, monkeypatch):
    """An installation from a wheel begins so; nothing is built before it is said."""
    monkeypatch.setitem(sys.modules, "llama_cpp", None)  # Python's own way to say that it is not installed
    with pytest.raises(BuildError, match=r"KNB222: .*CMAKE_ARGS=-DLLAMA_BUILD=OFF .* llama-cpp-python==\d"):
        InProcess(nano)
