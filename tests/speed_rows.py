"""Speeds that others and we have seen, as data: what the forecast without a profile must contain.

Decode and prefill in tokens/s; a range where several runs differ. Ours were made with llama-bench on one
H200 with a full-size file of zeros whose router and embeddings were random. The others are reports, not
run again; a few are of engines that are faster or slower than llama.cpp, and only most of them need fit.
Left out is what does not say its quant, its cores or whether it fits (and what vendors claim).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from header_models import ORACLE_MODELS, ModelShape, kimi_types
from planning_machines import gpu, machine

if TYPE_CHECKING:
    from kimi_nb.machine import Machine

Range = tuple[float, float]

K2 = {
    "TQ1": ORACLE_MODELS["TQ1"],  # 212 GiB
    "Q2K": ORACLE_MODELS["Q2K"],
    "IQ2_KL": ModelShape(types=kimi_types("Q6_K", "Q3_K", "Q2_K", "Q6_K")),
    "IQ3_K": ModelShape(types=kimi_types("Q8_0", "Q4_K", "Q3_K", "Q8_0")),
    "Q4K": ORACLE_MODELS["Q4K"],
    "IQ4_NL": ModelShape(types=kimi_types("IQ4_NL", "IQ4_NL", "IQ4_NL", "IQ4_NL")),
}
DEEPSEEK = {"n_dense": 3, "n_expert": 256, "n_head": 128, "n_vocab": 129280, "context": 163840}
R1 = {
    "R1 IQ1_S": ModelShape(**DEEPSEEK, types=kimi_types("Q4_K", "IQ2_XXS", "IQ1_S", "Q4_K")),
    "R1 Q3": ModelShape(**DEEPSEEK, types=kimi_types("Q8_0", "Q4_K", "Q3_K", "Q8_0")),
    "R1 Q4": ModelShape(**DEEPSEEK, types=kimi_types("Q4_K", "Q5_K", "Q4_K", "Q4_K")),
    "R1 2.5 bits": ModelShape(**DEEPSEEK, types=kimi_types("Q4_K", "Q3_K", "IQ2_XXS", "Q4_K")),
}
MODELS = K2 | R1


@dataclass(frozen=True)
class Row:
    """One run."""

    name: str
    model: str
    machine: Machine
    settings: dict = field(default_factory=dict)
    decode: Range | None = None
    prefill: Range | None = None


H200 = machine(gpu(143771, 4814.3, free=143156, generation=5), cores=16, ram_gib=125)
_FULL = {"ctx_size": 4096, "load_mode": "none", "cache_ram": 0}
OURS = [
    Row(f"H200 -ncmoe {n} -t {t} -ub {u}", "TQ1", H200, {**_FULL, "n_cpu_moe": n, "threads": t, "ubatch_size": u}, (d, d), p and (p, p))
    for n, t, u, p, d in [
        (26, 16, 512, 862, 10.18),
        (26, 16, 2048, 1304, 10.31),
        (26, 8, 512, None, 7.80),
        (32, 16, 512, None, 8.78),
        (32, 8, 512, None, 5.70),
        (30, 16, 512, None, 9.56),
    ]
]  # fmt: skip

_LONG = {"ctx_size": 16384, "cache_ram": 0}
_BIG = {**_LONG, "ubatch_size": 4096, "batch_size": 4096}
_PRO = gpu(97887, 1792.0, generation=5)
THEIRS = [
    Row("EPYC 9965, CPU only, ik (PR 612), ub 512", "IQ2_KL", machine(cores=192, ram_gib=760), _LONG, (12.1, 14.0), (108, 174)),
    Row("EPYC 9965, CPU only, ik (PR 612), ub 4096", "IQ2_KL", machine(cores=192, ram_gib=760), _BIG, None, (238, 259)),
    Row("2 x EPYC 9355 and RTX PRO 6000 (llama.cpp 14642)", "Q4K", machine(_PRO, cores=64, sockets=2, ram_gib=1100), {**_BIG, "n_cpu_moe": 55}, (22.05, 22.05), (106, 106)),
    Row("EPYC 9175F, CPU only", "Q4K", machine(cores=16, ram_gib=760), _LONG, (10, 12)),
    Row("EPYC 9175F and 2 RTX PRO 6000, ik", "IQ3_K", machine(_PRO, _PRO, cores=16, ram_gib=760), {**_BIG, "n_cpu_moe": 42, "tensor_split": (52, 10)}, (17.9, 21), (223, 377)),
    Row("ARM, 96 cores, CPU only (ik 1258)", "IQ4_NL", machine(cores=96, ram_gib=800, features=("neon", "dotprod")), _LONG, (8.07, 8.07), (50.7, 88.9)),
    Row("GH200, K2.5 Q3 (ik 1298)", "IQ3_K", machine(gpu(97871, 4000, generation=5), cores=72, ram_gib=480, features=("neon", "dotprod")), {**_LONG, "n_cpu_moe": 51}, (16, 23)),
    Row("2 x Xeon 6454S, DeepSeek V3 Q4_K_M (KTransformers' comparison)", "R1 Q4", machine(gpu(24564, 1008), cores=64, sockets=2, ram_gib=1000), {**_LONG, "cpu_moe": True, "op_offload": False}, (4.5, 4.5), (10.3, 10.3)),
    Row("2 x EPYC 9135 and RTX 4090, R1 Q4 (KTransformers 797)", "R1 Q4", machine(gpu(24564, 1008), cores=32, sockets=2, ram_gib=1100), {**_LONG, "cpu_moe": True}, (17.3, 17.3)),
    Row("RTX 5090, 18 cores, R1 IQ1_S (ik 477)", "R1 IQ1_S", machine(gpu(32607, 1792, generation=5), cores=18, ram_gib=256), {**_LONG, "n_cpu_moe": 56}, (3.4, 3.4), (186, 186)),
    Row("9950X, 96 GB and RTX 3090 Ti, R1 2.5 bits (KTransformers 642)", "R1 2.5 bits", machine(gpu(24564, 1008), cores=16, ram_gib=92), {**_LONG, "cpu_moe": True}, (3, 3)),
    Row("EPYC 9654, RTX 3090, 8 layers on it, 12 threads, R1 IQ1_S (llama.cpp 11474)", "R1 IQ1_S", machine(gpu(24576, 936.1), cores=96, ram_gib=384), {**_LONG, "n_gpu_layers": 8, "threads": 12, "op_offload": False}, (3.3, 3.3), (4.9, 4.9)),
    Row("2 RTX PRO 6000, all on them, R1 IQ1_S (ik 477)", "R1 IQ1_S", machine(_PRO, _PRO, cores=32, ram_gib=256), _LONG, (42, 50), (450, 820)),
    Row("16 RTX 3090, all on them, R1 307 GiB (ik 263)", "R1 Q3", machine(*[gpu(24576, 936.1)] * 16, cores=32, ram_gib=256), _LONG, (17, 18), (180, 300)),
]  # fmt: skip
