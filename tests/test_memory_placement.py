"""Where weights, layers and caches go, and settings that make no sense."""

import math
import random
from dataclasses import replace

import pytest
from gguf_bytes import gguf, key, small_model
from header_models import ORACLE_MODELS, ModelShape, kimi_types, random_settings, random_shape

from kimi_nb.errors import ModelFileError, UsageError, troubles
from kimi_nb.model import read_header
from kimi_nb.model.ggml_types import TYPES_BY_NAME
from kimi_nb.plan import Settings, memory_compute, memory_pattern
from kimi_nb.plan.memory import MIB, GpuRoom, demands
from kimi_nb.plan.memory_placement import place
from kimi_nb.plan.memory_weights import weights_of

ONE = [GpuRoom("CUDA0", 24_000, 23_000)]
TWO = [GpuRoom("CUDA0", 24_000, 20_000), GpuRoom("CUDA1", 48_000, 40_000)]
EIGHT = [GpuRoom(f"CUDA{number}", 80_000, 79_000) for number in range(8)]
SHAPE = ModelShape(n_layer=8, types=kimi_types("Q5_K", "Q3_K", "Q2_K", "Q5_K"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return SHAPE.read(tmp_path_factory.mktemp("memory") / "m.gguf")


def placed(model, gpus=ONE, **settings):
    return place(weights_of(model), Settings(**settings), [(gpu.name, gpu.free_mib) for gpu in gpus])


def by_name(model, gpus=ONE, **settings):
    return {demand.name: demand for demand in demands(model, Settings(ctx_size=4096, **settings), gpus)}


def test_layers_go_to_the_gpu_from_the_end(model):
    assert placed(model).layers == (0,) * 8
    assert placed(model, n_gpu_layers=0).layers == (1,) * 8
    assert placed(model, n_gpu_layers=0).output == 1
    assert placed(model, n_gpu_layers=1).layers == (1,) * 8
    assert placed(model, n_gpu_layers=1).output == 0
    assert placed(model, n_gpu_layers=3).layers == (1,) * 6 + (0, 0)
    assert placed(model, n_gpu_layers="all").layers == (0,) * 8
    assert placed(model, []).layers == (0,) * 8  # device 0 is the host where there is no GPU


def test_two_gpus_share_by_free_memory_or_as_told(model):
    assert placed(model, TWO).layers == (0, 0, 0, 1, 1, 1, 1, 1)
    assert placed(model, TWO, tensor_split=(1, 1)).layers == (0,) * 5 + (1,) * 3
    assert placed(model, TWO, tensor_split=(0, 1)).layers == (1,) * 8
    assert placed(model, TWO, split_mode="none").layers == (0,) * 8
    alone = placed(model, TWO, split_mode="none", main_gpu=1)
    assert (alone.n_gpus, alone.layers) == (1, (0,) * 8)
    assert placed(model, TWO, device="CUDA1").n_gpus == 1
    assert placed(model, TWO, device="none").n_gpus == 0


def test_the_device_that_is_used_is_the_one_that_is_named(model):
    assert list(by_name(model, TWO, split_mode="none", main_gpu=1)) == ["CUDA1", "Host"]
    assert list(by_name(model, TWO, device="CUDA1")) == ["CUDA1", "Host"]
    assert list(by_name(model, TWO, device="CUDA1,CUDA0")) == ["CUDA1", "CUDA0", "Host"]


def test_weights_are_neither_lost_nor_counted_twice(model):
    whole = sum(demand.model for demand in demands(model, Settings(ctx_size=4096), []))
    for settings in (
        {},
        {"n_cpu_moe": 3},
        {"cpu_moe": True},
        {"n_gpu_layers": 4, "n_cpu_moe": 6},
        {"override_tensor": ("exps=CPU",)},
        {"override_tensor": (r"blk\.(2|3)\.attn=CPU", "output=CPU", "token_embd=CUDA0")},
        {"n_cpu_moe": 2, "override_tensor": (r"blk\.[01]\..*_exps=CUDA0", "ffn_down_exps=CPU")},
    ):
        for gpus in (ONE, TWO):
            total = sum(demand.model for demand in by_name(model, gpus, **settings).values())
            assert abs(total - whole) < MIB  # alignment differs by device


def test_experts_and_patterns_give_the_same(model):
    counted = by_name(model, n_cpu_moe=5)
    written = by_name(model, override_tensor=(r"blk\.[0-4]\.ffn_(up|down|gate)_exps=CPU",))
    assert counted == written
    assert by_name(model, cpu_moe=True) == by_name(model, n_cpu_moe=8)


def test_first_match_wins_and_n_cpu_moe_comes_first(model):
    first = by_name(model, override_tensor=("ffn_down_exps=CPU", "exps=CUDA0"))
    assert first == by_name(model, override_tensor=("ffn_down_exps=CPU",))
    assert by_name(model, n_cpu_moe=4, override_tensor=("exps=CUDA0",)) == by_name(
        model, n_cpu_moe=4, override_tensor=("nothing=CPU",)
    )


def test_the_cache_follows_its_layer(model):
    per_layer = 576 * 2 * 4096
    assert by_name(model)["CUDA0"].context == 8 * per_layer
    split = by_name(model, n_gpu_layers=3)
    assert (split["CUDA0"].context, split["Host"].context) == (2 * per_layer, 6 * per_layer)
    kept = by_name(model, kv_offload=False)
    assert (kept["CUDA0"].context, kept["Host"].context) == (0, 8 * per_layer)
    assert (
        by_name(model, cache_type_k="q8_0", cache_type_v="q8_0")["CUDA0"].context_mib
        == 8 * 576 * 34 // 32 * 4096 // MIB
    )
    assert (
        by_name(model, parallel=3)["CUDA0"].context == 8 * 576 * 2 * 3 * 1536
    )  # 4096 / 3, rounded up to 256
    assert by_name(model, parallel=3, kv_unified=True)["CUDA0"].context == 8 * per_layer


def test_a_server_wants_fewer_outputs(model):
    every = demands(model, Settings(ctx_size=4096), ONE)[0].compute
    one = demands(model, Settings(ctx_size=4096), ONE, outputs=1)[0].compute
    assert one < every
    assert demands(model, Settings(ctx_size=4096), ONE, outputs=512)[0].compute == every


def test_nothing_set_means_the_whole_context(model):
    assert demands(model, Settings(), ONE)[0].context == 8 * 576 * 2 * 262_144


def with_other_types(model, chance):
    """The model with other types in some layers, as publishers mix them."""
    kinds = [TYPES_BY_NAME[name] for name in chance.sample(("Q8_0", "Q2_K", "IQ1_S", "IQ4_XS", "BF16"), 2)]
    tensors = list(model.tensors)
    for number, one in enumerate(tensors):
        kind = chance.choice((None, *kinds))
        if one.name.startswith("blk.") and "exps" in one.name and kind is not None:
            n_bytes = kind.row_size(one.shape[0]) * math.prod(one.shape[1:])
            tensors[number] = replace(one, type=kind.name, n_bytes=n_bytes)
    return replace(model, tensors=tuple(tensors))


@pytest.mark.parametrize("seed", range(60))
def test_few_layers_stand_for_many(tmp_path, monkeypatch, seed):
    """Tracing a few layers of a run, and a few GPUs, gives what tracing every one gives, to the byte."""
    chance = random.Random(seed)
    shape = random_shape(chance) if seed % 2 else ORACLE_MODELS[chance.choice(["TQ1", "Q2K", "Q4K"])]
    model = shape.read(tmp_path / "m.gguf")
    if seed % 3 == 0:
        model = with_other_types(model, chance)
    gpus = chance.choice([[], ONE, ONE, TWO, [*TWO, GpuRoom("CUDA2", 80_000, 79_000)], EIGHT])
    settings = Settings(**random_settings(chance, gpus=len(gpus), n_layer=shape.n_layer))
    few = demands(model, settings, gpus)
    memory_compute._programs.clear()
    memory_pattern._patterns.clear()
    monkeypatch.setattr(memory_pattern, "_MANY", 10_000)
    for module in (memory_compute, memory_pattern):
        monkeypatch.setattr(module, "TRACED", 10_000)
    every = demands(model, settings, gpus)
    memory_compute._programs.clear()
    memory_pattern._patterns.clear()
    assert few == every


def test_the_answer_does_not_depend_on_what_was_asked_before(model):
    first = demands(model, Settings(ctx_size=4096, n_cpu_moe=3), ONE)
    demands(model, Settings(ctx_size=8192, n_cpu_moe=5, ubatch_size=16), ONE)
    assert demands(model, Settings(ctx_size=4096, n_cpu_moe=3), ONE) == first
    memory_compute._programs.clear()
    assert demands(model, Settings(ctx_size=4096, n_cpu_moe=3), ONE) == first


def test_types_that_cuda_lacks_stay_in_host_memory(tmp_path):
    types = kimi_types("Q5_K", "TQ1_0", "TQ2_0", "Q5_K")
    model = ModelShape(n_layer=3, types=types).read(tmp_path / "m.gguf")
    demand = by_name(model)
    assert demand["Host"].model > sum(t.n_bytes for t in model.tensors if t.type.startswith("TQ"))
    assert sum(one.model for one in demand.values()) - model.data_bytes < MIB


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"override_tensor": ("exps=GPU7",)}, "there are: CPU, CUDA0"),
        ({"override_tensor": ("(=CPU",)}, "no regular expression"),
        ({"device": "CUDA3"}, "there are: CUDA0"),
        ({"split_mode": "none", "main_gpu": 4}, "there are 1 GPUs"),
        ({"split_mode": "row"}, "no formula covers it"),
    ],
)
def test_settings_that_make_no_sense(model, settings, words):
    with pytest.raises(UsageError) as caught:
        demands(model, Settings(**settings), ONE)
    assert words in str(caught.value)
    assert caught.value.id in {"KNB370", "KNB372"}
    assert {"KNB370", "KNB371", "KNB372"} <= set(troubles())


@pytest.mark.parametrize("part", range(4))
def test_damaged_headers_end_in_one_clear_error(tmp_path, part):
    path = tmp_path / "m.gguf"
    ModelShape(
        n_layer=2,
        n_embd=256,
        n_ff=256,
        n_ff_exp=256,
        n_head=4,
        q_lora=256,
        kv_lora=256,
        n_expert=8,
        n_used=2,
        n_vocab=300,
    ).write(path, hole=False)
    whole, chance = path.read_bytes(), random.Random(part)
    outcome = {"KNB371": 0, "KNB331": 0, "worked out": 0}
    for _ in range(250):
        data = bytearray(whole)
        at = chance.randrange(len(data))
        data[at] = chance.choice((0, 1, 2, 3, 7, 64, 255, data[at] ^ (1 << chance.randrange(8))))
        path.write_bytes(data)
        try:
            model = read_header(path, check_data=False)
        except ModelFileError:
            continue
        try:
            demands(model, Settings(ctx_size=512), ONE)
            outcome["worked out"] += 1
        except ModelFileError as error:
            outcome[error.id] += 1
    assert outcome["KNB371"] > 10
    assert outcome["worked out"] > 10


def rename(path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))


def test_models_that_are_not_covered(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf([key("general.architecture", "str", "kimi-k3")]))
    with pytest.raises(ModelFileError, match=r"KNB371.*kimi-k3"):
        demands(read_header(path), Settings())
    path.write_bytes(small_model())
    with pytest.raises(ModelFileError, match=r"KNB371.*contradict"):
        demands(read_header(path), Settings())
    SHAPE.write(path, hole=False)
    rename(path, b"blk.3.attn_norm.weight", b"blk.3.attn_nrom.weight")
    with pytest.raises(ModelFileError, match=r"KNB371.*has no tensor blk\.3\.attn_norm"):
        demands(read_header(path, check_data=False), Settings())
    rename(path, b"attention.head_count\x04\0\0\0\x40", b"attention.head_count\x04\0\0\0\x41")
    with pytest.raises(ModelFileError, match=r"KNB371.*blk\.0\..* has the shape"):
        demands(read_header(path, check_data=False), Settings())
    SHAPE.write(path, hole=False)
    rename(path, b"attention.key_length_mla", b"attention.key_length_old")
    with pytest.raises(ModelFileError, match=r"KNB371.*latent attention"):
        demands(read_header(path, check_data=False), Settings())
