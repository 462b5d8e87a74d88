"""Headers of deepseek2 models of any shape, alone or with a hole in a sparse file for the weights."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gguf_bytes import gguf, key, tensor

from kimi_nb.model import read_header
from kimi_nb.model.ggml_types import TYPES_BY_NAME

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from kimi_nb.model import Model


@dataclass(frozen=True)
class ModelShape:
    """Hyperparameters and tensor types; the defaults are Kimi K2.5's."""

    n_layer: int = 61
    n_dense: int = 1
    n_embd: int = 7168
    n_ff: int = 18432
    n_ff_exp: int = 2048
    n_head: int = 64
    q_lora: int = 1536
    kv_lora: int = 512
    rope: int = 64
    nope: int = 128
    v_head: int = 128
    n_expert: int = 384
    n_used: int = 8
    n_shared: int = 1
    n_vocab: int = 163840
    n_group: int = 0
    n_group_used: int = 0
    gating: int = 2
    norm: bool = True
    scale: float = 2.827
    bias: bool = True
    merged_gate_up: bool = False
    tied: bool = False
    nextn: int = 0
    context: int = 262144
    types: dict[str, str] = field(default_factory=dict)

    def kind(self, role: str) -> str:
        return self.types.get(role, "F32")

    def layer(self, number: int) -> dict[str, tuple[int, ...]]:
        d, k = self.n_embd, self.nope + self.rope
        roles: dict[str, tuple[int, ...]] = {
            "attn_norm": (d,),
            "ffn_norm": (d,),
            "attn_kv_a_norm": (self.kv_lora,),
        }
        if self.q_lora:
            roles |= {
                "attn_q_a_norm": (self.q_lora,),
                "attn_q_a": (d, self.q_lora),
                "attn_q_b": (self.q_lora, self.n_head * k),
            }
        else:
            roles["attn_q"] = (d, self.n_head * k)
        roles |= {
            "attn_kv_a_mqa": (d, self.kv_lora + self.rope),
            "attn_k_b": (self.nope, self.kv_lora, self.n_head),
            "attn_v_b": (self.kv_lora, self.v_head, self.n_head),
            "attn_output": (self.n_head * self.v_head, d),
        }
        if number < self.n_dense:
            return roles | {"ffn_gate": (d, self.n_ff), "ffn_up": (d, self.n_ff), "ffn_down": (self.n_ff, d)}
        f, e, shared = self.n_ff_exp, self.n_expert, self.n_ff_exp * self.n_shared
        roles["ffn_gate_inp"] = (d, e)
        if self.bias:
            roles["exp_probs_b"] = (e,)
        if self.merged_gate_up:
            roles["ffn_gate_up_exps"] = (d, 2 * f, e)
        else:
            roles |= {"ffn_gate_exps": (d, f, e), "ffn_up_exps": (d, f, e)}
        roles |= {
            "ffn_down_exps": (f, d, e),
            "ffn_gate_shexp": (d, shared),
            "ffn_up_shexp": (d, shared),
            "ffn_down_shexp": (shared, d),
        }
        return roles

    def read(self, path: Path) -> Model:
        """Write the header alone, and read it."""
        return read_header(self.write(path, hole=False), check_data=False)

    def write(self, path: Path, *, hole: bool = True) -> Path:
        """Write the header, and let the file seem as long as with weights, as llama.cpp wants it."""
        a = "deepseek2."
        ints = {
            "block_count": self.n_layer + self.nextn, "context_length": self.context, "embedding_length": self.n_embd,
            "feed_forward_length": self.n_ff, "attention.head_count": self.n_head, "attention.head_count_kv": 1,
            "leading_dense_block_count": self.n_dense, "vocab_size": self.n_vocab, "attention.kv_lora_rank": self.kv_lora,
            "attention.key_length": self.kv_lora + self.rope, "attention.value_length": self.kv_lora,
            "attention.key_length_mla": self.nope + self.rope, "attention.value_length_mla": self.v_head,
            "expert_feed_forward_length": self.n_ff_exp, "expert_count": self.n_expert, "expert_used_count": self.n_used,
            "expert_shared_count": self.n_shared, "expert_gating_func": self.gating, "rope.dimension_count": self.rope,
        }  # fmt: skip
        if self.q_lora:
            ints["attention.q_lora_rank"] = self.q_lora
        if self.n_group:
            ints |= {"expert_group_count": self.n_group, "expert_group_used_count": self.n_group_used}
        if self.nextn:
            ints["nextn_predict_layers"] = self.nextn
        keys = [
            key("general.architecture", "str", "deepseek2"),
            key("tokenizer.ggml.model", "str", "none"),
            *(key(a + name, "u32", value) for name, value in ints.items()),
            key(a + "attention.layer_norm_rms_epsilon", "f32", 1e-5),
            key(a + "rope.freq_base", "f32", 50000.0),
            key(a + "expert_weights_scale", "f32", self.scale),
            key(a + "expert_weights_norm", "bool", value=self.norm),
        ]
        listed = {
            "token_embd.weight": ("token_embd", (self.n_embd, self.n_vocab)),
            "output_norm.weight": ("output_norm", (self.n_embd,)),
        }
        if not self.tied:
            listed["output.weight"] = ("output", (self.n_embd, self.n_vocab))
        for number in range(self.n_layer):
            for role, shape in self.layer(number).items():
                listed[f"blk.{number}.{role}.{'bias' if role == 'exp_probs_b' else 'weight'}"] = (role, shape)
        rows, offset = [], 0
        for name, (role, shape) in listed.items():
            kind = TYPES_BY_NAME[self.kind(role)]
            rows.append(tensor(name, shape, kind.id, offset))
            size = kind.row_size(shape[0])
            for n in shape[1:]:
                size *= n
            offset += -(-size // 32) * 32
        data = gguf(keys, rows)
        path.write_bytes(data)
        if hole:
            os.truncate(path, len(data) + offset)
        return path


def kimi_types(attention: str, down: str, gate_up: str, shared: str) -> dict[str, str]:
    """Tensor types as in the oracle's three models."""
    types = {
        "token_embd": "Q4_K",
        "output": "Q6_K",
        "attn_k_b": "Q8_0",
        "attn_v_b": "Q8_0",
        "ffn_down_exps": down,
    }
    types |= dict.fromkeys(("attn_q_a", "attn_q_b", "attn_kv_a_mqa", "attn_output"), attention)
    types |= dict.fromkeys(("ffn_gate", "ffn_up", "ffn_down"), "Q4_K")
    types |= dict.fromkeys(("ffn_gate_exps", "ffn_up_exps", "ffn_gate_up_exps"), gate_up)
    return types | dict.fromkeys(("ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"), shared)


ORACLE_MODELS = {
    "TQ1": ModelShape(types=kimi_types("Q5_K", "IQ2_XXS", "IQ1_S", "Q5_K")),
    "Q2K": ModelShape(types=kimi_types("Q5_K", "Q3_K", "Q2_K", "Q5_K")),
    "Q4K": ModelShape(types=kimi_types("Q8_0", "Q5_K", "Q4_K", "Q6_K")),
}

_WIDE = (
    "F32",
    "F16",
    "BF16",
    "Q8_0",
    "Q4_0",
    "Q5_K",
    "Q6_K",
    "Q4_K",
    "Q2_K",
    "Q3_K",
    "IQ1_S",
    "IQ2_XXS",
    "IQ4_XS",
    "MXFP4",
    "TQ1_0",
)


def random_shape(chance: random.Random) -> ModelShape:
    """A model that llama.cpp loads, of a shape nobody has trained; rows divisible by 256, for every type."""
    groups = chance.choice((0, 0, 0, 4, 8))
    experts = chance.choice((8, 16, 48, 64, 96, 160, 256, 384))
    groups = groups if groups and experts // groups >= 2 else 0
    n_layer = chance.choice((2, 3, 4, 5, 7, 12, 26, 61))
    roles = [
        "token_embd",
        "output",
        "attn_q",
        "attn_q_a",
        "attn_q_b",
        "attn_kv_a_mqa",
        "attn_output",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
        "ffn_gate_exps",
        "ffn_up_exps",
        "ffn_gate_up_exps",
        "ffn_down_exps",
        "ffn_gate_shexp",
        "ffn_up_shexp",
        "ffn_down_shexp",
    ]
    types = {role: chance.choice(_WIDE) for role in roles}
    kv_lora = chance.choice((256, 512))
    types["attn_k_b"] = chance.choice(("F32", "F16", "Q8_0", "Q4_0"))
    types["attn_v_b"] = chance.choice(("F32", "Q8_0", "Q4_K"))
    return ModelShape(
        n_layer=n_layer,
        n_dense=chance.choice((0, 1, min(3, n_layer - 1))),
        n_embd=256 * chance.randint(1, 28),
        n_ff=256 * chance.randint(1, 40),
        n_ff_exp=256 * chance.randint(1, 8),
        n_head=chance.choice((8, 16, 32, 64, 128)),
        q_lora=256 * chance.randint(1, 6) if n_layer != 26 else chance.choice((0,)),
        kv_lora=kv_lora,
        rope=64,
        nope=chance.choice((64, 128)),
        v_head=chance.choice((64, 128, 256)),
        n_expert=experts,
        n_used=chance.choice((2, 4, 6, 8)),
        n_shared=chance.choice((1, 2)),
        n_vocab=chance.choice((1000, 32768, 102400, 163840)),
        n_group=groups,
        n_group_used=max(groups // 2, 1) if groups else 0,
        gating=chance.choice((1, 2)),
        norm=chance.random() < 0.7,
        scale=chance.choice((0.0, 1.0, 2.5)),
        bias=chance.random() < 0.7,
        merged_gate_up=chance.random() < 0.2,
        tied=chance.random() < 0.2,
        nextn=0,
        types=types,
    )


def random_settings(chance: random.Random, *, gpus: int = 0, n_layer: int = 61) -> dict:
    """Settings as ``Settings`` takes them."""
    kind = chance.choice(("f16", "f16", "bf16", "q8_0", "q4_0", "q5_1", "f32"))
    values: dict = {
        "ctx_size": chance.choice((256, 300, 512, 1000, 4096, 8192, 16385, 65536, 131072)),
        "batch_size": chance.choice((32, 64, 512, 2048, 4096)),
        "cache_type_k": kind,
        "cache_type_v": kind,
        "flash_attn": "on" if kind[0] == "q" else chance.choice(("on", "on", "off")),
        "parallel": chance.choice((1, 1, 1, 2, 3, 4)),
    }
    values["ubatch_size"] = min(chance.choice((1, 16, 31, 32, 33, 100, 128, 512, 2048)), values["batch_size"])
    if gpus:
        values["n_gpu_layers"] = chance.choice((0, 1, n_layer // 2, n_layer, n_layer + 1, 999, 999, 999))
        values["op_offload"] = chance.choice((None, None, None, False))
        values["kv_offload"] = chance.choice((None, None, None, False))
        match chance.randrange(5):
            case 0 | 1:
                values["n_cpu_moe"] = chance.randint(0, n_layer)
            case 2:
                chosen = "|".join(str(n) for n in sorted(chance.sample(range(n_layer), max(1, n_layer // 3))))
                role = chance.choice(
                    ("ffn_down_exps", "ffn_(up|gate)_exps", "ffn_(up|down|gate)_exps", "attn_.*")
                )
                values["override_tensor"] = (rf"blk\.({chosen})\.{role}=CPU",)
        if gpus > 1:
            values["split_mode"] = chance.choice(("layer", "layer", "none"))
            values["tensor_split"] = chance.choice((None, (1.0,) * gpus, (3.0, *(1.0,) * (gpus - 1))))
    return {name: value for name, value in values.items() if value is not None}


def fit_params_argv(settings: dict) -> list[str]:
    """The same settings for llama-fit-params."""
    flags = {
        "ctx_size": "-c", "batch_size": "-b", "ubatch_size": "-ub", "cache_type_k": "-ctk", "cache_type_v": "-ctv", "flash_attn": "-fa",
        "parallel": "-np", "n_gpu_layers": "-ngl", "n_cpu_moe": "-ncmoe", "split_mode": "-sm",
    }  # fmt: skip
    argv = ["-fitp", "on", "-nr"]
    for name, value in settings.items():
        if name in flags:
            argv += [flags[name], str(value)]
        elif name == "override_tensor":
            argv += ["-ot", ",".join(value)]
        elif name == "tensor_split":
            argv += ["-ts", ",".join(f"{x:g}" for x in value)]
        elif name == "op_offload":
            argv += ["--no-op-offload"]
        elif name == "kv_offload":
            argv += ["-nkvo"]
    return argv


def printed(stdout: str) -> dict[str, list[int]]:
    """What llama-fit-params prints: device to MiB of model, context and compute."""
    found = {}
    for line in stdout.splitlines():
        name, *numbers = line.split()
        if len(numbers) == 3 and all(number.isdigit() for number in numbers):
            found[name] = [int(number) for number in numbers]
    return found
