"""Slices: headers that read back, weights of every type that the real llama.cpp loads and runs."""

import random
from dataclasses import replace

import pytest
from header_models import ModelShape, random_shape

from kimi_nb.engine import Build
from kimi_nb.errors import RehearsalError, UsageError
from kimi_nb.model import read_header
from kimi_nb.model.ggml_types import TYPES_BY_NAME
from kimi_nb.plan import Settings
from kimi_nb.rehearse.bench import BenchTests, bench_argv, run_bench
from kimi_nb.rehearse.blocks import random_blocks
from kimi_nb.rehearse.slices import Slice, moe_bytes, moe_layers, slice_bytes, write_slice

TYPES = (
    *(
        "TQ1_0",
        "TQ2_0",
        "IQ1_S",
        "IQ1_M",
        "IQ2_XXS",
        "IQ2_XS",
        "IQ2_S",
        "IQ3_XXS",
        "IQ3_S",
        "IQ4_NL",
        "IQ4_XS",
    ),
    *(
        "Q2_K",
        "Q3_K",
        "Q4_K",
        "Q5_K",
        "Q6_K",
        "Q4_0",
        "Q4_1",
        "Q5_0",
        "Q5_1",
        "Q8_0",
        "MXFP4",
        "F16",
        "BF16",
        "F32",
    ),
)
ROLES = ("token_embd", "output", "attn_q_a", "attn_q_b", "attn_kv_a_mqa", "attn_output", "ffn_gate", "ffn_up")
ROLES += (
    "ffn_down",
    "ffn_gate_exps",
    "ffn_up_exps",
    "ffn_down_exps",
    "ffn_gate_shexp",
    "ffn_up_shexp",
    "ffn_down_shexp",
)


def small(kind: str, **more) -> ModelShape:
    types = dict.fromkeys(ROLES, kind) | {"attn_k_b": "Q8_0", "attn_v_b": "Q8_0"}
    return ModelShape(
        n_layer=6, n_embd=512, n_ff=512, n_ff_exp=256, n_head=8, q_lora=256, kv_lora=256, n_expert=16, n_used=4,
        n_vocab=1000, types=types, **more,
    )  # fmt: skip


def bench(build, path, *, prompts=(8,), writes=(2,), threads=(1,), settings=None, repetitions=2):
    tests = BenchTests(threads=threads, prompts=prompts, writes=writes, repetitions=repetitions)
    return list(run_bench(build, path, settings or Settings(), tests))


@pytest.mark.engine
@pytest.mark.parametrize("kind", TYPES)
def test_llama_cpp_runs_every_type(build, tmp_path, kind):
    model = small(kind).read(tmp_path / "m.gguf")
    path = write_slice(model, Slice(n_dense=1, n_moe=2, n_expert=8, n_vocab=500), tmp_path / "s.gguf")
    rows = bench(build, path)
    assert [(row.prompt_tokens, row.written_tokens, row.threads) for row in rows] == [(8, 0, 1), (0, 2, 1)]
    assert all(len(row.samples_ms) == 2 and min(row.samples_ms) > 0 for row in rows)


@pytest.mark.parametrize("kind", TYPES)
def test_blocks_are_valid_and_of_the_size_asked_for(kind):
    import gguf
    import numpy as np

    block = TYPES_BY_NAME[kind]
    data = random_blocks(kind, 4096, deviation=0.02)
    assert data.nbytes == 4096 * block.type_size
    values = gguf.quants.dequantize(data.reshape(-1, block.type_size), gguf.GGMLQuantizationType[kind])
    assert np.isfinite(values).all()
    assert abs(values.mean()) < 0.01
    assert 0.01 < values.std() < 0.06
    assert (random_blocks(kind, 4096, deviation=0.02) == data).all()


@pytest.mark.engine
def test_routing_is_random(build, tmp_path):
    """With other experts for every token, more of them are touched: reading costs more than with one set of them."""
    from kimi_nb.rehearse.slices import _pieces, slice_tensors

    model = small("Q8_0").read(tmp_path / "m.gguf")
    specs = slice_tensors(model, Slice(n_dense=1, n_moe=1, n_expert=16, n_vocab=1000))
    import numpy as np

    router = next(spec for spec in specs if "ffn_gate_inp" in spec.name)
    rows = np.frombuffer(b"".join(_pieces(router, 3)), dtype=np.float32)[: 512 * 16].reshape(16, 512)
    chance = np.random.default_rng(0)
    scores = chance.standard_normal((200, 512)).astype(np.float32) @ rows.T
    chosen = np.argsort(-scores, axis=1)[:, :4]
    counts = np.bincount(chosen.ravel(), minlength=16)
    assert counts.min() > 20  # of 50 on average
    assert counts.max() < 90


def test_a_slice_reads_back_as_what_was_asked_for(tmp_path):
    for seed in range(4):
        shape = random_shape(random.Random(seed))
        shape = replace(shape, n_layer=5, n_dense=1 + seed % 2, n_embd=512, n_ff=768, merged_gate_up=False)
        model = shape.read(tmp_path / "m.gguf")
        part = Slice(n_dense=2, n_moe=2, n_expert=shape.n_expert // 2, n_vocab=600)
        path = write_slice(model, part, tmp_path / f"s{seed}.gguf", holes=True)
        found = read_header(path)
        assert (found.block_count, found.leading_dense_block_count) == (4, 2)
        assert (found.expert_count, found.vocab_size) == (shape.n_expert // 2, 600)
        assert found.expert_used_count == model.expert_used_count
        assert found.data_bytes <= slice_bytes(model, part)
        for name in ("blk.0.ffn_down.weight", "blk.3.ffn_down_exps.weight", "blk.2.attn_output.weight"):
            source = name if name.startswith("blk.0") else f"blk.{shape.n_dense}.{name.split('.', 2)[2]}"
            assert found.by_name[name].type == model.by_name[source].type
            assert found.by_name[name].shape[:2] == model.by_name[source].shape[:2]
        path.unlink()


def test_layers_are_taken_evenly_from_light_to_heavy(tmp_path):
    """A quant with some heavier layers: the slice reads about as much a layer as the model does."""
    shape = small("Q4_K")
    model = shape.read(tmp_path / "m.gguf")
    assert moe_layers(model) == [1, 2, 3, 4, 5]
    few = moe_bytes(model, Slice(n_dense=1, n_moe=2, n_expert=8, n_vocab=500))
    more = moe_bytes(model, Slice(n_dense=1, n_moe=5, n_expert=16, n_vocab=500))
    assert few == pytest.approx(more, rel=0.03)  # the same experts are used; the router is a little smaller


@pytest.mark.engine
def test_holes_take_no_disk_and_run(build, tmp_path):
    model = small("Q4_K").read(tmp_path / "m.gguf")
    part = Slice(n_dense=1, n_moe=5, n_expert=16, n_vocab=256)
    whole = write_slice(model, part, tmp_path / "whole.gguf")
    holes = write_slice(model, part, tmp_path / "holes.gguf", holes=True)
    assert holes.stat().st_size == whole.stat().st_size
    assert holes.stat().st_blocks * 512 < 0.6 * whole.stat().st_blocks * 512
    assert bench(build, holes, settings=Settings(load_mode="none"))


def test_what_cannot_be_cut_is_said(tmp_path):
    model = ModelShape(n_layer=3, n_dense=0, n_embd=256, n_ff_exp=256, n_expert=8, n_vocab=256).read(
        tmp_path / "m.gguf"
    )
    with pytest.raises(UsageError, match="KNB843"):
        write_slice(model, Slice(n_dense=1, n_moe=1, n_expert=8, n_vocab=256), tmp_path / "s.gguf")


def test_settings_become_llama_bench_arguments():
    settings = Settings(
        n_gpu_layers=40, n_cpu_moe=12, override_tensor=("a=CPU", "b=CUDA0"), cache_type_k="q8_0", cache_type_v="q8_0",
        flash_attn="on", batch_size=4096, ubatch_size=2048, tensor_split=(3.0, 1.0), device="CUDA0,CUDA1",
        kv_offload=False, op_offload=False, load_mode="none", repack=False, threads=8, ctx_size=9999, jinja=True,
    )  # fmt: skip
    assert " ".join(bench_argv(settings)) == (
        "-ngl 40 -ncmoe 12 -ot a=CPU;b=CUDA0 -ctk q8_0 -ctv q8_0 -fa on -b 4096 -ub 2048 -ts 3/1 -dev CUDA0/CUDA1"
        " -nkvo 1 -nopo 1 -lm none --repack 0"
    )
    assert bench_argv(Settings(cpu_moe=True)) == ["-ngl", "999", "-ncmoe", "999"]


@pytest.mark.engine
def test_every_argument_is_one_that_llama_bench_knows(build, nano):
    settings = Settings(
        n_gpu_layers=0, cpu_moe=True, override_tensor=("blk.1.attn_q_a=CPU",), cache_type_k="f16", cache_type_v="f16",
        flash_attn="auto", batch_size=64, ubatch_size=32, split_mode="layer", tensor_split=(1.0,), main_gpu=0,
        kv_offload=True, op_offload=True, load_mode="mmap", lazy_mode="auto", repack=True, no_host=True, poll=50, prio=0,
    )  # fmt: skip
    assert len(bench(build, nano, settings=settings, threads=(1,))) == 2


@pytest.mark.engine
def test_damage_is_one_clear_error(build, tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(RehearsalError, match=r"KNB844.*failed to load") as error:
        bench(build, tmp_path / "m.gguf")
    assert "\n" not in str(error.value)


def test_a_program_that_babbles_or_cannot_start(tmp_path):
    fake = tmp_path / "llama-bench"
    build = Build(tmp_path, "cpu", "fake", {"files": {}})
    for script, says in (
        ("#!/bin/sh\necho not json", "not json"),
        ("#!/bin/sh\necho '{\"n_threads\": 1}'", "n_threads"),
        ("#!/bin/sh\nexit 3", "code 3"),
        ("#!/no/such/interpreter\n", "No such file"),
    ):
        fake.write_text(script)
        fake.chmod(0o755)
        with pytest.raises(RehearsalError, match="KNB844") as error:
            bench(build, tmp_path / "m.gguf")
        assert says in str(error.value)
