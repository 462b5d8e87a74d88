"""Hold GPU memory, so that less is free: a program for a process of its own.

python ballast.py GPU MIB     holds so many MiB until its standard input ends; prints a line when it has them
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ballast"]

_START_S = 60


@contextmanager
def ballast(gpu: int, mib: int) -> Iterator[None]:
    """Hold so many MiB of a GPU's memory for the time of a ``with`` block; none if that is not positive."""
    if mib <= 0:
        yield
        return
    words = [sys.executable, str(Path(__file__).resolve()), str(gpu), str(mib)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            said = process.stdout.readline().strip()
            if said != "held":
                raise RuntimeError(f"{mib} MiB of GPU {gpu} could not be held: {said or 'it ended'}")
            yield
        finally:
            process.kill()


def _check(code: int, what: str) -> None:
    if code:
        print(f"{what} fails with {code}", flush=True)
        sys.exit(1)


def main() -> None:
    """Allocate, say so, and wait."""
    gpu, mib = int(sys.argv[1]), int(sys.argv[2])
    cuda = ctypes.CDLL("libcuda.so.1")
    context, place, device = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_int()
    _check(cuda.cuInit(0), "cuInit")
    _check(cuda.cuDeviceGet(ctypes.byref(device), gpu), "cuDeviceGet")
    _check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device), "cuDevicePrimaryCtxRetain")
    _check(cuda.cuCtxSetCurrent(context), "cuCtxSetCurrent")
    _check(cuda.cuMemAlloc_v2(ctypes.byref(place), ctypes.c_size_t(mib << 20)), "cuMemAlloc")
    print("held", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
