"""The memory formulas beside what llama.cpp printed on machines with one and two NVIDIA H200."""

import json
from pathlib import Path

import pytest
from header_models import ORACLE_MODELS

from kimi_nb.plan import Settings
from kimi_nb.plan.memory import GpuRoom, demands

TRUTH = json.loads(Path(__file__).with_name("data").joinpath("memory_truth.json").read_text(encoding="utf-8"))
ROWS = [
    (gpus, number) for gpus, name in ((1, "one_h200"), (2, "two_h200")) for number in range(len(TRUTH[name]))
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("oracle")
    return {name: shape.read(folder / f"{name}.gguf") for name, shape in ORACLE_MODELS.items()}


def settings_of(row: dict) -> Settings:
    return Settings(
        ctx_size=row["ctx"],
        batch_size=row["batch"],
        ubatch_size=min(row["ubatch"], row["batch"]),
        n_gpu_layers=row["ngl"],
        n_cpu_moe=row["n_cpu_moe"] or None,
        override_tensor=(row["override_tensor"],) if row["override_tensor"] else None,
        cache_type_k=row["kv_type"],
        cache_type_v=row["kv_type"],
        flash_attn=row["flash_attn"],
        parallel=row["parallel"],
        kv_offload=False if row["no_kv_offload"] else None,
        op_offload=False if row["no_op_offload"] else None,
        split_mode=row.get("split_mode"),
        tensor_split=tuple(float(x) for x in row["tensor_split"].split(","))
        if row.get("tensor_split")
        else None,
    )


def test_the_models_are_those_of_the_oracle(models):
    assert len(ROWS) == 220
    for name, model in models.items():
        # The headers differ a little in length; the data is the same to the byte.
        last = model.tensors[-1]
        assert abs(last.offset + last.n_bytes - TRUTH["models"][name]["file_bytes"]) < 4096


@pytest.mark.parametrize(("gpus", "number"), ROWS)
def test_every_row(models, gpus, number):
    row = TRUTH["one_h200" if gpus == 1 else "two_h200"][number]
    there = [GpuRoom(f"CUDA{n}", 143_771, 143_156) for n in range(gpus)]
    got = {
        d.name: (d.model_mib, d.context_mib, d.compute_mib)
        for d in demands(models[row["quant"]], settings_of(row), there)
    }
    assert {name: got[name] for name in row["truth"]} == {
        name: tuple(values) for name, values in row["truth"].items()
    }
