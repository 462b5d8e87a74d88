"""nano's file: its shape, its header, the same bytes every time, and what happens when something is in the way."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

from kimi_nb import cli
from kimi_nb.errors import ModelFileError, UsageError, troubles
from kimi_nb.files import sha256_file
from kimi_nb.model.prompt import chat_template
from kimi_nb.nano import SHAPE, make, make_nano, nano_facts, nano_path, vocabulary
from kimi_nb.nano.shape import NanoShape
from kimi_nb.nano.writer import random_tensors, write_gguf


@pytest.fixture(scope="module")
def tensors():
    return dict(random_tensors())


@pytest.fixture(scope="module")
def header(tmp_path_factory):
    path = make_nano(tmp_path_factory.mktemp("nano"))
    reader = gguf.GGUFReader(path)
    yield reader
    reader.data._mmap.close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KIMI_NB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def value(reader, key):
    return reader.get_field(key).contents()


def test_every_row_takes_every_quant_type():
    rows = {spec.name: spec.shape[-1] for spec in SHAPE.tensors() if len(spec.shape) > 1}
    assert [name for name, row in rows.items() if row % 256] == []


def test_the_size_stays_within_20_mb_at_q8_0(tensors, tmp_path):
    path = tmp_path / "nano.gguf"
    write_gguf(path, tensors, encoding="Q8_0")
    size = path.stat().st_size
    print(f"\nnano: {SHAPE.n_params:,} parameters, {SHAPE.n_params_active:,} active, {size:,} bytes at Q8_0")
    assert 10_000_000 < size < 20_000_000
    assert SHAPE.n_params == sum(values.size for values in tensors.values())


def test_active_parameters_leave_out_the_idle_experts():
    one = NanoShape(n_expert=16, n_expert_used=4)
    other = NanoShape(n_expert=32, n_expert_used=4)
    gate_rows = (32 - 16) * (one.n_embd + 1) * (one.n_layer - one.n_layer_dense_lead)
    assert other.n_params_active - one.n_params_active == gate_rows


def test_the_header_says_what_kimis_says(header):
    assert value(header, "general.architecture") == "deepseek2"
    assert value(header, "tokenizer.ggml.model") == "gpt2"
    assert value(header, "tokenizer.ggml.pre") == "kimi-k2"
    numbers = {
        "block_count": 6, "context_length": 32768, "embedding_length": 256, "feed_forward_length": 768,
        "attention.head_count": 4, "attention.head_count_kv": 1, "attention.q_lora_rank": 256,
        "attention.kv_lora_rank": 256, "attention.key_length": 320, "attention.value_length": 256,
        "attention.key_length_mla": 320, "attention.value_length_mla": 64, "rope.dimension_count": 64,
        "leading_dense_block_count": 1, "expert_count": 10, "expert_used_count": 2, "expert_shared_count": 1,
        "expert_feed_forward_length": 256, "expert_gating_func": 2, "expert_weights_norm": True,
        "expert_group_count": 1, "expert_group_used_count": 1, "vocab_size": 3072,
        "rope.scaling.type": "yarn", "rope.scaling.factor": 8.0, "rope.scaling.original_context_length": 4096,
        "rope.scaling.yarn_beta_fast": 32.0, "rope.scaling.yarn_beta_slow": 1.0, "rope.freq_base": 50000.0,
    }  # fmt: skip
    assert {key: value(header, f"deepseek2.{key}") for key in numbers} == numbers
    assert value(header, "deepseek2.expert_weights_scale") == pytest.approx(1.414)
    assert value(header, "deepseek2.rope.scaling.yarn_log_multiplier") == pytest.approx(0.1)
    assert value(header, "deepseek2.attention.layer_norm_rms_epsilon") == pytest.approx(1e-5)


def test_the_context_is_the_yarn_factor_times_the_original_one():
    assert SHAPE.n_ctx_train == SHAPE.rope_scaling_factor * SHAPE.n_ctx_orig_yarn


def test_the_header_holds_the_vocabulary(header):
    vocab = vocabulary()
    assert value(header, "tokenizer.ggml.tokens") == list(vocab.tokens)
    assert value(header, "tokenizer.ggml.merges") == [f"{left} {right}" for left, right in vocab.merges]
    types = value(header, "tokenizer.ggml.token_type")
    assert set(types[: vocab.first_special]) == {int(gguf.TokenType.NORMAL)}
    assert set(types[vocab.first_special :]) == {int(gguf.TokenType.CONTROL)}, (
        "as llama.cpp's converter types them"
    )
    for role, token in (
        ("bos", "[BOS]"),
        ("eos", "[EOS]"),
        ("eot", "<|im_end|>"),
        ("unknown", "[UNK]"),
        ("padding", "[PAD]"),
    ):
        assert value(header, f"tokenizer.ggml.{role}_token_id") == vocab.id(token)


def test_the_tensors_are_the_shapes(header):
    wanted = {spec.name: list(reversed(spec.shape)) for spec in SHAPE.tensors()}
    assert {tensor.name: tensor.shape.tolist() for tensor in header.tensors} == wanted
    kept = {tensor.name for tensor in header.tensors if tensor.tensor_type == gguf.GGMLQuantizationType.F32}
    assert kept == {spec.name for spec in SHAPE.tensors() if spec.kept_f32}


def test_the_same_call_gives_the_same_bytes(tmp_path):
    first, second = (make_nano(tmp_path / name, weights="random") for name in "ab")
    assert sha256_file(first) == sha256_file(second)
    assert sha256_file(make_nano(tmp_path / "c", weights="random", seed=1)) != sha256_file(first)
    assert sorted(path.name for path in first.parent.iterdir()) == ["nano.gguf"], (
        "nothing else is left behind"
    )


@pytest.mark.parametrize("encoding", ["F32", "F16", "Q8_0"])
def test_written_weights_read_back(tensors, tmp_path, encoding):
    path = tmp_path / "nano.gguf"
    write_gguf(path, tensors, encoding=encoding, about={"description": "trained"})
    reader = gguf.GGUFReader(path)
    assert value(reader, "general.description") == "trained"
    for tensor in reader.tensors[:30]:
        read = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(tensors[tensor.name].shape)
        worst = np.abs(read - tensors[tensor.name]).max()
        assert worst <= {"F32": 0, "F16": 3e-3, "Q8_0": 0.03}[encoding], tensor.name
    reader.data._mmap.close()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda given: given.pop("output.weight"), "output.weight is missing"),
        (lambda given: given.update(extra=np.zeros(3, np.float32)), "extra is not part of the shape"),
        (
            lambda given: given.update({"output_norm.weight": np.ones(7, np.float32)}),
            r"is \(7,\), not \(256,\)",
        ),
        (lambda given: given.update({"output_norm.weight": np.full(256, np.nan, np.float32)}), "not finite"),
    ],
)
def test_wrong_tensors_are_refused_and_nothing_is_written(tensors, tmp_path, spoil, said):
    given = dict(tensors)
    spoil(given)
    with pytest.raises(ModelFileError, match=said) as caught:
        write_gguf(tmp_path / "nano.gguf", given)
    assert caught.value.id == "KNB381"
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_encoding_is_refused(tensors, tmp_path):
    with pytest.raises(UsageError, match="F32, F16, Q8_0"):
        write_gguf(tmp_path / "nano.gguf", tensors, encoding="Q4_K")


def test_a_folder_that_cannot_be_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="cannot write nano") as caught:
        make_nano(tmp_path / "file" / "below")
    assert caught.value.id == "KNB380"
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_clear_line(tensors, tmp_path):
    """A limit on the size of files does what a full disk does: writing fails in the middle."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from kimi_nb.errors import ModelFileError\n"
        "from kimi_nb.nano import make_nano\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try: make_nano(Path(sys.argv[1]))\n"
        "except ModelFileError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "out"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("KNB380: cannot write"), done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_the_shipped_file_is_what_is_made(tmp_path):
    assert make_nano(tmp_path).read_bytes() == nano_path().read_bytes()
    assert nano_facts()["parameters"] == SHAPE.n_params


def test_the_shipped_file_holds_this_packages_template_and_vocabulary():
    reader = gguf.GGUFReader(nano_path())
    assert value(reader, "tokenizer.chat_template") == chat_template()
    assert value(reader, "tokenizer.ggml.tokens") == list(vocabulary().tokens)
    assert "trained" in value(reader, "general.description")
    reader.data._mmap.close()


def test_the_shipped_weights_can_be_written_in_another_encoding(tmp_path):
    path = make_nano(tmp_path, encoding="F16")
    wide, shipped = gguf.GGUFReader(path), gguf.GGUFReader(nano_path())
    for one, other in zip(wide.tensors, shipped.tensors, strict=True):
        read = gguf.quants.dequantize(one.data, one.tensor_type)
        assert np.abs(read - gguf.quants.dequantize(other.data, other.tensor_type)).max() < 0.01, one.name
    for reader in (wide, shipped):
        reader.data._mmap.close()


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ("truncated", "has 1,000 bytes"), ("one byte", "checksum"), ("gone", "No such file"),
        ("no facts", "No such file"), ("bad facts", "cannot be read"),
    ],
)  # fmt: skip
def test_a_damaged_installation_is_one_clear_line(tmp_path, monkeypatch, damage, why):
    file, facts = tmp_path / "nano.gguf", tmp_path / "nano.json"
    file.write_bytes(nano_path().read_bytes())
    facts.write_text(nano_path().with_suffix(".json").read_text())
    monkeypatch.setattr(make, "_DATA", tmp_path)
    assert nano_path() == file
    make._checked.cache_clear()
    if damage == "truncated":
        os.truncate(file, 1000)
    elif damage == "one byte":
        with file.open("r+b") as opened:
            opened.seek(-1000, os.SEEK_END)
            byte = opened.read(1)
            opened.seek(-1000, os.SEEK_END)
            opened.write(bytes([byte[0] ^ 1]))
    elif damage == "gone":
        file.unlink()
    elif damage == "no facts":
        facts.unlink()
    else:
        facts.write_text("[1")
    with pytest.raises(ModelFileError, match=why) as caught:
        nano_path()
    assert caught.value.id == "KNB386"
    assert "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_written_is_one_clear_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("KIMI_NB_CACHE", str(tmp_path / "file"))
    assert cli.main(["nano", "make", "--random-weights"]) != 0
    assert "KNB380" in capsys.readouterr().err


def test_making_it_takes_seconds(tmp_path):
    started = time.monotonic()
    make_nano(tmp_path, weights="random")
    seconds = time.monotonic() - started
    print(f"\nnano made in {seconds:.2f} s")
    assert seconds < 60, "a bound against hangs; five seconds is the aim on a quiet machine"


@pytest.mark.parametrize("shards", [0, -1, 13, 1000])
def test_a_number_of_shards_that_cannot_be_had_names_others(tmp_path, shards):
    with pytest.raises(UsageError, match=f"into {shards} shards") as caught:
        make_nano(tmp_path, shards=shards)
    assert caught.value.id == "KNB385"
    assert list(tmp_path.iterdir()) == []


def test_the_command_shows_the_shipped_one(capsys):
    assert cli.main(["nano", "make", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["parameters"] == SHAPE.n_params
    assert said["weights"] == "trained"
    [file] = said["files"]
    assert said["path"] == file["path"] == str(nano_path())
    made = Path(file["path"])
    assert file["sha256"] == hashlib.sha256(made.read_bytes()).hexdigest()
    assert file["size_bytes"] == made.stat().st_size
    assert cli.main(["nano", "make"]) == 0
    assert file["sha256"] in capsys.readouterr().out


def test_the_command_writes_where_it_is_told(tmp_path, capsys):
    assert cli.main(["nano", "make", "--out", str(tmp_path / "here"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(tmp_path / "here" / "nano.gguf")


def test_the_command_makes_random_weights_in_the_cache(cache, capsys):
    assert cli.main(["nano", "make", "--random-weights", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["weights"] == "random"
    assert Path(said["path"]).is_relative_to(cache)
    assert said["files"][0]["sha256"] != sha256_file(nano_path())


def test_wrong_use_of_the_command_is_exit_code_2(tmp_path, capsys):
    assert cli.main(["nano", "make", "--out", str(tmp_path), "--shards", "13", "--json"]) == 2
    said = capsys.readouterr()
    assert json.loads(said.out)["error"]["id"] == "KNB385"
    assert said.err.count("\n") == 1
    for words in (["nano", "mak"], ["nano", "make", "--shards", "0"], ["nano", "make", "--shards", "five"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(words)
        assert caught.value.code == 2


def test_every_trouble_of_nano_is_explained():
    known = troubles()
    for number in (380, 381, 382, 384, 385, 386):
        assert known[f"KNB{number}"].explanation


def test_importing_nano_loads_nothing_heavy():
    code = (
        "import sys, kimi_nb.nano, kimi_nb.nano.make, kimi_nb.nano.vocab, kimi_nb.model.prompt, kimi_nb.commands.nano\n"
        "print([name for name in ('numpy', 'gguf', 'jinja2', 'filelock', 'llama_cpp') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
