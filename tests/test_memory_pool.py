"""What CUDA's kernels borrow: sizes worked out by hand from ggml-cuda's allocations."""

from dataclasses import replace

import pytest
from header_models import ModelShape, kimi_types
from planning_machines import gpu, machine

from kimi_nb.plan import Settings
from kimi_nb.plan.memory_verdict import memory_report

MIB = 1 << 20
WIDE, INNER, DENSE, USED, HEADS, LATENT = 7168, 2048, 18432, 8, 64, 512
EXPERTS_Q8 = USED * (WIDE * 9 / 8 + 12)
"""Bytes a token: a copy in 8 bits for each expert that it goes to, and its place in the lists."""

BY_HEAD = HEADS * LATENT * 9 / 8
"""Bytes a token, of the largest other multiplication: the latent values of all heads."""

SORTED = USED * (4 * (WIDE + INNER) + 12) + 2 * (WIDE + INNER)
UNPACKED = 2 * WIDE * INNER
"""One expert's matrix in 16 bits."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    kinds = {"Q2_K": "Q2_K", "IQ1_M": "IQ1_M", "F16": "F16"}
    return {
        name: ModelShape(n_layer=6, types=kimi_types("Q8_0", kind, kind, "Q8_0")).read(
            folder / f"{name}.gguf"
        )
        for name, kind in kinds.items()
    }


def pools(model, here=None, **settings):
    settings = {"ctx_size": 8192, "batch_size": 4096, "flash_attn": "on", **settings}
    report = memory_report(model, Settings(**settings), here or machine(gpu(80_000)))
    return [one.extra_mib - 700 for one in report.gpus]


def near(n_bytes):
    return pytest.approx(n_bytes / MIB, abs=2.1)  # rounded up to CUDA's pages


@pytest.mark.parametrize("tokens", [64, 512, 2048, 4096])
def test_packed_weights_take_a_copy_in_8_bits(models, tokens):
    assert pools(models["Q2_K"], ubatch_size=tokens) == [near(tokens * EXPERTS_Q8)]


@pytest.mark.parametrize("tokens", [64, 512, 4096])
def test_types_without_such_kernels_take_sorted_copies(models, tokens):
    assert pools(models["IQ1_M"], ubatch_size=tokens) == [near(tokens * SORTED + UNPACKED)]
    assert pools(models["F16"], ubatch_size=tokens) == [near(tokens * SORTED)]


def test_gpus_before_turing_unpack_everything(models):
    old = replace(gpu(80_000), compute_capability="7.0")
    dense = 2 * (512 * (WIDE + DENSE) + WIDE * DENSE)  # of the first layer
    assert pools(models["Q2_K"], machine(old), ubatch_size=512) == [near(dense)]
    unknown = replace(old, compute_capability=None)
    assert pools(models["Q2_K"], machine(unknown), ubatch_size=512) == [near(512 * EXPERTS_Q8)]


def test_the_first_gpu_computes_for_the_host(models):
    two = machine(gpu(80_000), gpu(80_000))
    for where in ({"cpu_moe": True}, {"override_tensor": ("exps=CPU",)}):
        assert pools(models["IQ1_M"], two, ubatch_size=512, **where) == [
            near(512 * SORTED + UNPACKED),
            near(512 * BY_HEAD),
        ]
        alone = pools(models["IQ1_M"], two, ubatch_size=512, op_offload=False, **where)
        assert alone == [near(512 * BY_HEAD)] * 2
    one = {"override_tensor": ("blk.[0-4].*exps=CPU",), "op_offload": False}  # of six layers
    assert pools(models["IQ1_M"], two, ubatch_size=512, **one) == [
        near(512 * BY_HEAD),
        near(512 * SORTED + UNPACKED),
    ]


def test_single_tokens_and_other_gpus_borrow_nothing(models):
    assert pools(models["IQ1_M"], ubatch_size=8) == [0]
    metal = replace(gpu(80_000), kind="metal", compute_capability=None)
    assert pools(models["IQ1_M"], machine(metal), ubatch_size=512) == [0]


def test_scores_without_flash_attention(models):
    with_, without = (pools(models["Q2_K"], ubatch_size=512, flash_attn=one)[0] for one in ("on", "off"))
    assert without == near(2 * 512 * HEADS * (8192 + 576))
    assert without > 10 * with_
