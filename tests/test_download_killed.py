"""Downloads that end badly: killed, out of space, without power, or run twice at once."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from faulty_hub import MIB, REPO, Fault, FaultyHub, make_repo, same_files, start_download
from system import wait_until

from kimi_nb.engine.download import Options, download
from kimi_nb.engine.fetch import part as part_module
from kimi_nb.engine.fetch.lock import Busy
from kimi_nb.engine.fetch.part import WINDOW, PartFile
from kimi_nb.errors import DownloadError


def fetch(hub, folder, **options):
    return download(REPO, "Q4", endpoint=hub.endpoint, token="", folder=folder, options=Options(**options))


def served(hub):
    """Bytes of files that went out."""
    return sum(hub.sent().values())


def kept(repo, folder) -> dict[str, int]:
    """For each file of ``repo``, how many of its bytes the next download will find here."""
    found = {}
    for source in sorted(repo.glob("Q4/*")):
        target = folder / REPO / source.relative_to(repo)
        parts = list(target.parent.glob(f".{target.name}.*.part.journal"))
        if target.exists():
            assert target.stat().st_size == source.stat().st_size, "half a file under its final name"
            found[str(source)] = source.stat().st_size
        elif parts:
            _, written, synced = part_module._read_journal(parts[0])
            found[str(source)] = part_module.Ranges([*written, *synced]).total()
        else:
            found[str(source)] = 0
    return found


def kill_often(hub, repo, folder, *, kills: int, rate: float, seed: int) -> dict[str, float]:
    """Download again and again, killing at random moments, until there were ``kills`` of them.

    What a kill cost is counted for each file on the server's side: bytes that went out for it, less those that are
    kept for the next time.
    """
    chance = random.Random(seed)
    total = sum(path.stat().st_size for path in repo.glob("Q4/*"))
    done, downloads, costs = 0, 0, []
    while done < kills:
        shutil.rmtree(folder, ignore_errors=True)
        downloads += 1
        lost = hub.sent()  # of earlier rounds
        while True:
            process = start_download(hub, folder, extra=f", limit_bytes_s={rate}")
            try:
                process.wait(timeout=chance.uniform(0.3, 1.5 + total / rate / 8))
            except subprocess.TimeoutExpired:
                process.kill()
                done += 1
            out, error = process.communicate()
            assert process.returncode in {0, -signal.SIGKILL}, (out, error)
            if process.returncode == 0:
                break
            wait_until(lambda: served(hub) == (time.sleep(0.1) or served(hub)))
            for name, here in kept(repo, folder).items():
                cost = hub.sent()[name] - lost[name] - here
                costs.append(cost)
                lost[name] += cost
                assert cost <= WINDOW, f"this kill cost {cost / MIB:.2f} MiB of {name}"
        same_files(repo, folder / REPO)
        assert served(hub) == sum(lost.values()) + total, "not one byte more than that was fetched again"
    return {
        "kills": done,
        "downloads": downloads,
        "worst_mib_of_a_file": round(max(costs) / MIB, 2),
        "mean_mib_of_a_file": round(sum(costs) / len(costs) / MIB, 2),
    }


def test_kill_9_costs_little_and_breaks_nothing(tmp_path):
    repo = make_repo(tmp_path / "repos" / REPO, mib=16)
    with FaultyHub(tmp_path / "repos") as hub:
        print(kill_often(hub, repo, tmp_path / "models", kills=10, rate=40e6, seed=1))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_200_kills_over_two_gigabytes(tmp_path):
    repo = make_repo(tmp_path / "repos" / REPO, mib=410)
    with FaultyHub(tmp_path / "repos") as hub:
        print(kill_often(hub, repo, tmp_path / "models", kills=200, rate=60e6, seed=2))


def test_ctrl_c_is_heard_at_once_and_costs_little(tmp_path):
    repo = make_repo(tmp_path / "repos" / REPO, mib=8)
    with FaultyHub(tmp_path / "repos") as hub:
        process = start_download(hub, tmp_path / "models", extra=", limit_bytes_s=10e6")
        wait_until(lambda: served(hub) > 4 * MIB)
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        _, error = process.communicate(timeout=30)
        assert time.monotonic() - started < 10
        assert "KeyboardInterrupt" in error
        came = served(hub)
        result = fetch(hub, tmp_path / "models")
        assert result.fetched_bytes <= result.manifest.size - came + 5 * WINDOW
        same_files(repo, tmp_path / "models" / REPO)


def test_two_processes_on_one_folder_share_the_work(tmp_path):
    repo = make_repo(tmp_path / "repos" / REPO, mib=8)
    with FaultyHub(tmp_path / "repos") as hub:
        both = [start_download(hub, tmp_path / "models", extra=", limit_bytes_s=20e6") for _ in range(2)]
        said = [process.communicate(timeout=120) for process in both]
        assert [process.returncode for process in both] == [0, 0], said
        same_files(repo, tmp_path / "models" / REPO)
        total = sum(path.stat().st_size for path in repo.glob("Q4/*"))
        assert served(hub) == total, "no byte was fetched twice"
        assert sum(int(out.split()[1]) for out, _ in said) == total


def run_together(hub, repo, folder, *, rounds: int, seed: int) -> dict[str, float]:
    """Let two processes download into one folder, again and again, killing one of them in every other round."""
    chance = random.Random(seed)
    total = sum(path.stat().st_size for path in repo.glob("Q4/*"))
    kills, again, shared = 0, 0, 0
    for number in range(rounds):
        shutil.rmtree(folder, ignore_errors=True)
        before, doomed = served(hub), number % 2 == 1
        both = [start_download(hub, folder, extra=", limit_bytes_s=20e6") for _ in range(2)]
        if doomed:
            time.sleep(chance.uniform(0.2, 2.5))
            both[0].kill()
            kills += 1
        said = [process.communicate(timeout=120) for process in both]
        assert [process.returncode for process in both][doomed:] == [0] * (2 - doomed), said
        same_files(repo, folder / REPO)
        wait_until(lambda: served(hub) == (time.sleep(0.1) or served(hub)))
        more = served(hub) - before - total
        assert 0 <= more <= (5 * WINDOW if doomed else 0), "no byte was fetched twice but what a kill cost"
        again += more
        if not doomed:
            shared += all(int(out.split()[1]) > 0 for out, _ in said)
    return {
        "rounds": rounds,
        "kills": kills,
        "fetched_again_mib": round(again / MIB, 2),
        "both_fetched": shared,
    }


@pytest.mark.soak
def test_two_processes_on_one_folder_for_many_rounds(tmp_path):
    repo = make_repo(tmp_path / "repos" / REPO, mib=8)
    with FaultyHub(tmp_path / "repos") as hub:
        print(run_together(hub, repo, tmp_path / "models", rounds=60, seed=3))


def test_two_processes_repair_one_folder(tmp_path):
    repo = make_repo(tmp_path / "repos" / REPO, mib=8)
    with FaultyHub(tmp_path / "repos") as hub:
        files = fetch(hub, tmp_path / "models").files
        for path in files[:3]:
            os.truncate(path, 3 * MIB)
        files[3].rename(files[3].with_name("spare"))
        files[4].rename(files[3])
        files[3].with_name("spare").rename(files[4])
        before = served(hub)
        both = [start_download(hub, tmp_path / "models", extra=", limit_bytes_s=20e6") for _ in range(3)]
        said = [process.communicate(timeout=120) for process in both]
        assert [process.returncode for process in both] == [0, 0, 0], "\n".join(
            out + err for out, err in said
        )
        same_files(repo, tmp_path / "models" / REPO)
        assert served(hub) - before == sum(path.stat().st_size - 3 * MIB for path in files[:3])


def test_the_second_of_two_takes_over_when_the_first_is_killed(tmp_path):
    repo = make_repo(tmp_path / "repos" / REPO, mib=8)
    with FaultyHub(tmp_path / "repos") as hub:
        first = start_download(hub, tmp_path / "models", extra=", limit_bytes_s=8e6")
        wait_until(lambda: served(hub) > 2 * MIB)
        second = start_download(hub, tmp_path / "models")
        time.sleep(0.5)
        first.kill()
        first.communicate()
        out, error = second.communicate(timeout=120)
        assert second.returncode == 0, (out, error)
        same_files(repo, tmp_path / "models" / REPO)


# ---- a full disk


@pytest.fixture
def small_disk(tmp_path):
    """A filesystem of 24 MiB; where mounting is not allowed, a limit on file sizes stands in for it."""
    mount = tmp_path / "small"
    mount.mkdir()
    made = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(mount)], capture_output=True, check=False
        )
        if sys.platform == "linux"
        else None
    )
    if made is None or made.returncode:
        yield None
        return
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_a_disk_that_fills_up_loses_nothing(tmp_path, small_disk, monkeypatch):
    repo = make_repo(tmp_path / "repos" / REPO, shards=2, mib=8)
    monkeypatch.setattr("kimi_nb.engine.fetch.preflight.RESERVE", 0)
    with FaultyHub(tmp_path / "repos") as hub:
        if small_disk is None:
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            monkeypatch.setattr("kimi_nb.engine.fetch.fulfil.check_room", lambda *_: None)
            handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (6 * MIB, before[1]))
            try:
                with pytest.raises(DownloadError, match="KNB411"):
                    fetch(hub, tmp_path / "models")
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
                signal.signal(signal.SIGXFSZ, handler)
            folder = tmp_path / "models"
        else:
            folder = small_disk / "models"
            other = small_disk / "other"

            def fill(progress):
                if progress.done_bytes > 0 and not other.exists():
                    other.write_bytes(b"\0" * (17 * MIB))

            with pytest.raises(DownloadError, match="KNB409") as caught:
                download(
                    REPO,
                    "Q4",
                    endpoint=hub.endpoint,
                    token="",
                    folder=folder,
                    options=Options(limit_bytes_s=10e6),
                    progress=fill,
                )
            assert "\n" not in str(caught.value)
            other.unlink()
        came = served(hub)
        assert came > 0
        result = fetch(hub, folder)
        assert result.fetched_bytes <= result.manifest.size - came + 2 * WINDOW
        assert result.fetched_bytes < result.manifest.size, "what had come was used"
        same_files(repo, folder / REPO)


def test_too_little_space_is_said_before_the_first_byte(tmp_path, monkeypatch):
    make_repo(tmp_path / "repos" / REPO, shards=2, mib=2)
    free = shutil.disk_usage(tmp_path).free
    monkeypatch.setattr("kimi_nb.engine.fetch.preflight.RESERVE", free)
    with FaultyHub(tmp_path / "repos") as hub:
        with pytest.raises(DownloadError, match="KNB408"):
            fetch(hub, tmp_path / "models")
        assert served(hub) == 0


def test_a_file_size_limit_is_said_before_the_first_byte(tmp_path):
    make_repo(tmp_path / "repos" / REPO, shards=2, mib=4)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with FaultyHub(tmp_path / "repos") as hub:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 * MIB, before[1]))
        try:
            with pytest.raises(DownloadError, match=r"KNB411.*ulimit"):
                fetch(hub, tmp_path / "models")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert served(hub) == 0


@pytest.mark.parametrize("kind", ["file in the way", "read-only"])
def test_a_folder_that_cannot_be_written_is_said_before_the_first_byte(tmp_path, kind):
    make_repo(tmp_path / "repos" / REPO, shards=2, mib=1)
    folder = tmp_path / "models"
    folder.mkdir()
    with FaultyHub(tmp_path / "repos") as hub:
        if kind == "file in the way":
            (folder / "local").write_text("not a folder")
        elif os.geteuid() == 0:  # permissions do not bind root: /proc takes no files from anybody
            folder = Path("/proc/sys") if sys.platform == "linux" else Path("/System")
        else:
            folder.chmod(0o500)
        with pytest.raises(DownloadError, match="KNB410"):
            fetch(hub, folder)
        assert served(hub) == 0


# ---- no power


def test_after_a_reboot_only_what_was_synced_counts(tmp_path, monkeypatch):
    size = 32 * MIB
    data = random.Random(0).randbytes(size)
    with PartFile(tmp_path / "x.part", "key", size) as part:
        while (claim := part.claim(MIB)) is not None and claim.stop <= 20 * MIB:
            part.write(claim.start, data[claim.start : claim.stop])
            part.commit(*claim)
            if part.unsynced() >= 2 * MIB:
                part.sync()
        written, synced = part.here(), part.synced.total()
        assert written - synced <= WINDOW
        assert synced >= 10 * MIB
    with PartFile(tmp_path / "x.part", "key", size) as part:
        assert part.here() == written, "a process that died costs nothing that was written"
    # What a power loss leaves of bytes that were not synced is anybody's guess: here it is zeros.
    lines = (tmp_path / "x.part.journal").read_text()
    assert part_module.boot_id()
    monkeypatch.setattr(part_module, "boot_id", lambda: "another start of the machine")
    header, *rest = lines.splitlines()
    kept = [line for line in rest if line.startswith("s ")]
    (tmp_path / "x.part.journal").write_text(f"{header}\ns 0 2097152\nw 2097152 20971520\n")
    with PartFile(tmp_path / "x.part", "key", size) as part:
        assert part.here() == 2 * MIB
    assert kept


def test_the_window_bounds_what_can_be_lost(tmp_path):
    with PartFile(tmp_path / "x.part", "key", 64 * MIB, window=8 * MIB) as part:
        claims = []
        while (claim := part.claim(MIB)) is not None:
            claims.append(claim)
        assert sum(claim.stop - claim.start for claim in claims) == 8 * MIB
        for claim in claims:
            part.write(claim.start, bytes(MIB))
            part.commit(*claim)
            part.give_back(claim)
        assert part.claim(MIB) is None, "written but not synced counts too"
        part.sync()
        assert part.claim(MIB) == (8 * MIB, 9 * MIB)


def test_a_torn_journal_is_read_as_far_as_it_goes(tmp_path):
    with PartFile(tmp_path / "x.part", "key", 4 * MIB) as part:
        part.write(0, bytes(3 * MIB))
        part.commit(0, MIB)
        part.commit(MIB, 2 * MIB)
    journal = tmp_path / "x.part.journal"
    journal.write_bytes(
        journal.read_bytes() + b"w 2097152 31\0\0\0\0\nw -1 5\nx 0 9\nw 2097152 3145728 9\nw 2097152 314"
    )
    with PartFile(tmp_path / "x.part", "key", 4 * MIB) as part:
        assert part.here() == 2 * MIB
    journal.write_bytes(b"\0" * 500)
    with PartFile(tmp_path / "x.part", "key", 4 * MIB) as part:
        assert part.here() == 0


def test_a_part_of_other_content_is_not_continued(tmp_path):
    with PartFile(tmp_path / "x.part", "one", 4 * MIB) as part:
        part.write(0, bytes(MIB))
        part.commit(0, MIB)
    with PartFile(tmp_path / "x.part", "two", 4 * MIB) as part:
        assert part.here() == 0


def test_one_part_has_one_owner(tmp_path):
    with PartFile(tmp_path / "x.part", "key", MIB), pytest.raises(Busy):
        PartFile(tmp_path / "x.part", "key", MIB)
    with PartFile(tmp_path / "x.part", "key", MIB):
        pass


def test_threads_end_with_the_download(tmp_path):
    make_repo(tmp_path / "repos" / REPO, shards=2, mib=1)
    with FaultyHub(tmp_path / "repos") as hub:
        before = threading.active_count()
        hub.faults = [Fault("stall", seconds=60, times=100)]
        with pytest.raises(DownloadError, match="KNB415"):
            fetch(hub, tmp_path / "models", timeout_s=0.3, patience_s=0.5, backoff_s=0.05)
        wait_until(
            lambda: not [t for t in threading.enumerate() if t.name.startswith(("fetch", "keep", "sync"))]
        )
        assert threading.active_count() <= before + 16  # the hub's own threads still stall


@pytest.mark.parametrize("left", [("lock",), ("lock", "journal")])
def test_what_a_kill_at_the_very_end_leaves_is_cleared_away(tmp_path, left):
    repo = make_repo(tmp_path / "repos" / REPO, shards=2, mib=1)
    with FaultyHub(tmp_path / "repos") as hub:
        entry = fetch(hub, tmp_path / "models")
        part = entry.files[0].with_name(f".{entry.files[0].name}.{entry.manifest.files[0].key[:12]}.part")
        for kind in left:
            part.with_name(f"{part.name}.{kind}").write_text("{}\n")
        (record,) = (tmp_path / "models" / ".kimi-nb" / "sets").glob("*.json")
        record.write_text(record.read_text().replace('"complete": true', '"complete": false'))
        assert fetch(hub, tmp_path / "models").fetched_bytes == 0
        same_files(repo, tmp_path / "models" / REPO)
