"""Our reader beside others: PyPI's gguf, llama.cpp's type table, and sets made by the real llama-gguf-split."""

import ctypes
import shutil
import subprocess

import gguf
import numpy as np
import pytest
from gguf_bytes import small_model

from kimi_nb.errors import ModelFileError
from kimi_nb.model import read_header
from kimi_nb.model.ggml_types import FILE_TYPES, REMOVED_TYPES, TYPES, TYPES_BY_NAME


def write_with_gguf(path, seed: int) -> None:
    """A file with every kind of value and many kinds of tensor, written by the gguf package."""
    chance = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "deepseek2")
    writer.add_uint8("t.u8", 200)
    writer.add_int8("t.i8", -100)
    writer.add_uint16("t.u16", 60000)
    writer.add_int16("t.i16", -30000)
    writer.add_uint32("t.u32", 4_000_000_000)
    writer.add_int32("t.i32", -2_000_000_000)
    writer.add_uint64("t.u64", 2**63 + 5)
    writer.add_int64("t.i64", -(2**62))
    writer.add_float32("t.f32", 1.25)
    writer.add_float64("t.f64", 0.1)
    writer.add_bool("t.bool", val=True)
    writer.add_string("t.str", "Größe 你好")
    writer.add_array("t.floats", [float(x) for x in chance.integers(0, 100, 9)])
    writer.add_array("t.flags", [True, False, True])
    writer.add_array("t.ints", [int(x) for x in chance.integers(-100, 100, 50)])
    writer.add_token_list([f"tok{n}é" for n in range(1000)])
    writer.add_token_scores([n / 8 for n in range(1000)])
    for n, name in enumerate(
        chance.permutation(
            ["F32", "F16", "Q4_0", "Q8_0", "Q2_K", "Q6_K", "IQ1_S", "IQ2_XXS", "TQ1_0", "MXFP4", "BF16"]
        )
    ):
        kind = TYPES_BY_NAME[name]
        rows, blocks = int(chance.integers(1, 5)), int(chance.integers(1, 4))
        if name == "F32":
            writer.add_tensor(f"blk.{n}.x.weight", np.zeros((rows, blocks), np.float32))
        elif name == "F16":
            writer.add_tensor(f"blk.{n}.x.weight", np.zeros((2, rows, blocks), np.float16))
        else:
            data = np.zeros((rows, blocks * kind.type_size), np.uint8)
            writer.add_tensor(f"blk.{n}.x.weight", data, raw_dtype=gguf.GGMLQuantizationType[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("seed", range(5))
def test_same_as_the_gguf_package(tmp_path, seed):
    path = tmp_path / "m.gguf"
    write_with_gguf(path, seed)
    theirs, ours = gguf.GGUFReader(path), read_header(path)
    fields = {name: field for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert list(ours.metadata) == list(fields)
    for name, field in fields.items():
        mine = ours.metadata[name]
        assert (list(mine) if ours.types[name].startswith("arr") else mine) == field.contents(), name
    assert len(ours.tensors) == len(theirs.tensors) == 11
    for mine, their in zip(ours.tensors, theirs.tensors, strict=True):
        assert (mine.name, list(mine.shape), mine.type) == (
            their.name,
            their.shape.tolist(),
            their.tensor_type.name,
        )
        assert (mine.n_bytes, mine.offset, mine.n_elements) == (
            their.n_bytes,
            their.data_offset,
            their.n_elements,
        )
    assert ours.shards[0].data_offset == theirs.data_offset


def test_type_table_agrees_with_the_gguf_package():
    for kind, (block_size, type_size) in gguf.GGML_QUANT_SIZES.items():
        if kind.name == "Q8_1":  # never stored in files; the package says 40 bytes and llama.cpp 36
            continue
        assert TYPES[kind.value] == (kind.value, kind.name, block_size, type_size)


@pytest.mark.engine
def test_type_table_agrees_with_llama_cpp(build):
    (path,) = [found for ending in ("so", "dylib") for found in build.bin.glob(f"libggml-base.{ending}")]
    ggml = ctypes.CDLL(str(path))
    ggml.ggml_type_name.restype = ctypes.c_char_p
    ggml.ggml_type_size.restype = ctypes.c_size_t
    ggml.ggml_blck_size.restype = ctypes.c_int64
    ggml.ggml_row_size.restype = ctypes.c_size_t
    ggml.ggml_row_size.argtypes = (ctypes.c_int, ctypes.c_int64)
    for number in range(43):
        if number in REMOVED_TYPES:
            assert ggml.ggml_type_size(number) == 0
            continue
        mine = TYPES[number]
        assert ggml.ggml_type_name(number).decode().upper() == mine.name
        assert (ggml.ggml_blck_size(number), ggml.ggml_type_size(number)) == (mine.block_size, mine.type_size)
        assert ggml.ggml_row_size(number, 768) == mine.row_size(768)
    assert len(TYPES) + len(REMOVED_TYPES) == 43
    assert TYPES_BY_NAME["Q4_K"].bits_per_weight == 4.5
    assert TYPES_BY_NAME["Q4_K"].is_quantized
    assert FILE_TYPES[10] == "Q2_K"


@pytest.mark.engine
def test_a_set_made_by_llama_gguf_split(build, tmp_path):
    whole = tmp_path / "whole.gguf"
    whole.write_bytes(small_model(layers=4))
    folder = tmp_path / "set"
    folder.mkdir()
    split = [
        build.program("llama-gguf-split"),
        "--split",
        "--split-max-tensors",
        "3",
        whole,
        folder / "M-Q2_K",
    ]
    subprocess.run(split, check=True, capture_output=True, timeout=60)
    paths = sorted(folder.iterdir())
    assert [path.name for path in paths] == [f"M-Q2_K-0000{n}-of-00004.gguf" for n in (1, 2, 3, 4)]
    one = read_header(whole)
    for path in paths:
        model = read_header(path)
        assert (model.split_count, len(model.shards), model.quant, model.name) == (4, 4, "Q2_K", "small")
        assert [(t.name, t.shape, t.type, t.n_bytes) for t in model.tensors] == [
            (t.name, t.shape, t.type, t.n_bytes) for t in one.tensors
        ]
        assert [t.shard for t in model.tensors] == [n // 3 for n in range(12)]
        assert model.source == str(paths[0])
        assert set(one.metadata) < set(model.metadata)
    shutil.move(paths[2], tmp_path / "away.gguf")
    with pytest.raises(ModelFileError, match=r"KNB320.*1 of 4 .*M-Q2_K-00003-of-00004\.gguf"):
        read_header(paths[0])
    with pytest.raises(ModelFileError, match="KNB322"):
        read_header(tmp_path / "away.gguf")
