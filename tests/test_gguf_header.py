"""The header reader: what it reads, and that each kind of damage has its own clear line."""

import errno
import os
import random
import struct
from pathlib import Path

import pytest
from gguf_bytes import gguf, key, small_model, string, tensor
from hypothesis import given
from hypothesis import strategies as st

from kimi_nb.errors import ModelFileError, UsageError, troubles
from kimi_nb.model import Model, TensorInfo, read_header
from kimi_nb.model.gguf_faults import _KINDS, bytes_text
from kimi_nb.model.gguf_scan import HeaderScan
from kimi_nb.model.gguf_values import NumberArray, StringArray

ARCH = key("general.architecture", "str", "deepseek2")


def refused(tmp_path, data: bytes, *, name: str = "model.gguf") -> ModelFileError:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ModelFileError) as caught:
        read_header(path)
    text = str(caught.value)
    assert "\n" not in text
    assert name in text
    assert caught.value.fix
    return caught.value


def test_reads_a_model(tmp_path):
    path = tmp_path / "Small-UD-Q2_K_XL.gguf"
    path.write_bytes(small_model(layers=3))
    model = read_header(path)
    assert isinstance(model, Model)
    assert (model.architecture, model.name, model.quant) == ("deepseek2", "small", "UD-Q2_K_XL")
    assert (model.block_count, model.context_length, model.embedding_length) == (3, 4096, 64)
    assert (model.head_count, model.head_count_kv, model.per_layer("attention.head_count_kv")) == (
        4,
        1,
        (1, 1, 1),
    )
    assert (model.key_length, model.key_length_mla, model.value_length_mla, model.kv_lora_rank) == (
        48,
        24,
        16,
        32,
    )
    assert model.is_mla
    assert model.vocab_size == 40
    assert model.expert_count == 8
    assert model.leading_dense_block_count == 0
    assert model.chat_template.startswith("{% for")
    assert model.file_bytes == path.stat().st_size
    assert model.source == str(path)
    assert len(model.tensors) == 9
    first = model.tensors[0]
    assert first == TensorInfo("blk.0.attn_norm.weight", (64,), "F32", 256, 0, model.shards[0].data_offset)
    assert model.tensors[1].offset == first.offset + 256
    assert model.by_name["blk.2.ffn_down_exps.weight"].layer == 2
    assert model.by_name["blk.2.ffn_down_exps.weight"].n_elements == 64
    assert model.data_bytes == sum(t.n_bytes for t in model.tensors)
    assert model.parameters == 3 * (64 + 64 + 64)
    assert model.shards[0].header == path.read_bytes()[: first.offset]
    assert len(model.header_sha256) == 64


def test_arrays_stay_packed_and_read_right(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(
        gguf(
            [
                ARCH,
                key("s", "arr[str]", ["a", "é", b"\xff", ""]),
                key("n", "arr[i16]", [-1, 2]),
                key("b", "arr[bool]", [True, False]),
            ]
        )
    )
    values = read_header(path).metadata
    strings, numbers = values["s"], values["n"]
    assert isinstance(strings, StringArray)
    assert isinstance(numbers, NumberArray)
    assert list(strings) == ["a", "é", "\ufffd", ""] == strings[:]
    assert strings[1] == "é"
    assert strings[-1] == ""
    assert strings.raw(2) == b"\xff"
    assert "4 strings" in repr(strings)
    assert len(numbers) == 2
    assert tuple(numbers) == (-1, 2) == numbers[:]
    assert numbers[1] == 2
    assert list(values["b"]) == [True, False]
    assert "2 numbers" in repr(numbers)
    with pytest.raises(IndexError):
        strings[4]


def test_scalars_of_every_type(tmp_path):
    wanted = {
        "u8": 255,
        "i8": -1,
        "u16": 65535,
        "i16": -2,
        "u32": 2**32 - 1,
        "i32": -3,
        "f32": 0.5,
        "bool": True,
        "str": "x",
        "u64": 2**64 - 1,
        "i64": -(2**63),
        "f64": 0.1,
    }
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf([ARCH, *(key(f"k.{kind}", kind, value) for kind, value in wanted.items())]))
    model = read_header(path)
    assert {kind: model.metadata[f"k.{kind}"] for kind in wanted} == wanted
    assert {kind: model.types[f"k.{kind}"] for kind in wanted} == {kind: kind for kind in wanted}


@pytest.mark.parametrize("version", [2, 3])
def test_both_current_versions_are_read(tmp_path, version):
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf([ARCH], version=version))
    assert read_header(path).architecture == "deepseek2"


def test_custom_alignment_zero_dimensions_and_empty_model(tmp_path):
    path = tmp_path / "m.gguf"
    keys = [ARCH, key("general.alignment", "u32", 64)]
    path.write_bytes(
        gguf(
            keys,
            [tensor("a", (3,), 0, 0), tensor("b", (0, 4), 0, 64), tensor("c", (), 0, 64)],
            data=68,
            alignment=64,
        )
    )
    model = read_header(path)
    assert model.alignment == 64
    assert [t.n_bytes for t in model.tensors] == [12, 0, 4]
    path.write_bytes(gguf([ARCH]))
    assert read_header(path).tensors == ()


def test_header_arrives_in_any_pieces():
    data = small_model(tokens=500)
    whole = HeaderScan("m", len(data))
    assert whole.feed(data)
    chance = random.Random(4)
    for most in (1, 7, 100, 5000):
        scan, at, done = HeaderScan("m", len(data)), 0, False
        while not done:
            n = chance.randint(1, most)
            done = scan.feed(data[at : at + n])
            at += n
        header = scan.header
        assert header.raw == whole.header.raw
        assert header.tensors == whole.header.tensors
        assert list(header.metadata["tokenizer.ggml.tokens"]) == [f"t{n}" for n in range(500)]
        # Nothing past the header is asked for: what a stream may read too much is less than one piece.
        assert at - n < header.data_offset


NAMES = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=15)
VALUES = st.one_of(
    st.tuples(st.just("str"), st.text(st.characters(exclude_categories=("Cs",)), max_size=40)),
    st.tuples(st.just("u64"), st.integers(0, 2**64 - 1)),
    st.tuples(st.just("i32"), st.integers(-(2**31), 2**31 - 1)),
    st.tuples(st.just("f64"), st.floats(allow_nan=False)),
    st.tuples(
        st.just("arr[str]"),
        st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=9), max_size=20),
    ),
    st.tuples(st.just("arr[u8]"), st.lists(st.integers(0, 255), max_size=50)),
)


@given(
    st.dictionaries(NAMES, VALUES, max_size=8),
    st.dictionaries(NAMES, st.lists(st.integers(0, 9), max_size=4), max_size=6),
)
def test_what_was_written_is_read(keys, shapes):
    tensors, offset, sizes = [], 0, []
    for name, shape in shapes.items():
        tensors.append(tensor(name, shape, 0, offset))
        n = 4
        for d in shape:
            n *= d
        sizes.append(n)
        offset += -(-n // 32) * 32
    data = gguf([key(name, kind, value) for name, (kind, value) in keys.items()], tensors, data=offset)
    scan = HeaderScan("m", len(data))
    if "general.alignment" in keys or not scan.feed(data):
        pytest.fail("the header was not complete")
    header = scan.header
    for name, (kind, value) in keys.items():
        got = header.metadata[name]
        assert (list(got) if kind.startswith("arr") else got) == value
        assert header.types[name] == kind
    assert [(t.name, list(t.shape), t.n_bytes) for t in header.tensors] == [
        (n, s, z) for (n, s), z in zip(shapes.items(), sizes, strict=True)
    ]
    header.check_data()


# -- what people get instead of a model


@pytest.mark.parametrize(
    ("data", "id_", "word"),
    [
        (b"", "KNB304", "empty"),
        (b"<!DOCTYPE html><html><head><title>Log in</title>", "KNB301", "web page"),
        (b"\n  <html lang='en'>", "KNB301", "web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 49999999999\n",
            "KNB302",
            "49,999,999,999",
        ),
        (b"# xet version 0\nfilesize = 1\nhash = '00'\n", "KNB303", "Xet"),
        (b"PK\x03\x04" + bytes(60), "KNB300", "zip"),
        (b'{"error":"Repository not found"}', "KNB300", "JSON"),
        (struct.pack("<Q", 20) + b'{"weight":{"dtype"', "KNB300", "safetensors"),
        (b"\x80\x02}q\x00X", "KNB300", "pickle"),
        (b"tjgg" + bytes(60), "KNB300", "2023"),
        (bytes(4096), "KNB300", "zeros"),
        (b"hello, world", "KNB300", "hello"),
        (b"FUGG" + bytes(30), "KNB300", "backwards"),
        (b"GG", "KNB305", "ends in the middle"),
        (b"GGUF\x03\0\0\0", "KNB305", "ends in the middle"),
    ],
)
def test_strangers_are_named(tmp_path, data, id_, word):
    error = refused(tmp_path, data)
    assert error.id == id_
    assert word in str(error)


# -- damaged headers, after llama.cpp's tests/test-gguf.cpp


DAMAGED = [
    (gguf([ARCH], version=0), "KNB307"),
    (gguf([ARCH], version=1), "KNB307"),
    (gguf([ARCH], version=4), "KNB307"),
    (gguf([ARCH], version=0x03000000), "KNB308"),
    (gguf([ARCH], n_tensors=2**64 - 1), "KNB309"),
    (gguf([ARCH], n_keys=2**64 - 1), "KNB309"),
    (gguf([ARCH], n_keys=40000), "KNB305"),
    (gguf([ARCH], n_tensors=100000), "KNB305"),
    (gguf([struct.pack("<Q", 2**64 - 1) + b"key" + bytes(60)]), "KNB312"),
    (gguf([struct.pack("<Q", 2**31) + b"key" + bytes(60)]), "KNB312"),
    (gguf([key("", "u32", 1)]), "KNB310"),
    (gguf([key(b"\xff\xfe", "u32", 1)]), "KNB310"),
    (gguf([key("a\x00b", "u32", 1)]), "KNB310"),
    (gguf([key("k" * 65536, "u32", 1)]), "KNB310"),
    (gguf([ARCH, ARCH]), "KNB310"),
    (gguf([string("k") + struct.pack("<I", 13) + bytes(40)]), "KNB311"),
    (gguf([string("k") + struct.pack("<IIQ", 9, 13, 1) + bytes(40)]), "KNB311"),
    (gguf([string("k") + struct.pack("<IIQ", 9, 9, 1) + bytes(40)]), "KNB311"),
    (gguf([string("k") + struct.pack("<IIQ", 9, 8, 2**40) + bytes(40)]), "KNB312"),
    (gguf([string("k") + struct.pack("<IIQ", 9, 8, 100) + bytes(400)]), "KNB312"),
    (gguf([string("k") + struct.pack("<IIQQ", 9, 8, 2, 2**63 - 9) + bytes(40)]), "KNB312"),
    (gguf([string("k") + struct.pack("<IIQQ", 9, 8, 2, 2**64 - 9) + bytes(40)]), "KNB312"),
    (gguf([string("k") + struct.pack("<IIQ", 9, 4, 2**40) + bytes(40)]), "KNB312"),
    (gguf([string("k") + struct.pack("<IIQ", 9, 4, 1000) + bytes(40)]), "KNB305"),
    (gguf([string("k") + struct.pack("<IQ", 8, 2**40) + bytes(40)]), "KNB312"),
    (gguf([key("general.alignment", "u32", 13)]), "KNB313"),
    (gguf([key("general.alignment", "u32", 0)]), "KNB313"),
    (gguf([key("general.alignment", "u64", 32)]), "KNB313"),
    (gguf([key("general.alignment", "arr[u32]", [32])]), "KNB313"),
    (gguf([], [tensor("n" * 64, (1,), 0, 0)], data=4), "KNB314"),
    (gguf([], [tensor("n", (1,), 0, 0), tensor("n", (1,), 0, 32)], data=64), "KNB314"),
    (gguf([], [tensor(b"\xc3", (1,), 0, 0)], data=4), "KNB314"),
    (gguf([], [tensor("n", (1, 1, 1, 1, 1), 0, 0)], data=4), "KNB315"),
    (gguf([], [tensor("n", (2**64 - 1,), 0, 0)], data=4), "KNB315"),
    (gguf([], [tensor("n", (2**32, 2**32), 0, 0)], data=4), "KNB315"),
    (gguf([], [tensor("n", (4, 1073741823, 1073741825), 0, 0)], data=4), "KNB315"),
    (gguf([], [tensor("n", (0x7FFFFFFFFFFFFFC0,), 24, 0)], data=4), "KNB315"),
    (gguf([], [tensor(f"n{i}", (2**49,), 24, i << 49) for i in range(4)], data=4), "KNB315"),
    (gguf([], [tensor("n", (1,), 43, 0)], data=4), "KNB316"),
    (gguf([], [tensor("n", (32,), 4, 0)], data=64), "KNB316"),
    (gguf([], [tensor("n", (32,), 31, 0)], data=64), "KNB316"),
    (gguf([], [tensor("n", (1,), 2**32 - 1, 0)], data=4), "KNB316"),
    (gguf([], [tensor("n", (100,), 12, 0)], data=400), "KNB316"),
    (gguf([], [tensor("n", (1,), 0, 32)], data=64), "KNB317"),
    (gguf([], [tensor("n", (1,), 0, 0), tensor("m", (1,), 0, 4)], data=64), "KNB317"),
    (
        gguf(
            [key("general.alignment", "u32", 64)],
            [tensor("n", (1,), 0, 0), tensor("m", (1,), 0, 32)],
            data=64,
        ),
        "KNB317",
    ),
    (gguf([], [tensor("n", (9,), 0, 0)], data=35), "KNB306"),
]


@pytest.mark.parametrize(("data", "id_"), DAMAGED, ids=[f"{row[1]}-{n}" for n, row in enumerate(DAMAGED)])
def test_damage_is_named(tmp_path, data, id_):
    assert refused(tmp_path, data).id == id_


def test_every_cut_is_noticed(tmp_path):
    data = small_model(layers=1, tokens=3)
    path = tmp_path / "m.gguf"
    ids = set()
    for length in range(len(data) - 33):
        path.write_bytes(data[:length])
        with pytest.raises(ModelFileError) as caught:
            read_header(path)
        ids.add(caught.value.id)
    assert ids == {"KNB304", "KNB305", "KNB306", "KNB312"}


def test_missing_data_is_counted_in_a_sparse_file(tmp_path):
    path = tmp_path / "m.gguf"
    rows = 46 * 2**30 // 256
    data = gguf([ARCH], [tensor("n", (256, rows), 24, 0)])
    path.write_bytes(data)
    os.truncate(path, len(data) + 43 * 2**30)
    with pytest.raises(
        ModelFileError, match=r"KNB306: m\.gguf is incomplete: 3\.0 GiB of 46\.0 GiB are missing"
    ):
        read_header(path)
    assert read_header(path, check_data=False).data_bytes == 46 * 2**30
    os.truncate(path, len(data) + 46 * 2**30)
    assert read_header(path).file_bytes == len(data) + 46 * 2**30


def test_a_header_without_end_is_left(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf([string("k") + struct.pack("<IQ", 8, 60 << 20)], n_keys=2))
    os.truncate(path, 1 << 40)
    with pytest.raises(ModelFileError, match="KNB310"):  # the hole reads as an empty key
        read_header(path)
    path.write_bytes(gguf([string("k") + struct.pack("<IIQ", 9, 8, 2**26)]))
    os.truncate(path, 1 << 40)
    with pytest.raises(ModelFileError, match="KNB318"):
        read_header(path)


def test_long_names_make_short_messages(tmp_path):
    name = "k" * 60000
    error = refused(tmp_path, gguf([key(name, "u32", 1), key(name, "u32", 1)]))
    assert len(str(error)) < 400


# -- paths


def test_paths_that_lead_nowhere(tmp_path):
    with pytest.raises(UsageError, match=r"KNB330.*no such file"):
        read_header(tmp_path / "none.gguf")
    with pytest.raises(UsageError, match=r"KNB330.*there is none in it"):
        read_header(tmp_path)
    (tmp_path / "a.gguf").write_bytes(b"")
    with pytest.raises(UsageError, match=r"KNB330.*a\.gguf"):
        read_header(tmp_path)
    with pytest.raises(UsageError, match="KNB330"):
        read_header(tmp_path / "a.gguf" / "b.gguf")
    with pytest.raises(UsageError, match="KNB330"):
        read_header("with a zero\0.gguf")


def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "p.gguf")
    with pytest.raises(ModelFileError, match=r"KNB332.*pipe"):
        read_header(tmp_path / "p.gguf")


def test_no_permission(tmp_path, monkeypatch):
    # Root, as which tests may run, is never refused; so the refusal is played.
    def refuse(path, flags):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ModelFileError, match=r"KNB332.*ermission"):
        read_header(tmp_path / "m.gguf")


def test_a_failing_disk(tmp_path, monkeypatch):
    path = tmp_path / "m.gguf"
    path.write_bytes(small_model())

    def fail(fd, n, offset):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(ModelFileError, match="KNB332"):
        read_header(path)


def test_a_file_that_shrinks_while_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "m.gguf"
    path.write_bytes(small_model(tokens=100_000))
    real = os.pread

    def shrink(fd, n, offset):
        os.truncate(path, 100_000)
        return real(fd, n, offset)

    monkeypatch.setattr(os, "pread", shrink)
    with pytest.raises(ModelFileError, match=r"KNB305.*97\.7 KiB of it are there"):
        read_header(path)


def test_no_file_stays_open(tmp_path):
    path = tmp_path / "m.gguf"
    before = len(list(Path("/dev/fd").iterdir()))
    for data in (small_model(), b"", b"GGUF", small_model()[:-40]):
        path.write_bytes(data)
        try:
            read_header(path)
        except ModelFileError:
            continue
    assert len(list(Path("/dev/fd").iterdir())) == before


# -- missing keys


def test_missing_hyperparameters_are_named(tmp_path):
    path = tmp_path / "plain-Q4_K_M-00001-of-00001.gguf"
    path.write_bytes(gguf([]))
    model = read_header(path)
    assert model.name == "plain-Q4_K_M"
    assert model.quant == "Q4_K_M"
    assert model.chat_template is None
    with pytest.raises(ModelFileError, match=r"KNB331.*general\.architecture"):
        _ = model.architecture
    path.write_bytes(
        gguf([ARCH, key("deepseek2.block_count", "str", "61"), key("deepseek2.vocab_size", "u32", 7)])
    )
    model = read_header(path)
    with pytest.raises(ModelFileError, match=r"KNB331.*deepseek2\.block_count"):
        _ = model.block_count
    assert model.vocab_size == 7
    assert (model.nextn_predict_layers, model.expert_used_count, model.expert_shared_count) == (0, 0, 0)


def test_quant_from_file_type(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf([ARCH, key("general.file_type", "u32", 36)]))
    assert read_header(path).quant == "TQ1_0"
    path.write_bytes(gguf([ARCH]))
    assert read_header(path).quant == ""


def test_every_fault_is_explained():
    assert set(_KINDS) <= set(troubles())
    assert bytes_text(0) == "0 bytes"
    assert bytes_text(1536) == "1.5 KiB"
    assert bytes_text(5 << 40) == "5120.0 GiB"
