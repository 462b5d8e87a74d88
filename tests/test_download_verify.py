"""Files that are there already: recognised, named for what they are, and repaired with as little fetching as can be."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from faulty_hub import MIB, REPO, FaultyHub, gguf, make_repo, same_files

from kimi_nb.engine.download import Options, download, verify
from kimi_nb.errors import DownloadError, ModelFileError, UsageError

SIZES = 4  # MiB, as faulty_hub lays repositories out


@pytest.fixture
def repo(tmp_path):
    return make_repo(tmp_path / "repos" / REPO, quants=("Q4", "Q2"), shards=3, mib=SIZES)


@pytest.fixture
def hub(repo, tmp_path):
    older = make_repo(tmp_path / "older", quants=("Q4", "Q2"), shards=3, mib=SIZES, seed=9)
    with FaultyHub() as hub:
        hub.publish(REPO, older)
        hub.publish(REPO, repo)
        yield hub


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "models"


def shard(folder: Path, number: int, quant: str = "Q4") -> Path:
    return folder / REPO / quant / f"tiny-{quant}-{number:05d}-of-00003.gguf"


def fetched(hub, call):
    """Run ``call`` and return its result and how many bytes went out for it."""
    before = sum(hub.sent().values())
    result = call()
    return result, sum(hub.sent().values()) - before


def get(hub, folder, quant="Q4", **given):
    return download(REPO, quant, endpoint=hub.endpoint, token="", folder=folder, options=Options(), **given)


def again(hub, folder, where=None, **given):
    return verify(
        where, **({"model": REPO, "quant": "Q4"} | given), endpoint=hub.endpoint, token="", folder=folder
    )


def flip(path: Path, at: int) -> None:
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 4]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a disk would do it: without a trace


# ---- each kind of damage: found, named, and only that part fetched again


def test_nothing_wrong_nothing_fetched(hub, repo, folder):
    get(hub, folder)
    result, cost = fetched(hub, lambda: again(hub, folder))
    assert cost == 0
    assert result.repaired == ()


def test_a_flipped_bit_costs_one_mib(hub, repo, folder):
    get(hub, folder)
    flip(shard(folder, 2), 2 * MIB + 77)
    with pytest.raises(DownloadError, match=r"KNB416.*00002-of-00003.*MiB 2"):
        again(hub, folder, repair=False)
    result, cost = fetched(hub, lambda: again(hub, folder))
    assert cost == MIB
    assert [look.file.path for look in result.repaired] == ["Q4/tiny-Q4-00002-of-00003.gguf"]
    same_files(repo, folder / REPO)


def test_several_flipped_bits_cost_a_mib_each(hub, repo, folder):
    get(hub, folder)
    for number, at in ((1, 5), (1, 3 * MIB + 1), (3, MIB), (3, MIB + 1000)):
        flip(shard(folder, number), at if at > 1000 else 2000)
    _, cost = fetched(hub, lambda: again(hub, folder))
    assert cost == 3 * MIB
    same_files(repo, folder / REPO)


def test_a_change_that_left_a_trace_is_noticed_by_the_next_download(hub, repo, folder):
    get(hub, folder)
    flip(shard(folder, 2), 2 * MIB + 77)
    os.utime(shard(folder, 2))
    _, cost = fetched(hub, lambda: get(hub, folder))
    assert cost == MIB
    same_files(repo, folder / REPO)


def test_a_truncated_shard_costs_what_is_missing(hub, repo, folder):
    get(hub, folder)
    os.truncate(shard(folder, 2), 3 * MIB + 5)
    with pytest.raises(DownloadError, match=r"KNB416.*00002-of-00003.gguf is cut short.*3,145,733 of"):
        again(hub, folder, repair=False)
    _, cost = fetched(hub, lambda: again(hub, folder))
    assert cost == MIB + 4096 - 5
    same_files(repo, folder / REPO)


def test_a_shard_with_something_appended_costs_nothing(hub, repo, folder):
    get(hub, folder)
    with shard(folder, 1).open("ab") as file:
        file.write(b"tail")
    _, cost = fetched(hub, lambda: again(hub, folder))
    assert cost == 0
    same_files(repo, folder / REPO)


def test_two_swapped_shards_cost_nothing(hub, repo, folder):
    get(hub, folder)
    one, two, spare = shard(folder, 1), shard(folder, 2), folder / "spare"
    one.rename(spare)
    two.rename(one)
    spare.rename(two)
    with pytest.raises(
        DownloadError, match=r"00001-of-00003.gguf is another file of the set \(it is Q4/tiny-Q4-00002"
    ):
        again(hub, folder, repair=False)
    result, cost = fetched(hub, lambda: again(hub, folder))
    assert cost == 0
    assert len(result.repaired) == 2
    same_files(repo, folder / REPO)


def test_a_shard_copied_over_another_costs_one_shard(hub, repo, folder):
    get(hub, folder)
    shutil.copyfile(shard(folder, 1), shard(folder, 2))
    _, cost = fetched(hub, lambda: again(hub, folder))
    assert cost == (repo / "Q4" / "tiny-Q4-00002-of-00003.gguf").stat().st_size
    same_files(repo, folder / REPO)


@pytest.mark.parametrize(
    "kind", ["another quant", "another revision", "HTML page", "LFS pointer", "nonsense", "zeros"]
)
def test_a_stranger_is_named_and_costs_one_shard(hub, repo, folder, tmp_path, kind):
    get(hub, folder)
    path, good = shard(folder, 2), repo / "Q4" / "tiny-Q4-00002-of-00003.gguf"
    content, said = {
        "another quant": (
            (repo / "Q2" / "tiny-Q2-00002-of-00003.gguf").read_bytes(),
            "it is Q2/tiny-Q2-00002-of-00003.gguf of the same repository",
        ),
        "another revision": (
            (tmp_path / "older" / "Q4" / "tiny-Q4-00002-of-00003.gguf").read_bytes(),
            f"it is Q4/tiny-Q4-00002-of-00003.gguf of revision {hub.history(REPO)[1][:12]}",
        ),
        "HTML page": (b"<!DOCTYPE html><html>log in</html>", "no GGUF file.*HTML"),
        "LFS pointer": (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4198400\n",
            "no GGUF file.*git-lfs",
        ),
        "nonsense": (gguf(good.stat().st_size, seed=77, number=1, count=3), "damaged"),
        "zeros": (bytes(good.stat().st_size), "no GGUF file.*zeros"),
    }[kind]
    path.write_bytes(content)
    with pytest.raises(DownloadError, match=f"KNB416.*00002-of-00003.gguf is.*{said}"):
        again(hub, folder, repair=False)
    assert path.read_bytes() == content, "--no-repair changes nothing"
    _, cost = fetched(hub, lambda: again(hub, folder))
    assert cost == good.stat().st_size
    same_files(repo, folder / REPO)


def test_a_file_that_is_bad_throughout_is_not_fetched_piece_by_piece(hub, folder, tmp_path):
    wide = make_repo(tmp_path / "wide", shards=1, mib=64)
    hub.publish("local/wide-GGUF", wide)
    get_wide = {"endpoint": hub.endpoint, "token": "", "folder": folder}
    path = download("local/wide-GGUF", "Q4", **get_wide).first_shard
    path.write_bytes(gguf(64 * MIB, seed=5))
    before = len(hub.seen)
    verify(model="local/wide-GGUF", quant="Q4", **get_wide)
    same_files(wide, folder / "local/wide-GGUF")
    assert len(hub.seen) - before < 64 + 8


def test_a_missing_shard_costs_that_shard(hub, repo, folder):
    get(hub, folder)
    shard(folder, 3).unlink()
    with pytest.raises(DownloadError, match=r"00003-of-00003.gguf is missing"):
        again(hub, folder, repair=False)
    _, cost = fetched(hub, lambda: again(hub, folder))
    assert cost == (repo / "Q4" / "tiny-Q4-00003-of-00003.gguf").stat().st_size
    same_files(repo, folder / REPO)


def test_a_good_file_stays_in_place_while_its_neighbour_is_repaired(hub, folder):
    get(hub, folder)
    inode = shard(folder, 1).stat().st_ino
    shard(folder, 2).unlink()
    again(hub, folder)
    assert shard(folder, 1).stat().st_ino == inode


# ---- folders that something else filled, with the real huggingface_hub


def hf_local(hub, tmp_path, patterns="Q4/*") -> Path:
    from huggingface_hub import snapshot_download

    where = tmp_path / "hf-local"
    snapshot_download(REPO, endpoint=hub.endpoint, token=False, local_dir=where, allow_patterns=patterns)
    return where


def hf_cache(hub, tmp_path) -> tuple[Path, Path]:
    from huggingface_hub import snapshot_download

    cache = tmp_path / "hub-cache"
    found = snapshot_download(
        REPO, endpoint=hub.endpoint, token=False, cache_dir=cache, allow_patterns="Q4/*"
    )
    return cache, Path(found)


def test_a_folder_of_hf_download_is_adopted_where_it_is(hub, repo, folder, tmp_path):
    where = hf_local(hub, tmp_path)
    result, cost = fetched(hub, lambda: again(hub, folder, where, quant=None))
    assert cost == 0
    assert result.first_shard == where / "Q4" / "tiny-Q4-00001-of-00003.gguf"
    assert result.manifest.commit == hub.find(REPO, "main")[0]
    assert not (folder / REPO).exists(), "nothing was copied"
    known, cost = fetched(hub, lambda: get(hub, folder))
    assert (known.files, cost) == (result.files, 0), "a later download finds the adopted files"


def test_a_folder_of_hf_download_keeps_its_revision_when_main_moved(hub, folder, tmp_path):
    where = hf_local(hub, tmp_path)
    before = hub.find(REPO, "main")[0]
    hub.publish(REPO, make_repo(tmp_path / "newest", shards=3, mib=SIZES, seed=5))
    result, cost = fetched(hub, lambda: again(hub, folder, where))
    assert (result.manifest.commit, cost) == (before, 0)


def test_the_quant_folder_itself_may_be_named(hub, folder, tmp_path):
    where = hf_local(hub, tmp_path)
    result = again(hub, folder, where / "Q4", quant=None)
    assert result.first_shard == where / "Q4" / "tiny-Q4-00001-of-00003.gguf"


def test_a_damaged_folder_of_hf_download_is_repaired_in_place(hub, repo, folder, tmp_path):
    where = hf_local(hub, tmp_path)
    os.truncate(where / "Q4" / "tiny-Q4-00003-of-00003.gguf", MIB)
    _, cost = fetched(hub, lambda: again(hub, folder, where))
    assert cost == (repo / "Q4" / "tiny-Q4-00003-of-00003.gguf").stat().st_size - MIB
    same_files(repo, where)


def test_the_hubs_cache_is_adopted_without_being_told_anything(hub, folder, tmp_path):
    cache, snapshot = hf_cache(hub, tmp_path)
    for where in (snapshot, snapshot / "Q4", cache / "models--local--tiny-GGUF"):
        shutil.rmtree(folder, ignore_errors=True)
        result, cost = fetched(hub, lambda where=where: again(hub, folder, where, model=None, quant=None))
        assert cost == 0
        assert result.first_shard == snapshot / "Q4" / "tiny-Q4-00001-of-00003.gguf"


def test_the_hubs_cache_is_repaired_as_the_hub_lays_it_out(hub, repo, folder, tmp_path):
    from huggingface_hub import hf_hub_download

    cache, snapshot = hf_cache(hub, tmp_path)
    link = snapshot / "Q4" / "tiny-Q4-00002-of-00003.gguf"
    again(hub, folder, snapshot, model=None, quant=None)
    flip(link.resolve(), MIB + 3)
    _, cost = fetched(hub, lambda: again(hub, folder, snapshot, model=None, quant=None))
    assert cost == MIB
    assert link.is_symlink()
    lost = link.resolve()
    link.unlink()
    lost.unlink()
    again(hub, folder, snapshot, model=None, quant=None)
    assert link.is_symlink()
    same_files(repo, snapshot)
    name = "Q4/tiny-Q4-00002-of-00003.gguf"
    found, cost = fetched(
        hub, lambda: hf_hub_download(REPO, name, endpoint=hub.endpoint, token=False, cache_dir=cache)
    )
    assert (Path(found), cost) == (link, 0), "huggingface_hub takes it for its own"


def test_the_hubs_cache_is_verified_offline(hub, folder, tmp_path, monkeypatch):
    _, snapshot = hf_cache(hub, tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = len(hub.seen)
    result = again(hub, folder, snapshot, model=None, quant=None)
    assert result.first_shard.parent == snapshot / "Q4"
    flip((snapshot / "Q4" / "tiny-Q4-00002-of-00003.gguf").resolve(), 3000)
    with pytest.raises(DownloadError, match="KNB407"):
        again(hub, folder, snapshot, model=None, quant=None)
    assert len(hub.seen) == asked


def test_a_download_uses_what_the_hubs_cache_holds(hub, repo, folder, tmp_path, monkeypatch):
    cache, _ = hf_cache(hub, tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    result, cost = fetched(hub, lambda: get(hub, folder))
    assert cost == 0
    assert len(result.linked) == 3
    same_files(repo, folder / REPO)


def test_a_flat_copy_is_adopted(hub, repo, folder, tmp_path):
    where = tmp_path / "flat"
    shutil.copytree(repo / "Q4", where)
    result, cost = fetched(hub, lambda: again(hub, folder, where))
    assert cost == 0
    assert result.first_shard == where / "tiny-Q4-00001-of-00003.gguf"


def test_adopting_an_empty_folder_is_a_download_into_it(hub, repo, folder, tmp_path):
    where = tmp_path / "empty"
    where.mkdir()
    again(hub, folder, where)
    same_files(repo, where)


@pytest.mark.parametrize("case", ["no folder", "no repository", "no quant", "nothing known"])
def test_what_cannot_be_told_is_asked_for(hub, repo, folder, tmp_path, case):
    given = {
        "no folder": {"where": tmp_path / "none"},
        "no repository": {"where": repo, "model": None},
        "no quant": {"where": repo, "quant": None},
        "nothing known": {},
    }[case]
    with pytest.raises(UsageError, match="KNB416"):
        again(hub, folder, **given)


# ---- several sets


def test_equal_files_of_two_sets_are_one_on_the_disk(hub, repo, folder, tmp_path):
    shutil.copyfile(repo / "Q4" / "tiny-Q4-00001-of-00003.gguf", repo / "Q2" / "shared-Q2.gguf")
    (tmp_path / "again").mkdir()
    twin = tmp_path / "again" / "Q4"
    shutil.copytree(repo / "Q4", twin)
    hub.publish("local/twin-GGUF", tmp_path / "again")
    get(hub, folder)
    result, cost = fetched(
        hub, lambda: download("local/twin-GGUF", "Q4", endpoint=hub.endpoint, token="", folder=folder)
    )
    assert cost == 0
    assert len(result.linked) == 3
    assert result.first_shard.stat().st_ino == shard(folder, 1).stat().st_ino


def test_shards_that_do_not_fit_together_are_noticed(hub, folder, tmp_path):
    odd = make_repo(tmp_path / "odd", shards=3, mib=1)
    (odd / "Q4" / "tiny-Q4-00002-of-00003.gguf").write_bytes(
        gguf(MIB, seed=1, number=2, count=3, name="tiny Q4")
    )
    hub.publish("local/odd-GGUF", odd)
    with pytest.raises(ModelFileError, match="KNB321"):
        download("local/odd-GGUF", "Q4", endpoint=hub.endpoint, token="", folder=folder)


def test_a_journal_half_written_is_cleared_away(hub, folder):
    """A process killed while it replaced a part's journal left the new one behind, for good."""
    done = get(hub, folder)
    place = done.files[0]
    torn = place.with_name(f"..{place.name}.{done.manifest.files[0].key[:12]}.part.journal.abcd1234")
    torn.write_bytes(b"half a jour")
    other = place.with_name(f".{place.name}.mine")
    other.write_bytes(b"not ours")
    place.unlink()
    get(hub, folder)
    assert not torn.exists()
    assert other.exists()
