"""nano's shape: Kimi K2.5's architecture at laptop size.

Kimi K2.5 is what llama.cpp calls ``deepseek2``: multi-head latent attention (MLA), a first dense layer, then
layers of experts chosen by a sigmoid gate with a bias, one shared expert beside them, and YaRN for long
contexts. nano has every one of these parts, so whatever works on it exercises the same code paths as the full
model.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["SHAPE", "NanoShape", "TensorSpec"]


@dataclass(frozen=True)
class TensorSpec:
    """One weight tensor.

    Args:
        name: Its name in the GGUF file.
        shape: Its shape as numpy and PyTorch say it, outermost first; a GGUF header lists it the other way
            round.
        fan_in: How many inputs one of its outputs sums over: 0 for norms and biases.
    """

    name: str
    shape: tuple[int, ...]
    fan_in: int

    @property
    def elements(self) -> int:
        """Return the number of weights."""
        return math.prod(self.shape)

    @property
    def kept_f32(self) -> bool:
        """Say whether the tensor stays in 32 bits whatever the file's type, as in llama.cpp's converter."""
        return len(self.shape) < 2 or self.name.endswith("ffn_gate_inp.weight")  # noqa: PLR2004 - vectors


@dataclass(frozen=True)
class NanoShape:
    """The hyperparameters; each is named as llama.cpp names it, and notes what Kimi K2.5 has."""

    n_vocab: int = 3072
    """Kimi: 163,840."""
    n_ctx_train: int = 32768
    """Kimi: 262,144; for both it is the YaRN factor times the original context."""
    n_embd: int = 256
    """Kimi: 7,168."""
    n_layer: int = 6
    """Kimi: 61."""
    n_layer_dense_lead: int = 1
    """Layers before the first one with experts. Kimi: 1."""
    n_head: int = 4
    """Kimi: 64."""
    n_lora_q: int = 256
    """Rank of the compressed queries. Kimi: 1,536."""
    n_lora_kv: int = 256
    """Rank of the compressed keys and values, which is what the KV cache holds. Kimi: 512."""
    n_embd_head_nope: int = 256
    """Width of a head's part without position. Kimi: 128; 256 lets attn_k_b's rows take every quant."""
    n_rot: int = 64
    """Width of a head's part with rotary position. Kimi: 64."""
    n_embd_head_v: int = 64
    """Width of a head's value. Kimi: 128."""
    n_ff: int = 768
    """Width of the dense layer. Kimi: 18,432."""
    n_ff_exp: int = 256
    """Width of one expert. Kimi: 2,048."""
    n_expert: int = 10
    """Kimi: 384. Not 8: llama-quantize treats models of exactly eight experts in a way of its own."""
    n_expert_used: int = 2
    """Kimi: 8."""
    n_expert_shared: int = 1
    """Kimi: 1."""
    expert_weights_scale: float = 1.414
    """What the chosen experts' weights, summing to 1, are scaled by: the root of their count. Kimi: 2.827."""
    rms_eps: float = 1e-5
    rope_freq_base: float = 50000.0
    rope_scaling_factor: float = 8.0
    """Kimi: 64."""
    n_ctx_orig_yarn: int = 4096
    yarn_beta_fast: float = 32.0
    yarn_beta_slow: float = 1.0
    yarn_log_mul: float = 0.1
    """0.1 times Kimi's ``mscale_all_dim`` of 1, which is how llama.cpp's converter writes it."""

    @property
    def n_embd_head_k(self) -> int:
        """Return the width of one head's query and key before compression."""
        return self.n_embd_head_nope + self.n_rot

    @property
    def cache_bytes_per_token(self) -> int:
        """Return what one token takes in an f16 KV cache: MLA stores the compressed keys only."""
        return self.n_layer * (self.n_lora_kv + self.n_rot) * 2

    @property
    def n_params(self) -> int:
        """Return the number of weights."""
        return sum(spec.elements for spec in self.tensors())

    @property
    def n_params_active(self) -> int:
        """Return the number of weights one token passes through; of the embedding that is one row."""
        idle = self.n_expert - self.n_expert_used
        experts = 3 * self.n_embd * self.n_ff_exp * idle * (self.n_layer - self.n_layer_dense_lead)
        return self.n_params - experts - (self.n_vocab - 1) * self.n_embd

    def yarn_angles(self) -> list[float]:
        """Return by how much each rotary pair turns from one position to the next (ggml: rope_yarn).

        YaRN's magnitude factor cancels for models with ``yarn_log_mul`` (llama-context.cpp): only angles
        change.
        """

        def dim(turns: float) -> float:
            ratio = self.n_ctx_orig_yarn / (turns * 2 * math.pi)
            return self.n_rot * math.log(ratio) / (2 * math.log(self.rope_freq_base))

        low = max(0.0, math.floor(dim(self.yarn_beta_fast)))
        high = min(self.n_rot - 1.0, math.ceil(dim(self.yarn_beta_slow)))
        angles = []
        for pair in range(self.n_rot // 2):
            fast = self.rope_freq_base ** (-2 * pair / self.n_rot)
            ramp = 1 - min(1.0, max(0.0, (pair - low) / max(0.001, high - low)))
            angles.append(fast / self.rope_scaling_factor * (1 - ramp) + fast * ramp)
        return angles

    def as_dict(self) -> dict[str, Any]:
        """Return the hyperparameters as plain data."""
        return asdict(self)

    def tensors(self) -> list[TensorSpec]:
        """Return every tensor in the file's order."""
        specs = [TensorSpec("token_embd.weight", (self.n_vocab, self.n_embd), 1)]
        for layer in range(self.n_layer):
            specs += self._attention(f"blk.{layer}")
            dense = layer < self.n_layer_dense_lead
            specs += self._dense(f"blk.{layer}") if dense else self._experts(f"blk.{layer}")
        specs.append(TensorSpec("output_norm.weight", (self.n_embd,), 0))
        specs.append(TensorSpec("output.weight", (self.n_vocab, self.n_embd), self.n_embd))
        return specs

    def _attention(self, block: str) -> list[TensorSpec]:
        heads, latent, embd = self.n_head, self.n_lora_kv, self.n_embd
        return [
            TensorSpec(f"{block}.attn_norm.weight", (embd,), 0),
            TensorSpec(f"{block}.attn_q_a.weight", (self.n_lora_q, embd), embd),
            TensorSpec(f"{block}.attn_q_a_norm.weight", (self.n_lora_q,), 0),
            TensorSpec(
                f"{block}.attn_q_b.weight", (heads * self.n_embd_head_k, self.n_lora_q), self.n_lora_q
            ),
            TensorSpec(f"{block}.attn_kv_a_mqa.weight", (latent + self.n_rot, embd), embd),
            TensorSpec(f"{block}.attn_kv_a_norm.weight", (latent,), 0),
            # The two halves of kv_b, as the converter splits them; the first is transposed, so that a query
            # can be taken into the latent space and compared with the cache directly.
            TensorSpec(f"{block}.attn_k_b.weight", (heads, latent, self.n_embd_head_nope), latent),
            TensorSpec(f"{block}.attn_v_b.weight", (heads, self.n_embd_head_v, latent), latent),
            TensorSpec(
                f"{block}.attn_output.weight", (embd, heads * self.n_embd_head_v), heads * self.n_embd_head_v
            ),
            TensorSpec(f"{block}.ffn_norm.weight", (embd,), 0),
        ]

    def _dense(self, block: str) -> list[TensorSpec]:
        return [
            TensorSpec(f"{block}.ffn_gate.weight", (self.n_ff, self.n_embd), self.n_embd),
            TensorSpec(f"{block}.ffn_up.weight", (self.n_ff, self.n_embd), self.n_embd),
            TensorSpec(f"{block}.ffn_down.weight", (self.n_embd, self.n_ff), self.n_ff),
        ]

    def _experts(self, block: str) -> list[TensorSpec]:
        count, embd, width = self.n_expert, self.n_embd, self.n_ff_exp
        shared = width * self.n_expert_shared
        return [
            TensorSpec(f"{block}.ffn_gate_inp.weight", (count, embd), embd),
            TensorSpec(f"{block}.exp_probs_b.bias", (count,), 0),
            TensorSpec(f"{block}.ffn_gate_exps.weight", (count, width, embd), embd),
            TensorSpec(f"{block}.ffn_up_exps.weight", (count, width, embd), embd),
            TensorSpec(f"{block}.ffn_down_exps.weight", (count, embd, width), width),
            TensorSpec(f"{block}.ffn_gate_shexp.weight", (shared, embd), embd),
            TensorSpec(f"{block}.ffn_up_shexp.weight", (shared, embd), embd),
            TensorSpec(f"{block}.ffn_down_shexp.weight", (embd, shared), shared),
        ]


SHAPE = NanoShape()
"""The shape of the nano that this package makes, and trains."""
