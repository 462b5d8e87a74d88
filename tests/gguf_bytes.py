"""Write GGUF headers byte by byte, right or wrong, without any library; and damage them at random.

Run as a program, it reads mutated headers within a memory limit and prints what came of them as JSON.
"""

from __future__ import annotations

import json
import random
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

CODES = {
    "u8": 0,
    "i8": 1,
    "u16": 2,
    "i16": 3,
    "u32": 4,
    "i32": 5,
    "f32": 6,
    "bool": 7,
    "str": 8,
    "arr": 9,
    "u64": 10,
    "i64": 11,
    "f64": 12,
}
FORMATS = {
    "u8": "B",
    "i8": "b",
    "u16": "H",
    "i16": "h",
    "u32": "I",
    "i32": "i",
    "f32": "f",
    "bool": "?",
    "u64": "Q",
    "i64": "q",
    "f64": "d",
}


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def plain(kind: str, value) -> bytes:
    return string(value) if kind == "str" else struct.pack(f"<{FORMATS[kind]}", value)


def key(name: str | bytes, kind: str, value) -> bytes:
    """One metadata entry; ``arr[u32]`` makes an array."""
    start = string(name)
    if kind.startswith("arr["):
        item = kind[4:-1]
        body = struct.pack("<IIQ", CODES["arr"], CODES[item], len(value))
        return start + body + b"".join(plain(item, entry) for entry in value)
    return start + struct.pack("<I", CODES[kind]) + plain(kind, value)


def tensor(name: str | bytes, shape, kind: int, offset: int) -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def gguf(
    keys=(),
    tensors=(),
    *,
    data: int = 0,
    version: int = 3,
    n_keys=None,
    n_tensors=None,
    alignment: int = 32,
    magic: bytes = b"GGUF",
) -> bytes:
    """A whole file: ``data`` bytes of zeros stand for the weights."""
    head = magic + struct.pack("<I", version)
    head += struct.pack(
        "<QQ", len(tensors) if n_tensors is None else n_tensors, len(keys) if n_keys is None else n_keys
    )
    head += b"".join(keys) + b"".join(tensors)
    if tensors:
        head += b"\0" * (-len(head) % alignment)
    return head + b"\0" * data


def small_model(*, layers: int = 3, tokens: int = 40, extra=(), prefix: str = "") -> bytes:
    """A model with the keys and tensors that a deepseek2 file has, with tiny F32 weights."""
    a = "deepseek2"
    words = [f"t{n}" for n in range(tokens)]
    keys = [
        key("general.architecture", "str", a),
        key("general.name", "str", "small"),
        key("general.file_type", "u32", 10),
        key(f"{a}.block_count", "u32", layers),
        key(f"{a}.context_length", "u32", 4096),
        key(f"{a}.embedding_length", "u32", 64),
        key(f"{a}.attention.head_count", "u32", 4),
        key(f"{a}.attention.head_count_kv", "arr[u32]", [1] * layers),
        key(f"{a}.attention.key_length", "u32", 48),
        key(f"{a}.attention.key_length_mla", "u32", 24),
        key(f"{a}.attention.value_length_mla", "u32", 16),
        key(f"{a}.attention.kv_lora_rank", "u32", 32),
        key(f"{a}.rope.freq_base", "f32", 50000.0),
        key(f"{a}.expert_count", "u32", 8),
        key("tokenizer.ggml.tokens", "arr[str]", words),
        key("tokenizer.ggml.token_type", "arr[i32]", [1] * tokens),
        key("tokenizer.ggml.merges", "arr[str]", [f"{x} {x}" for x in words]),
        key("tokenizer.ggml.add_bos_token", "bool", value=False),
        key("tokenizer.chat_template", "str", "{% for m in messages %}{{ m.content }}{% endfor %}"),
        *extra,
    ]
    tensors, offset = [], 0
    for layer in range(layers):
        for name, shape in (("attn_norm", (64,)), ("attn_q_a", (16, 4)), ("ffn_down_exps", (8, 4, 2))):
            tensors.append(tensor(f"{prefix}blk.{layer}.{name}.weight", shape, 0, offset))
            n = 4
            for d in shape:
                n *= d
            offset += -(-n // 32) * 32
    return gguf(keys, tensors, data=offset)


EDGES = (
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**40,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 64,
    2**64 - 1,
    0,
    1,
    255,
    65536,
)


def mutate(original: bytes, chance: random.Random) -> bytes:
    """Damage a file in one to four ways."""
    data = bytearray(original)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        if not data:
            break
        at = chance.randrange(len(data))
        match chance.randrange(8):
            case 0 | 1:
                data[at] ^= 1 << chance.randrange(8)
            case 2:
                del data[at:]
            case 3 | 4:
                data[at : at + 8] = struct.pack("<Q", chance.choice(EDGES) & (2**64 - 1))
            case 5:
                data[at : at + 4] = struct.pack("<I", chance.choice(EDGES) & (2**32 - 1))
            case 6:
                data[at:at] = chance.randbytes(chance.randrange(1, 16))
            case 7:
                del data[at : at + chance.randrange(1, 16)]
    return bytes(data)


def main(count: int, seed: int) -> dict:
    """Read ``count`` mutants with at most 1 GiB of address space beyond what Python has now."""
    from kimi_nb.errors import ModelFileError
    from kimi_nb.model.gguf_header import read_header

    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    chance = random.Random(seed)
    small, middle = small_model(), small_model(tokens=40_000)
    outcome: Counter[str] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutant.gguf"
        for n in range(count):
            path.write_bytes(mutate(middle if n % 50 == 0 else small, chance))
            start = time.perf_counter()
            try:
                model = read_header(path)
                len(model.tensors), model.data_bytes, model.quant, model.name, repr(model)
                for value in model.metadata.values():
                    str(value)
                    if not isinstance(value, (str, int, float)):
                        list(value)
                outcome["valid"] += 1
            except ModelFileError as error:
                outcome[error.id] += 1
                if len(str(error)) > 600 or "\n" in str(error):
                    outcome["bad message"] += 1
            slowest = max(slowest, time.perf_counter() - start)
    return {"mutants": count, "slowest_s": slowest, "outcome": dict(outcome)}


def compare(folder_of_programs: str, count: int, seed: int) -> dict:
    """Ask llama.cpp's own reader and ours about the same mutants."""
    import ctypes

    from kimi_nb.errors import ModelFileError
    from kimi_nb.model.gguf_header import read_header

    class Params(ctypes.Structure):
        _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))

    (library,) = [
        found
        for ending in ("so", "dylib")
        for found in Path(folder_of_programs).glob(f"libggml-base.{ending}")
    ]
    ggml = ctypes.CDLL(str(library))
    ggml.gguf_init_from_file.restype = ctypes.c_void_p
    ggml.gguf_init_from_file.argtypes = (ctypes.c_char_p, Params)
    ggml.gguf_free.argtypes = (ctypes.c_void_p,)
    chance = random.Random(seed)
    small = small_model()
    both_take = both_refuse = 0
    only_we: list[str] = []
    only_llama: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutant.gguf"
        for _ in range(count):
            data = mutate(small, chance)
            path.write_bytes(data)
            context = ggml.gguf_init_from_file(str(path).encode(), Params(no_alloc=True, ctx=None))
            ggml.gguf_free(context)
            try:
                read_header(path, check_data=False)
                ours = None
            except ModelFileError as error:
                ours = error.id
            if context and ours:
                only_llama[ours] += 1
            elif ours:
                both_refuse += 1
            elif context:
                both_take += 1
            else:
                only_we.append(data[:400].hex())
    return {
        "mutants": count,
        "both_take": both_take,
        "both_refuse": both_refuse,
        "only_we_take": only_we,
        "only_llama_cpp_takes": dict(only_llama),
    }


if __name__ == "__main__":
    if sys.argv[1] == "--compare":
        print(json.dumps(compare(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
    else:
        print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]))))
