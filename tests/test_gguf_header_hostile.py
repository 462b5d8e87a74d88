"""Thousands of damaged headers: never a crash, never a hang, never much memory, always our one error."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kimi_nb.errors import troubles

PROGRAM = Path(__file__).with_name("gguf_bytes.py")


def read_mutants(count: int, seed: int) -> dict:
    done = subprocess.run(
        [sys.executable, PROGRAM, str(count), str(seed)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("count", [2000, pytest.param(10_000, marks=pytest.mark.soak)])
def test_mutants(count):
    result = read_mutants(count, seed=count)
    outcome = result["outcome"]
    assert sum(outcome.values()) == count
    assert result["slowest_s"] < 1
    assert outcome["valid"] < count / 2
    assert set(outcome) - {"valid"} <= set(troubles())
    # The damage really reaches every part of the header.
    assert {"KNB305", "KNB306", "KNB310", "KNB311", "KNB312", "KNB314", "KNB315", "KNB316", "KNB317"} <= set(
        outcome
    )


@pytest.mark.engine
def test_same_verdict_as_llama_cpp(build):
    """What we take for sound, llama.cpp's own reader takes as well, and we refuse little that it would take."""
    done = subprocess.run(
        [sys.executable, PROGRAM, "--compare", str(build.bin), "1500", "7"],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert result["mutants"] == 1500
    assert result["both_take"] > 100
    assert result["both_refuse"] > 300
    assert result["only_we_take"] == []
    # Names that are not text, and numbers that no file of this size can mean.
    assert set(result["only_llama_cpp_takes"]) <= {"KNB310", "KNB314", "KNB315"}
