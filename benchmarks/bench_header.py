"""How long reading Kimi's header takes, and how many bytes of a repository on the Hub it costs.

    python benchmarks/bench_header.py [--vocabulary FILE.tiktoken]

First a local file beside PyPI's gguf reader: Kimi's keys, 163,840 tokens, as many merges, and 1,096 tensors
with tiny data. Then a repository of five shards and 240 GB, real headers before holes, from a local server
that speaks the Hub's protocol. Without a vocabulary file the tokens are made up, as long as the real ones.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.nano.hub import LocalHub
from kimi_nb.nano.hub_records import Blob, Repo

if TYPE_CHECKING:
    from gguf import GGUFWriter

N_TOKENS = 163_840
RUNS = 7
TARGET_RATIO = 20.0
MOST_SENT = 1.05
COMMIT = "0123456789abcdef0123456789abcdef01234567"
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
HYPERPARAMETERS = {
    "block_count": 61,
    "context_length": 262_144,
    "embedding_length": 7168,
    "feed_forward_length": 18_432,
    "attention.head_count": 64,
    "attention.head_count_kv": 1,
    "attention.q_lora_rank": 1536,
    "attention.kv_lora_rank": 512,
    "attention.key_length": 576,
    "attention.value_length": 512,
    "attention.key_length_mla": 192,
    "attention.value_length_mla": 128,
    "leading_dense_block_count": 1,
    "expert_feed_forward_length": 2048,
    "expert_count": 384,
    "expert_used_count": 8,
    "expert_shared_count": 1,
    "expert_gating_func": 2,
    "rope.dimension_count": 64,
    "vocab_size": N_TOKENS,
}
#: As numpy has it: the length of a row comes last.
SHAPES = {
    "token_embd": ((N_TOKENS, 7168), "Q4_K"),
    "output": ((N_TOKENS, 7168), "Q6_K"),
    "attn_q_a_norm": ((1536,), "F32"),
    "attn_kv_a_norm": ((512,), "F32"),
    "attn_q_a": ((1536, 7168), "Q5_K"),
    "attn_q_b": ((64 * 192, 1536), "Q5_K"),
    "attn_kv_a_mqa": ((576, 7168), "Q5_K"),
    "attn_k_b": ((64, 512, 128), "Q8_0"),
    "attn_v_b": ((64, 128, 512), "Q8_0"),
    "attn_output": ((7168, 64 * 128), "Q5_K"),
    "ffn_gate": ((18432, 7168), "Q4_K"),
    "ffn_up": ((18432, 7168), "Q4_K"),
    "ffn_down": ((7168, 18432), "Q4_K"),
    "ffn_gate_inp": ((384, 7168), "F32"),
    "exp_probs_b": ((384,), "F32"),
    "ffn_gate_exps": ((384, 2048, 7168), "IQ1_S"),
    "ffn_up_exps": ((384, 2048, 7168), "IQ1_S"),
    "ffn_down_exps": ((384, 7168, 2048), "IQ2_XXS"),
    "ffn_gate_shexp": ((2048, 7168), "Q5_K"),
    "ffn_up_shexp": ((2048, 7168), "Q5_K"),
    "ffn_down_shexp": ((7168, 2048), "Q5_K"),
}


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
    tokens = dict.fromkeys(bytes([byte]) for byte in range(256))  # each once, as llama.cpp insists
    while len(tokens) < N_TOKENS - 256:
        tokens[chance.randbytes(max(2, min(32, round(chance.gauss(6.5, 3)))))] = None
    return list(tokens)


def write_kimi_header(path: Path, tokens: list[bytes]) -> None:
    """Write a file whose header is as large as Kimi's."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "deepseek2")
    add_keys(writer, tokens)
    row = np.zeros((2, 256), np.float16)
    for name in tensor_names():
        writer.add_tensor(f"{name}.weight", row)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_keys(writer: GGUFWriter, tokens: list[bytes]) -> None:
    """Add Kimi's keys, tokenizer included."""
    letters = byte_alphabet()
    words = ["".join(letters[byte] for byte in token) for token in tokens]
    merges = [f"{word[: len(word) // 2]} {word[len(word) // 2 :]}" for word in words if len(word) > 1]
    words += [f"<|reserved_{n}|>" for n in range(N_TOKENS - len(words))]
    writer.add_name("Kimi")
    for name, number in HYPERPARAMETERS.items():
        writer.add_uint32(f"deepseek2.{name}", number)
    writer.add_float32("deepseek2.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32("deepseek2.rope.freq_base", 50_000.0)
    writer.add_float32("deepseek2.expert_weights_scale", 2.827)
    writer.add_bool("deepseek2.expert_weights_norm", val=True)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("kimi-k2")
    writer.add_token_list(words)
    writer.add_token_types([1] * N_TOKENS)
    writer.add_token_merges(merges)
    writer.add_chat_template("x" * 8000)


def tensor_names() -> list[str]:
    """Return the names of Kimi's 1,096 tensors, without ``.weight``."""
    names = ["token_embd", "output", "output_norm"]
    names += [f"blk.0.{name}" for name in (*ATTENTION, "ffn_gate", "ffn_up", "ffn_down")]
    return names + [f"blk.{layer}.{name}" for layer in range(1, 61) for name in ATTENTION + EXPERTS]


def write_repository(folder: Path, tokens: list[bytes]) -> list[Path]:
    """Write a model of 240 GB in five shards: what gguf's own writer writes before the data, then a hole."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(folder / "Kimi-UD-TQ1_0.gguf", "deepseek2", split_max_size=49_500_000_000)
    add_keys(writer, tokens)
    for name in tensor_names():
        role = name.rpartition(".")[2]
        shape, kind = SHAPES.get(role, ((7168,), "F32"))
        if role == "ffn_down_exps" and int(name.split(".")[1]) % 2:
            kind = "Q2_K"  # such files mix types from layer to layer
        quant = gguf.GGMLQuantizationType[kind]
        block, size = gguf.GGML_QUANT_SIZES[quant]
        n_bytes = int(np.prod(shape, dtype=np.int64)) // block * size
        ending = "bias" if role == "exp_probs_b" else "weight"
        writer.add_tensor_info(f"{name}.{ending}", shape, np.dtype(np.float32), n_bytes, raw_dtype=quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    paths = sorted(folder.glob("*.gguf"))
    for path, tensors in zip(paths, writer.tensors, strict=True):
        data = sum(writer.ggml_pad(info.nbytes, 32) for info in tensors.values())
        os.truncate(path, writer.ggml_pad(path.stat().st_size, 32) + data)
    return paths


class HollowHub(LocalHub):
    """A Hub of files that are too long to be hashed: a file's hash is that of its name."""

    def publish_hollow(self, repo: str, paths: list[Path]) -> None:
        """Publish files as a repository with one commit."""
        blobs = {}
        for path in paths:
            digest = hashlib.sha256(path.name.encode()).hexdigest()
            blobs[path.name] = Blob(path, path.stat().st_size, digest, digest[:40], lfs=True)
        self._blobs = {blob.sha256: blob for blob in blobs.values()}
        self._repos[repo] = Repo(commits={COMMIT: blobs}, refs={"main": COMMIT})


@dataclass
class Remote:
    """What reading the headers of a repository took.

    Attributes:
        repository_bytes: All its files together.
        header_bytes: Their headers.
        sent_bytes: What the server handed to the network of these files' contents.
        seconds: For the whole call.
        requests: Of each shard, in order, how many requests went to where the bytes are.
        tensors: How many tensors were read.
    """

    repository_bytes: int
    header_bytes: int
    sent_bytes: int
    seconds: float
    requests: list[int]
    tensors: int


def read_remote(tokens: list[bytes]) -> Remote:
    """Read the headers of the repository over HTTP, with nothing in the cache, and count what was sent."""
    from kimi_nb.model import read_remote_header

    with tempfile.TemporaryDirectory() as folder, HollowHub() as hub:
        paths = write_repository(Path(folder), tokens)
        hub.publish_hollow("local/Kimi-GGUF", paths)
        kept = os.environ.get("HF_ENDPOINT")
        os.environ["HF_ENDPOINT"] = hub.endpoint
        try:
            start = time.perf_counter()
            model = read_remote_header("local/Kimi-GGUF", "UD-TQ1_0", use_cache=False)
            seconds = time.perf_counter() - start
        finally:
            del os.environ["HF_ENDPOINT"]
            if kept is not None:
                os.environ["HF_ENDPOINT"] = kept
        asked = [seen for seen in hub.seen if seen.host == "storage"]
        hashes = [hashlib.sha256(path.name.encode()).hexdigest() for path in paths]
        return Remote(
            repository_bytes=model.file_bytes,
            header_bytes=sum(shard.data_offset for shard in model.shards),
            sent_bytes=sum(seen.sent for seen in asked),
            seconds=seconds,
            requests=[sum(digest in seen.path for seen in asked) for digest in hashes],
            tensors=len(model.tensors),
        )


def show_remote(remote: Remote) -> bool:
    """Print the table of what reading over HTTP took; return whether the target is met."""
    size = (
        f"{len(remote.requests)} shards, {remote.repository_bytes / 1e9:.0f} GB, {remote.tensors:,} tensors"
    )
    print(f"over HTTP: {size}; {remote.seconds:.2f} s")
    print(f"{'bytes':<34}{'measured':>12}{'target':>14}{'ratio':>10}")
    print(f"{'the headers themselves':<34}{remote.header_bytes:>12,}{'-':>14}{1:>10.3f}")
    ratio = remote.sent_bytes / remote.header_bytes
    print(f"{'sent by the server':<34}{remote.sent_bytes:>12,}{f'< {MOST_SENT:.2f}x':>14}{ratio:>10.3f}")
    print(f"requests of each shard: {', '.join(map(str, remote.requests))}; the first of each at once")
    return ratio < MOST_SENT


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
    met = show_remote(read_remote(vocabulary(arguments.vocabulary)))
    return 0 if met and ratio >= TARGET_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
