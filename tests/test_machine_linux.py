"""The Linux readers on trees of real files: containers, NUMA, processors, disks."""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from kimi_nb.errors import KimiNbError
from kimi_nb.machine.cpu import read_cpu
from kimi_nb.machine.disk import read_disk, read_shm
from kimi_nb.machine.memory import read_host_memory
from kimi_nb.machine.numa import read_numa
from kimi_nb.machine.pci import nvidia_on_bus, read_other_gpus

GIB = 1024**3
MEMINFO = """MemTotal:       263921664 kB
MemFree:        100000000 kB
MemAvailable:   230000000 kB
Buffers:          1000000 kB
Cached:          90000000 kB
SwapTotal:       16777216 kB
SwapFree:        12582912 kB
HugePages_Total:       0
"""
V2_MOUNT = "31 24 0:27 {root} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNTS = (
    "31 24 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
    "32 31 0:28 {root} /sys/fs/cgroup/memory ro,relatime master:11 - cgroup cgroup rw,memory\n"
    "33 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct ro,relatime - cgroup cgroup rw,cpu,cpuacct\n"
)


def tree(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n" if not str(content).endswith("\n") else str(content))
    return root


def v2(tmp_path, own: str, groups: dict[str, dict[str, object]], *, mount_root: str = "/") -> Path:
    files: dict[str, object] = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": f"0::{own}",
        "proc/self/mountinfo": V2_MOUNT.format(root=mount_root),
    }
    for group, values in groups.items():
        files |= {f"sys/fs/cgroup/{group}/{name}": value for name, value in values.items()}
    return tree(tmp_path, files)


def v1(tmp_path, own: str, groups: dict[str, dict[str, object]], *, mount_root: str = "/") -> Path:
    files: dict[str, object] = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": f"11:memory:{own}\n4:cpu,cpuacct:{own}\n1:name=systemd:/\n0::/\n",
        "proc/self/mountinfo": V1_MOUNTS.format(root=mount_root),
    }
    for group, values in groups.items():
        for name, value in values.items():
            controller = "cpu,cpuacct" if name.startswith("cpu.") else "memory"
            files[f"sys/fs/cgroup/{controller}/{group}/{name}"] = value
    return tree(tmp_path, files)


# ---------------------------------------------------------------- memory


def test_without_control_groups_the_machines_memory_counts(tmp_path):
    memory, notes = read_host_memory(tree(tmp_path, {"proc/meminfo": MEMINFO}))
    assert memory.total_mib == memory.physical_mib == 263921664 // 1024
    assert memory.available_mib == 230000000 // 1024
    assert (memory.swap_total_mib, memory.swap_free_mib) == (16384, 12288)
    assert memory.limit_mib is None
    assert memory.limit_source is None
    assert notes == []


def test_the_tightest_of_nested_v2_limits_counts_and_is_named(tmp_path):
    root = v2(
        tmp_path,
        "/kubepods.slice/pod1.slice/main",
        {
            "kubepods.slice": {"memory.max": 200 * GIB, "memory.current": 50 * GIB},
            "kubepods.slice/pod1.slice": {"memory.max": 64 * GIB, "memory.current": 10 * GIB},
            "kubepods.slice/pod1.slice/main": {"memory.max": "max", "memory.current": 10 * GIB},
        },
    )
    memory, notes = read_host_memory(root)
    assert memory.total_mib == memory.limit_mib == 64 * 1024
    assert memory.available_mib == 54 * 1024
    assert memory.limit_source == "cgroup v2 memory.max of /kubepods.slice/pod1.slice"
    assert memory.physical_mib == 263921664 // 1024
    assert [note.id for note in notes] == ["KNB110"]
    assert "64.0 GiB" in str(notes[0])
    assert "/kubepods.slice/pod1.slice" in str(notes[0])


def test_a_full_parent_leaves_little_though_its_limit_is_the_wider_one(tmp_path):
    root = v2(
        tmp_path,
        "/a/b",
        {
            "a": {"memory.max": 100 * GIB, "memory.current": 97 * GIB},
            "a/b": {"memory.max": 60 * GIB, "memory.current": 1 * GIB},
        },
    )
    memory, _ = read_host_memory(root)
    assert memory.total_mib == 60 * 1024
    assert memory.available_mib == 3 * 1024


def test_cached_files_count_as_available(tmp_path):
    """A model that was just read fills a container with page cache, which gives way."""
    stat = f"anon {2 * GIB}\ninactive_file {20 * GIB}\nactive_file {5 * GIB}\nshmem 0\n"
    root = v2(
        tmp_path, "/c", {"c": {"memory.max": 32 * GIB, "memory.current": 30 * GIB, "memory.stat": stat}}
    )
    assert read_host_memory(root)[0].available_mib == (32 - 5) * 1024


def test_memory_high_is_a_limit_too(tmp_path):
    root = v2(tmp_path, "/c", {"c": {"memory.max": 64 * GIB, "memory.high": 48 * GIB}})
    memory, _ = read_host_memory(root)
    assert memory.total_mib == 48 * 1024
    assert memory.limit_source == "cgroup v2 memory.high of /c"


def test_a_limit_above_the_machines_memory_is_none(tmp_path):
    memory, notes = read_host_memory(v2(tmp_path, "/c", {"c": {"memory.max": 2000 * GIB}}))
    assert memory.limit_mib is None
    assert notes == []


def test_inside_a_container_the_mount_is_the_own_group(tmp_path):
    """With a cgroup namespace the process sees itself at / and the container's files at the mount."""
    root = v2(tmp_path, "/", {"": {"memory.max": 16 * GIB, "memory.swap.max": 0}})
    memory, _ = read_host_memory(root)
    assert memory.total_mib == 16 * 1024
    assert memory.limit_source == "cgroup v2 memory.max of /"
    assert memory.swap_total_mib == 0


@pytest.mark.parametrize("own", ["/../../other.scope", "/gone/away", "/"])
def test_a_group_that_is_out_of_sight_falls_back_to_the_nearest_one_above(tmp_path, own):
    root = v2(tmp_path, own, {"": {"memory.max": 8 * GIB}}, mount_root="/docker/abc")
    assert read_host_memory(root)[0].total_mib == 8 * 1024


@pytest.mark.parametrize("junk", ["", "many", "-5", "12 34", "\x00\xff", "9" * 40])
def test_an_odd_limit_file_is_no_limit(tmp_path, junk):
    root = v2(tmp_path, "/c", {"c": {"memory.max": junk, "memory.current": junk, "memory.stat": junk}})
    assert read_host_memory(root)[0].limit_mib is None


def test_swap_of_a_v2_container(tmp_path):
    group = {"memory.max": 8 * GIB, "memory.swap.max": 2 * GIB, "memory.swap.current": GIB // 2}
    memory, _ = read_host_memory(v2(tmp_path, "/c", {"c": group}))
    assert (memory.swap_total_mib, memory.swap_free_mib) == (2048, 1536)


def test_v1_limits_nest_too(tmp_path):
    root = v1(
        tmp_path,
        "/slurm/uid_1000/job_7",
        {
            "": {"memory.limit_in_bytes": 9223372036854771712, "memory.usage_in_bytes": 200 * GIB},
            "slurm/uid_1000": {"memory.limit_in_bytes": 96 * GIB, "memory.usage_in_bytes": 20 * GIB},
            "slurm/uid_1000/job_7": {
                "memory.limit_in_bytes": 128 * GIB,
                "memory.usage_in_bytes": 12 * GIB,
                "memory.stat": f"cache 0\ntotal_inactive_file {8 * GIB}\ntotal_active_file {2 * GIB}\n",
            },
        },
    )
    memory, notes = read_host_memory(root)
    assert memory.total_mib == 96 * 1024
    assert memory.available_mib == 76 * 1024
    assert memory.limit_source == "cgroup v1 memory.limit_in_bytes of /slurm/uid_1000"
    assert [note.id for note in notes] == ["KNB110"]


def test_v1_tells_of_limits_above_that_a_container_cannot_see(tmp_path):
    root = v1(
        tmp_path,
        "/docker/abc",
        {"": {"memory.limit_in_bytes": 64 * GIB, "memory.stat": f"hierarchical_memory_limit {24 * GIB}\n"}},
        mount_root="/docker/abc",
    )
    memory, _ = read_host_memory(root)
    assert memory.total_mib == 24 * 1024
    assert "hierarchical_memory_limit" in str(memory.limit_source)


def test_v1_counts_swap_with_memory(tmp_path):
    group = {
        "memory.limit_in_bytes": 8 * GIB,
        "memory.usage_in_bytes": 4 * GIB,
        "memory.memsw.limit_in_bytes": 10 * GIB,
        "memory.memsw.usage_in_bytes": 5 * GIB,
    }
    memory, _ = read_host_memory(v1(tmp_path, "/d", {"d": group}))
    assert (memory.swap_total_mib, memory.swap_free_mib) == (2048, 1024)


def test_on_a_hybrid_system_either_version_can_hold_the_limit(tmp_path):
    root = v1(tmp_path, "/d", {"d": {"memory.limit_in_bytes": 10 * GIB}})
    with (root / "proc/self/mountinfo").open("a") as file:
        file.write("40 31 0:40 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n")
    (root / "sys/fs/cgroup/unified").mkdir()
    assert read_host_memory(root)[0].total_mib == 10 * 1024


def test_a_mount_point_with_a_space_in_its_name(tmp_path):
    mount = "31 24 0:27 / /odd\\040place rw - cgroup2 cgroup2 rw\n"
    files = {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/", "proc/self/mountinfo": mount}
    root = tree(tmp_path, files | {"odd place/memory.max": 4 * GIB})
    assert read_host_memory(root)[0].total_mib == 4 * 1024


def test_an_old_kernel_without_memavailable(tmp_path):
    info = "MemTotal: 1048576 kB\nMemFree: 262144 kB\nBuffers: 102400 kB\nCached: 204800 kB\n"
    memory, _ = read_host_memory(tree(tmp_path, {"proc/meminfo": info}))
    assert memory.available_mib == (262144 + 102400 + 204800) // 1024


def test_no_meminfo_is_one_clear_error(tmp_path):
    with pytest.raises(KimiNbError) as caught:
        read_host_memory(tmp_path)
    assert caught.value.id == "KNB125"
    assert "\n" not in str(caught.value)


def test_this_machine_agrees_with_psutil():
    import psutil

    if sys.platform != "linux":
        pytest.fail("the Linux readers are tested on Linux")
    memory, _ = read_host_memory()
    assert memory.physical_mib == psutil.virtual_memory().total // 1024**2
    assert 0 < memory.available_mib <= memory.total_mib <= memory.physical_mib


# ---------------------------------------------------------------- processors


def cpus(
    tmp_path, *, cores: int = 4, threads: int = 2, allowed: str | None = None, flags: str = "fma f16c avx2"
):
    logical = cores * threads
    files: dict[str, object] = {"sys/devices/system/cpu/online": f"0-{logical - 1}"}
    blocks = []
    for cpu in range(logical):
        blocks.append(f"processor\t: {cpu}\nmodel name\t: Test CPU: the 2nd\nflags\t\t: fpu {flags}\n")
        folder = f"sys/devices/system/cpu/cpu{cpu}/topology"
        files[f"{folder}/thread_siblings_list"] = ",".join(
            str(cpu % cores + i * cores) for i in range(threads)
        )
        files[f"{folder}/physical_package_id"] = 0 if cpu % cores < cores // 2 else 1
    files["proc/cpuinfo"] = "\n".join(blocks)
    files["proc/self/status"] = (
        f"Name:\tpython\nCpus_allowed:\tff\nCpus_allowed_list:\t{allowed or f'0-{logical - 1}'}\n"
    )
    return tree(tmp_path, files)


def test_hyperthreads_are_not_cores(tmp_path):
    cpu, notes = read_cpu(cpus(tmp_path), architecture="x86_64")
    assert (cpu.physical_cores, cpu.logical_cores, cpu.sockets) == (4, 8, 2)
    assert (cpu.allowed_physical, cpu.allowed_logical, cpu.usable_cores) == (4, 8, 4)
    assert cpu.model == "Test CPU: the 2nd"
    assert cpu.features == ("f16c", "fma", "avx2")
    assert cpu.quota_cores is None
    assert notes == []


def test_affinity_bounds_the_threads(tmp_path):
    cpu, notes = read_cpu(cpus(tmp_path, allowed="1,5"), architecture="x86_64")
    assert (cpu.allowed_physical, cpu.allowed_logical, cpu.usable_cores) == (1, 2, 1)
    assert [note.id for note in notes] == ["KNB111"]
    assert "--threads 1" in notes[0].fix


def test_the_tightest_v2_quota_bounds_the_threads(tmp_path):
    root = cpus(tmp_path)
    tree(
        root,
        {
            "proc/self/cgroup": "0::/pod/main",
            "proc/self/mountinfo": V2_MOUNT.format(root="/"),
            "sys/fs/cgroup/pod/cpu.max": "250000 100000",
            "sys/fs/cgroup/pod/main/cpu.max": "max 100000",
        },
    )
    cpu, notes = read_cpu(root, architecture="x86_64")
    assert cpu.quota_cores == 2.5
    assert cpu.usable_cores == 2
    assert "cgroup v2 cpu.max of /pod" in notes[0].why


def test_v1_quota(tmp_path):
    root = cpus(tmp_path)
    tree(
        root,
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/d",
            "proc/self/mountinfo": V1_MOUNTS.format(root="/"),
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": -1,
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": 100000,
            "sys/fs/cgroup/cpu,cpuacct/d/cpu.cfs_quota_us": 50000,
            "sys/fs/cgroup/cpu,cpuacct/d/cpu.cfs_period_us": 100000,
        },
    )
    cpu, _ = read_cpu(root, architecture="x86_64")
    assert cpu.quota_cores == 0.5
    assert cpu.usable_cores == 1


def test_fast_and_slow_cores(tmp_path):
    root = cpus(tmp_path, cores=8, threads=1)
    tree(root, {"sys/devices/cpu_core/cpus": "0-5", "sys/devices/cpu_atom/cpus": "6-7"})
    cpu, _ = read_cpu(root, architecture="x86_64")
    assert cpu.performance_cores == 6
    assert cpu.usable_cores == 6


def test_a_processor_type_that_hides_avx2(tmp_path):
    cpu, notes = read_cpu(cpus(tmp_path, flags="sse4_2 ssse3"), architecture="x86_64")
    assert cpu.features == ("ssse3", "sse4_2")
    assert [note.id for note in notes] == ["KNB112"]
    assert "avx2, f16c, fma" in notes[0].what


def test_the_newest_x86_instruction_sets(tmp_path):
    flags = "avx2 fma f16c avx512f avx512vbmi avx512_vnni avx512_bf16 amx_tile amx_int8 amx_bf16 avx_vnni avx512_fp16"
    cpu, _ = read_cpu(cpus(tmp_path, flags=flags), architecture="x86_64")
    assert set(cpu.features) == set(flags.split()) - {"avx512_fp16"}


def test_arm(tmp_path):
    info = (
        "processor\t: 0\nFeatures\t: fp asimd evtstrm aes asimdhp asimddp sve i8mm bf16\n"
        "CPU implementer\t: 0x41\nCPU part\t: 0xd4f\n"
    )
    cpu, notes = read_cpu(tree(tmp_path, {"proc/cpuinfo": info}), architecture="aarch64")
    assert cpu.features == ("neon", "fp16", "dotprod", "i8mm", "bf16", "sve")
    assert cpu.model == "ARM processor (implementer 0x41, part 0xd4f)"
    assert notes == []


def test_nothing_readable_still_gives_one_core(tmp_path):
    cpu, _ = read_cpu(tmp_path, architecture="riscv64")
    assert (cpu.physical_cores, cpu.logical_cores, cpu.usable_cores, cpu.model) == (1, 1, 1, "unknown")


def test_this_machine_agrees_with_its_affinity():
    cpu, _ = read_cpu()
    assert cpu.allowed_logical == len(os.sched_getaffinity(0))
    assert cpu.usable_cores <= cpu.physical_cores <= cpu.logical_cores


# ---------------------------------------------------------------- NUMA


def test_two_nodes(tmp_path):
    files: dict[str, object] = {"sys/devices/system/node/online": "0-1", "proc/meminfo": MEMINFO}
    for node, cpulist in ((0, "0-31,64-95"), (1, "32-63,96-127")):
        files[f"sys/devices/system/node/node{node}/cpulist"] = cpulist
        files[f"sys/devices/system/node/node{node}/meminfo"] = (
            f"Node {node} MemTotal:       131072000 kB\nNode {node} MemFree:  1024000 kB\nNode {node} Active(anon): 5 kB"
        )
    nodes, notes = read_numa(tree(tmp_path, files))
    assert [(n.index, n.cpus, n.logical_cores, n.total_mib, n.free_mib) for n in nodes] == [
        (0, "0-31,64-95", 64, 128000, 1000),
        (1, "32-63,96-127", 64, 128000, 1000),
    ]
    assert [note.id for note in notes] == ["KNB121"]


def test_a_single_node_has_all_the_memory_whatever_it_counts_itself(tmp_path):
    """Seen on a virtual machine whose host adds memory as it runs: the node said 5.7 of 23.5 GiB."""
    files = {
        "proc/meminfo": MEMINFO,
        "sys/devices/system/node/online": "0",
        "sys/devices/system/node/node0/cpulist": "0-1",
        "sys/devices/system/node/node0/meminfo": "Node 0 MemTotal:  5990604 kB\nNode 0 MemFree: 5327468 kB\n",
    }
    nodes, notes = read_numa(tree(tmp_path, files))
    assert [node.total_mib for node in nodes] == [263921664 // 1024]
    assert notes == []


def test_memory_without_processors_is_a_node_but_no_reason_for_advice(tmp_path):
    files: dict[str, object] = {"sys/devices/system/node/online": "0,2"}
    for node, cpulist in ((0, "0-63"), (2, "")):
        files[f"sys/devices/system/node/node{node}/cpulist"] = cpulist
        files[f"sys/devices/system/node/node{node}/meminfo"] = f"Node {node} MemTotal: 1048576 kB\n"
    nodes, notes = read_numa(tree(tmp_path, files))
    assert [(node.index, node.logical_cores, node.total_mib) for node in nodes] == [
        (0, 64, 1024),
        (2, 0, 1024),
    ]
    assert notes == []


def test_no_numa_files_at_all(tmp_path):
    assert read_numa(tmp_path) == ((), [])


# ---------------------------------------------------------------- disk


def on(tmp_path, filesystem: str, *, device: str = "8:1") -> Path:
    """Pretend that tmp_path/models is a mount of its own."""
    (tmp_path / "models").mkdir(exist_ok=True)
    lines = (
        "22 1 8:2 / / rw - ext4 /dev/sda2 rw\n"
        f"30 22 0:50 / {tmp_path} rw - tmpfs tmpfs rw\n"
        f"31 30 {device} / {tmp_path}/models rw - {filesystem} somewhere rw\n"
        f"32 30 8:9 / {tmp_path}/models-old rw - xfs /dev/sdb rw\n"
    )
    return tree(tmp_path / "root", {"proc/self/mountinfo": lines})


@pytest.mark.parametrize(
    ("filesystem", "network", "sparse", "ids"),
    [
        ("ext4", False, True, []),
        ("xfs", False, True, []),
        ("overlay", False, True, []),
        ("nfs4", True, None, ["KNB113"]),
        ("9p", True, None, ["KNB113"]),
        ("fuse.sshfs", True, None, ["KNB113"]),
        ("vfat", False, False, ["KNB114"]),
        ("exfat", False, False, []),
        ("fuseblk", False, None, []),
    ],
)
def test_file_systems(tmp_path, filesystem, network, sparse, ids):
    disk, notes = read_disk(tmp_path / "models/not/yet/there", on(tmp_path, filesystem))
    assert (disk.filesystem, disk.network, disk.sparse) == (filesystem, network, sparse)
    assert [note.id for note in notes] == ids
    assert disk.path == str(tmp_path / "models/not/yet/there")
    assert 0 < disk.free_mib <= disk.total_mib
    assert disk.writable
    assert disk.max_file_mib == (4095 if filesystem == "vfat" else None)


def test_a_link_leads_to_the_file_system_behind_it(tmp_path):
    root = on(tmp_path, "nfs")
    (tmp_path / "shortcut").symlink_to(tmp_path / "models")
    assert read_disk(tmp_path / "shortcut", root)[0].filesystem == "nfs"


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("devices/pci0000:00/nvme/nvme0n1", "0", False),
        ("devices/pci0000:00/ata1/block/sda", "1", True),
        ("devices/pci0000:00/virtio1/block/vda", "1", None),
        ("devices/pci0000:00/virtio1/block/vda", "0", False),
    ],
)
def test_spinning_disks_are_told_from_virtual_ones_that_only_say_so(tmp_path, place, value, told):
    root = on(tmp_path, "ext4")
    tree(root, {f"sys/{place}/queue/rotational": value})
    partition = root / "sys" / place / "part1"
    partition.mkdir()
    block = root / "sys/dev/block"
    block.mkdir(parents=True)
    (block / "8:1").symlink_to(partition)
    assert read_disk(tmp_path / "models", root)[0].rotational is told


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_folder_of_someone_elses(mode):
    """Root may write anywhere, so the question is asked as nobody; the second may not even be entered."""
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom kimi_nb.machine.disk import read_disk\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "disk, notes = read_disk(Path(sys.argv[1]))\nprint(disk.writable, *[note.id for note in notes])\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        locked = Path(folder, "locked")
        locked.mkdir()
        Path(folder).chmod(0o755)
        locked.chmod(mode)
        done = subprocess.run(
            [sys.executable, "-c", code, locked / "a/b"], capture_output=True, text=True, check=False
        )
        locked.chmod(0o755)
    assert done.stdout.split() == ["False", "KNB115"], done.stderr


def test_a_file_system_that_does_not_answer(tmp_path, monkeypatch):
    def stale(_):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(os, "statvfs", stale)
    disk, notes = read_disk(tmp_path)
    assert disk is None
    assert [note.id for note in notes] == ["KNB115"]
    assert "Stale file handle" in notes[0].why


def test_a_file_in_the_way_is_not_a_place_to_write(tmp_path):
    (tmp_path / "models").write_text("not a folder")
    disk, notes = read_disk(tmp_path / "models" / "kimi")
    assert not disk.writable
    assert "KNB115" in [note.id for note in notes]


def test_a_session_limit_on_file_sizes(tmp_path):
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom kimi_nb.machine.disk import read_disk\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))\n"
        "disk, notes = read_disk(Path(sys.argv[1]))\nprint(disk.max_file_mib, *[note.id for note in notes])\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.split()[:2] == ["1024", "KNB114"]


def test_shared_memory_matters_with_several_gpus_only(tmp_path, monkeypatch):
    docker = os.statvfs_result((4096, 4096, 64 * 256, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: docker)
    assert read_shm(tmp_path, gpus=1) == (64, [])
    size, notes = read_shm(tmp_path, gpus=2)
    assert size == 64
    assert [note.id for note in notes] == ["KNB116"]


def test_no_shared_memory(tmp_path):
    assert read_shm(tmp_path, gpus=4) == (None, [])


# ---------------------------------------------------------------- the PCI bus


def test_gpus_on_the_bus(tmp_path):
    devices = {
        "0000:01:00.0": ("0x030000", "0x10de"),
        "0000:01:00.1": ("0x040300", "0x10de"),  # the card's sound
        "0000:02:00.0": ("0x030200", "0x10de"),
        "0000:03:00.0": ("0x030000", "0x1002"),
        "0000:00:02.0": ("0x030000", "0x8086"),  # part of the processor
    }
    files: dict[str, object] = {}
    for address, (kind, vendor) in devices.items():
        files |= {
            f"sys/bus/pci/devices/{address}/{name}": v for name, v in (("class", kind), ("vendor", vendor))
        }
    root = tree(tmp_path, files)
    assert nvidia_on_bus(root) == 2
    assert [note.id for note in read_other_gpus(root)] == ["KNB119"]
    assert "1 AMD or Intel" in read_other_gpus(root)[0].what


def test_no_pci_bus(tmp_path):
    assert nvidia_on_bus(tmp_path) == 0
    assert read_other_gpus(tmp_path) == []
