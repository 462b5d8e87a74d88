"""The memory formulas beside the real llama-fit-params, on headers of random shapes: this machine's processor."""

import random
import subprocess

import pytest
from header_models import ModelShape, fit_params_argv, printed, random_settings, random_shape

from kimi_nb.model import read_header
from kimi_nb.plan import Settings
from kimi_nb.plan.memory import demands

pytestmark = pytest.mark.engine


def ask(build, path, settings: dict) -> dict[str, list[int]]:
    argv = [build.program("llama-fit-params"), "-m", path, *fit_params_argv(settings)]
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=60, check=False)
    found = printed(done.stdout)
    assert "Host" in found, done.stderr[-2000:]
    return found


def host_of(path, settings: dict) -> list[int]:
    host = demands(read_header(path), Settings(**settings))[-1]
    return [host.model_mib, host.context_mib, host.compute_mib]


@pytest.mark.parametrize("tens", range(20))
def test_random_shapes(build, tmp_path, tens):
    for seed in range(tens * 10, tens * 10 + 10):
        chance = random.Random(seed)
        shape, settings = random_shape(chance), random_settings(chance)
        path = shape.write(tmp_path / "model.gguf")
        assert host_of(path, settings) == ask(build, path, settings)["Host"], (seed, settings, shape)


@pytest.mark.parametrize(
    "shape",
    [
        ModelShape(
            n_layer=4,
            nextn=0,
            n_dense=3,
            n_head=128,
            n_expert=256,
            n_group=8,
            n_group_used=4,
            n_vocab=129280,
            scale=2.5,
        ),
        ModelShape(n_layer=5, tied=True),
        ModelShape(n_layer=4, nextn=1),
        ModelShape(n_layer=5, merged_gate_up=True),
    ],
)
def test_relatives(build, tmp_path, shape):
    path = shape.write(tmp_path / "model.gguf")
    for settings in (
        {"ctx_size": 4096},
        {"ctx_size": 65536, "parallel": 4, "ubatch_size": 2048, "batch_size": 2048},
    ):
        assert host_of(path, settings) == ask(build, path, settings)["Host"]


def test_nano(build, nano):
    settings = {"ctx_size": 8192, "parallel": 2}
    assert host_of(nano, settings) == ask(build, nano, settings)["Host"]
