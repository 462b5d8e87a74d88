"""Models in several files: which belong together, and which are missing."""

import pytest
from gguf_bytes import gguf, key, tensor
from hypothesis import given
from hypothesis import strategies as st

from kimi_nb.errors import ModelFileError
from kimi_nb.model import read_header
from kimi_nb.model.splits import shard_names, split_numbers


def shard(index: int, count: int, *, tensors=("a", "b"), total=None, extra=(), size: int = 8) -> bytes:
    keys = (
        [key("general.architecture", "str", "deepseek2"), key("general.name", "str", "Kimi")]
        if index == 0
        else []
    )
    keys += [
        key("split.no", "u16", index),
        key("split.count", "u16", count),
        key("split.tensors.count", "i32", count * len(tensors) if total is None else total),
        *extra,
    ]
    rows = [tensor(f"blk.{index}.{name}", (size,), 0, n * 32) for n, name in enumerate(tensors)]
    return gguf(keys, rows, data=32 * len(rows))


def write_set(folder, count: int = 3, prefix: str = "Kimi-UD-TQ1_0"):
    paths = [folder / f"{prefix}-{n + 1:05d}-of-{count:05d}.gguf" for n in range(count)]
    for n, path in enumerate(paths):
        path.write_bytes(shard(n, count))
    return paths


def test_any_shard_leads_to_the_whole(tmp_path):
    paths = write_set(tmp_path)
    for path in paths:
        model = read_header(path)
        assert [one.name for one in model.shards] == [one.name for one in paths]
        assert [t.name for t in model.tensors] == [
            "blk.0.a",
            "blk.0.b",
            "blk.1.a",
            "blk.1.b",
            "blk.2.a",
            "blk.2.b",
        ]
        assert [t.shard for t in model.tensors] == [0, 0, 1, 1, 2, 2]
        assert (model.name, model.quant, model.architecture, model.split_count) == (
            "Kimi",
            "UD-TQ1_0",
            "deepseek2",
            3,
        )
        assert model.file_bytes == sum(one.stat().st_size for one in paths)


def test_relative_and_linked_paths(tmp_path, monkeypatch):
    paths = write_set(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert len(read_header(paths[1].name).shards) == 3
    # The Hub's cache keeps links with the right names to files without any.
    blobs, links = tmp_path / "blobs", tmp_path / "links"
    blobs.mkdir()
    links.mkdir()
    for n, path in enumerate(paths):
        path.rename(blobs / f"blob{n}")
        (links / path.name).symlink_to(blobs / f"blob{n}")
    assert len(read_header(links / paths[2].name).tensors) == 6


def test_missing_shards_are_named(tmp_path):
    paths = write_set(tmp_path, 12)
    for n in (0, 4):
        paths[n].unlink()
    with pytest.raises(ModelFileError) as caught:
        read_header(paths[7])
    assert caught.value.id == "KNB320"
    assert (
        "2 of 12 are not in its folder: Kimi-UD-TQ1_0-00001-of-00012.gguf, Kimi-UD-TQ1_0-00005-of-00012.gguf"
        in str(caught.value)
    )
    for path in paths[:7]:
        path.unlink(missing_ok=True)
    with pytest.raises(ModelFileError, match=r"7 of 12 .*00006-of-00012\.gguf, \.\.\."):
        read_header(paths[7])


def test_damage_in_another_shard_is_told_of_that_shard(tmp_path):
    paths = write_set(tmp_path)
    paths[2].write_bytes(paths[2].read_bytes()[:-40])
    with pytest.raises(ModelFileError, match=r"KNB306: Kimi-UD-TQ1_0-00003-of-00003\.gguf is incomplete"):
        read_header(paths[0])
    assert len(read_header(paths[0], check_data=False).tensors) == 6


@pytest.mark.parametrize(
    ("index", "data", "words"),
    [
        (1, shard(1, 4), "split.count is '4' instead of 3"),
        (1, shard(2, 3), "split.no is '2' instead of 1"),
        (1, gguf([]), "split.count is 'None'"),
        (1, shard(1, 3, tensors=("a", "b", "c"), total=6), "hold 7 tensors"),
        (1, shard(1, 3, total=9), "split.tensors.count is '9', not '6'"),
        (1, shard(1, 3, extra=[key("general.architecture", "str", "llama")]), "'llama', not 'deepseek2'"),
        (1, shard(1, 3, extra=[key("general.name", "str", "x" * 100_000)]), "general.name"),
    ],
)
def test_sets_that_do_not_belong_together(tmp_path, index, data, words):
    paths = write_set(tmp_path)
    paths[index].write_bytes(data)
    with pytest.raises(ModelFileError) as caught:
        read_header(paths[0])
    assert caught.value.id == "KNB321"
    assert words in str(caught.value)
    assert len(str(caught.value)) < 500


def test_one_tensor_in_two_shards(tmp_path):
    paths = write_set(tmp_path)
    keys = [key("split.no", "u16", 1), key("split.count", "u16", 3), key("split.tensors.count", "i32", 6)]
    paths[1].write_bytes(gguf(keys, [tensor("blk.0.a", (8,), 0, 0)], data=32))
    with pytest.raises(ModelFileError, match=r"KNB321.*'blk\.0\.a' is in Kimi-UD-TQ1_0-00001"):
        read_header(paths[0])


@pytest.mark.parametrize(
    "name", ["model.gguf", "Kimi-00001-of-00005.gguf", "Kimi-1-of-3.gguf", "Kimi-00000-of-00003.gguf"]
)
def test_renamed_shards(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(shard(0, 3))
    with pytest.raises(ModelFileError, match=r"KNB322.*one of 3 shards"):
        read_header(path)


def test_odd_split_counts_mean_one_file(tmp_path):
    path = tmp_path / "m.gguf"
    for value in (("u16", 0), ("u16", 1), ("str", "5"), ("i64", -5), ("u64", 2**60)):
        path.write_bytes(gguf([key("split.count", *value)]))
        assert len(read_header(path).shards) == 1


@given(
    st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=20),
    st.integers(1, 99999),
    st.data(),
)
def test_names_go_both_ways(prefix, count, data):
    index = data.draw(st.integers(0, min(count, 300) - 1))
    count = min(count, 300)
    name = f"{prefix}-{index + 1:05d}-of-{count:05d}.gguf"
    assert split_numbers(name) == (prefix, index, count)
    names = shard_names(name, count)
    assert names[index] == name
    assert len(set(names)) == count
