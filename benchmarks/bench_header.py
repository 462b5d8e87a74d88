"""How long reading Kimi's header takes, beside PyPI's gguf reader on the same file.

    python benchmarks/bench_header.py [--vocabulary FILE.tiktoken]

The file is made here: Kimi's keys, 163,840 tokens, as many merges, and 1,096 tensors with tiny data. Without
a vocabulary file the tokens are made up, with lengths like the real ones.
"""

from __future__ import annotations

import argparse
import base64
import platform
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

N_TOKENS = 163_840
RUNS = 7
TARGET_RATIO = 20.0
ATTENTION = [
    "attn_norm",
    "attn_q_a",
    "attn_q_a_norm",
    "attn_q_b",
    "attn_kv_a_mqa",
    "attn_kv_a_norm",
    "attn_k_b",
    "attn_v_b",
    "attn_output",
    "ffn_norm",
]
EXPERTS = [
    "ffn_gate_inp",
    "exp_probs_b",
    "ffn_gate_exps",
    "ffn_up_exps",
    "ffn_down_exps",
    "ffn_gate_shexp",
    "ffn_up_shexp",
    "ffn_down_shexp",
]


def byte_alphabet() -> list[str]:
    """The printable stand-ins that byte-level vocabularies use for the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def vocabulary(path: Path | None) -> list[bytes]:
    """Read a tiktoken file, or make up tokens of similar lengths."""
    if path is not None:
        return [base64.b64decode(line.split()[0]) for line in path.read_bytes().splitlines()]
    chance = random.Random(1)
    return [chance.randbytes(max(1, min(32, round(chance.gauss(6.5, 3))))) for _ in range(N_TOKENS - 256)]


def write_kimi_header(path: Path, tokens: list[bytes]) -> None:
    """Write a file whose header is as large as Kimi's."""
    import gguf
    import numpy as np

    letters = byte_alphabet()
    words = ["".join(letters[byte] for byte in token) for token in tokens]
    merges = [f"{word[: len(word) // 2]} {word[len(word) // 2 :]}" for word in words if len(word) > 1]
    words += [f"<|reserved_{n}|>" for n in range(N_TOKENS - len(words))]
    writer = gguf.GGUFWriter(path, "deepseek2")
    writer.add_name("Kimi")
    writer.add_block_count(61)
    writer.add_context_length(262_144)
    writer.add_embedding_length(7168)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("kimi-k2")
    writer.add_token_list(words)
    writer.add_token_types([1] * N_TOKENS)
    writer.add_token_merges(merges)
    writer.add_chat_template("x" * 8000)
    names = ["token_embd", "output", "output_norm"]
    names += [f"blk.0.{name}" for name in (*ATTENTION, "ffn_gate", "ffn_up", "ffn_down")]
    names += [f"blk.{layer}.{name}" for layer in range(1, 61) for name in ATTENTION + EXPERTS]
    row = np.zeros((2, 256), np.float16)
    for name in names:
        writer.add_tensor(f"{name}.weight", row)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def seconds(call: object, path: Path, runs: int) -> list[float]:
    """Time ``call(path)`` several times."""
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        call(path)  # type: ignore[operator]  # either of the two readers
        taken.append(time.perf_counter() - start)
    return taken


def main() -> int:
    """Measure, print the table, and return 0 if the target is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", type=Path, help="a tiktoken file, such as Kimi's tiktoken.model")
    arguments = parser.parse_args()
    from gguf import GGUFReader

    from kimi_nb.model import read_header

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kimi.gguf"
        write_kimi_header(path, vocabulary(arguments.vocabulary))
        model = read_header(path)
        ours = seconds(read_header, path, RUNS)
        theirs = seconds(GGUFReader, path, 1)
        header_mib = model.shards[0].data_offset / 2**20
    ratio = min(theirs) / statistics.median(ours)
    kind = "real" if arguments.vocabulary else "made-up"
    print(f"machine: {platform.machine()}, {platform.system()}, Python {platform.python_version()}")
    print(f"header: {header_mib:.1f} MiB, {N_TOKENS:,} {kind} tokens, {len(model.tensors):,} tensors")
    print(f"{'reader':<34}{'measured':>12}{'target':>14}{'ratio':>10}")
    print(f"{'PyPI gguf, GGUFReader (1 run)':<34}{min(theirs):>10.3f} s{'-':>14}{1:>9.0f}x")
    spread = f"{min(ours) * 1e3:.0f}-{max(ours) * 1e3:.0f}"
    print(
        f"{f'kimi_nb, read_header ({spread} ms)':<34}{statistics.median(ours):>10.3f} s"
        f"{f'>= {TARGET_RATIO:.0f}x faster':>14}{ratio:>9.0f}x"
    )
    return 0 if ratio >= TARGET_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
