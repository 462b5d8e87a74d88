"""nano on the real llama.cpp: it loads, its parser is Kimi's, it can be quantised to every type and cut into shards."""

import json
import math
import subprocess
import urllib.request

import gguf
import pytest

from kimi_nb.nano import SHAPE, make_nano, vocabulary

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def nano(build, tmp_path_factory):
    """nano with random weights in F16: what is shown here holds for the shape, whatever the weights."""
    return make_nano(tmp_path_factory.mktemp("random"), weights="random")


@pytest.fixture(scope="module")
def server(build, nano):
    from kimi_nb.engine import LlamaServer
    from kimi_nb.plan import Settings

    with LlamaServer(
        nano, settings=Settings(ctx_size=8192, parallel=2), build=build, alias="nano"
    ) as running:
        yield running


TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "minLength": 1, "maxLength": 4}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}

PLAIN = [
    "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q5_1", "Q4_K_M", "Q4_0", "Q4_1", "IQ4_NL", "IQ4_XS", "Q3_K_M", "Q2_K",
    "TQ1_0", "TQ2_0", "Q2_0", "Q1_0", "MXFP4_MOE",
]  # fmt: skip
WITH_IMATRIX = [
    "IQ3_XXS", "IQ2_XXS", "IQ1_S",
    *(pytest.param(kind, marks=pytest.mark.soak) for kind in ("IQ3_S", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ1_M")),
]  # fmt: skip


def ask(server, path, body=None):
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {server.api_key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        return json.load(reply)


def chat(server, *, thinking, **more):
    body = {
        "messages": [{"role": "user", "content": "What is the weather in Rome?"}],
        "chat_template_kwargs": {} if thinking else {"thinking": False},
        "seed": 1,
        **more,
    }
    return ask(server, "/v1/chat/completions", body)["choices"][0]


def towards(**biases):
    return [[vocabulary().id(token), bias] for token, bias in biases.items()]


def test_the_server_knows_what_the_template_can(server):
    caps = ask(server, "/props")["chat_template_caps"]
    wanted = {
        "supports_tools": True, "supports_tool_calls": True, "supports_parallel_tool_calls": True,
        "supports_system_role": True, "supports_string_content": True, "supports_typed_content": True,
        "supports_preserve_reasoning": False,
    }  # fmt: skip
    assert {name: caps[name] for name in wanted} == wanted


def test_thinking_and_instant_come_back_apart(server):
    bias = towards(
        **{"<|im_end|>": -100, "[EOS]": -100, "[EOT]": -100, "[PAD]": -100, "</think>": -100, "<think>": -100}
    )
    thought = chat(server, thinking=True, max_tokens=20, logit_bias=bias)["message"]
    assert thought["reasoning_content"]
    assert not thought.get("content")
    instant = chat(server, thinking=False, max_tokens=20, logit_bias=bias)["message"]
    assert instant["content"]
    assert not instant.get("reasoning_content")


@pytest.mark.parametrize("end", ["<|im_end|>", "[EOS]", "[EOT]"])
def test_generation_stops_at_the_end_of_a_turn(server, end):
    choice = chat(server, thinking=False, max_tokens=20, logit_bias=towards(**{end: 100}))
    assert choice["finish_reason"] == "stop"
    assert not choice["message"].get("content"), "the marker itself is not shown"


@pytest.mark.parametrize("thinking", [True, False])
def test_kimis_parser_returns_a_call(server, thinking):
    """Random weights never call a tool by themselves: a bias starts the call and ends its index and its text.

    While the model thinks, llama-server's grammar does not bind it, and the bias would start call after call: a
    thinking budget of nothing ends the thinking at once.
    """
    bias = towards(**{
        "<|tool_call_begin|>": 80, "<|tool_call_argument_begin|>": 70, "<|tool_call_end|>": 60, "0": 40, '"}': 30,
    })  # fmt: skip
    choice = chat(
        server, thinking=thinking, max_tokens=100, logit_bias=bias, tools=[TOOL], tool_choice="required",
        parallel_tool_calls=False, temperature=0.6, thinking_budget_tokens=0 if thinking else -1,
    )  # fmt: skip
    assert choice["finish_reason"] == "tool_calls"
    [call] = choice["message"]["tool_calls"]
    assert call["id"] == "functions.get_weather:0"
    assert call["function"]["name"] == "get_weather"
    arguments = json.loads(call["function"]["arguments"])
    assert list(arguments) == ["city"]
    assert 1 <= len(arguments["city"]) <= 4


def test_the_answers_vary_and_every_number_is_finite(server):
    answers = set()
    for text in ("Rome", "Paris", "12 + 7", "你好"):
        reply = ask(server, "/completion", {"prompt": text, "n_predict": 4, "temperature": 0, "n_probs": 20})
        chances = [
            top["logprob"] for token in reply["completion_probabilities"] for top in token["top_logprobs"]
        ]
        assert len(chances) >= 20
        assert all(math.isfinite(chance) for chance in chances)
        first = [math.exp(top["logprob"]) for top in reply["completion_probabilities"][0]["top_logprobs"]]
        assert 1e-3 < first[0] < 0.9, "neither uniform nor certain"
        answers.add(reply["content"])
    assert len(answers) == 4


def test_a_prompt_beyond_the_original_context_runs(build, nano):
    """A prompt longer than YaRN's original context runs."""
    done = subprocess.run(
        [build.program("llama-bench"), "-m", nano, "-p", "4200", "-n", "0", "-r", "1", "-t", "2", "-fa", "1", "--no-warmup",
         "-o", "json"],
        capture_output=True, check=True, timeout=240,
    )  # fmt: skip
    [result] = json.loads(done.stdout)
    assert result["model_n_params"] == SHAPE.n_params
    assert result["model_type"].startswith("deepseek2")
    assert result["n_prompt"] == 4200


@pytest.fixture(scope="module")
def imatrix(build, nano, tmp_path_factory):
    """An importance matrix from random text: every expert sees some of it."""
    folder = tmp_path_factory.mktemp("imatrix")
    vocab = vocabulary()
    words = [vocab.decode([id_]) for id_ in range(400, vocab.first_special)]
    (folder / "text.txt").write_text(" ".join(words * 3), encoding="utf-8")
    done = subprocess.run(
        [build.program("llama-imatrix"), "-m", nano, "-f", folder / "text.txt", "-o", folder / "imatrix.gguf", "-c", "512",
         "--chunks", "12", "-t", "2"],
        capture_output=True, text=True, timeout=240, errors="replace", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-800:]
    return folder / "imatrix.gguf"


def quantised(build, nano, target, kind, *more):
    done = subprocess.run(
        [build.program("llama-quantize"), *more, nano, target, kind, "2"],
        capture_output=True, text=True, timeout=240, errors="replace", check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-800:]
    assert "falling back" not in said, "a row that this type cannot take"
    assert target.stat().st_size > 1_000_000


@pytest.mark.parametrize("kind", PLAIN)
def test_it_can_be_quantised(build, nano, tmp_path, kind):
    quantised(build, nano, tmp_path / "out.gguf", kind)


@pytest.mark.parametrize("kind", WITH_IMATRIX)
def test_it_can_be_quantised_with_an_importance_matrix(build, nano, imatrix, tmp_path, kind):
    quantised(build, nano, tmp_path / "out.gguf", kind, "--imatrix", str(imatrix))


def test_its_experts_get_the_types_a_kimi_gets(build, nano, tmp_path):
    """llama-quantize has rules of its own for exactly eight experts; nano must not meet them."""
    quantised(build, nano, tmp_path / "out.gguf", "Q4_K_M")
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    reader.data._mmap.close()
    assert types["blk.1.attn_output.weight"] == "Q4_K"
    assert types["blk.1.attn_k_b.weight"] == "Q4_K"
    assert types["blk.1.ffn_gate_exps.weight"] == "Q4_K"
    assert types["blk.5.ffn_down_exps.weight"] == "Q6_K"


@pytest.mark.parametrize("shards", [2, 5, 9])
def test_it_is_cut_into_exactly_as_many_shards(build, tmp_path, shards):
    first = make_nano(tmp_path, shards=shards, build=build)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"nano-{number:05d}-of-{shards:05d}.gguf" for number in range(1, shards + 1)]
    assert first.name == names[0]
    done = subprocess.run(
        [build.program("llama-bench"), "-m", first, "-p", "8", "-n", "0", "-r", "1", "-t", "1", "-o", "json"],
        capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    assert json.loads(done.stdout)[0]["model_n_params"] == SHAPE.n_params


def test_a_split_that_fails_is_one_clear_line_and_leaves_nothing(build, tmp_path):
    from dataclasses import replace

    from kimi_nb.errors import ModelFileError

    broken = tmp_path / "bin"
    broken.mkdir()
    program = broken / "llama-gguf-split"
    program.write_text("#!/bin/sh\necho it broke\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(ModelFileError, match="code 3: it broke") as caught:
        make_nano(tmp_path / "out", shards=5, build=replace(build, bin=broken))
    assert caught.value.id == "KNB382"
    assert list((tmp_path / "out").iterdir()) == []
