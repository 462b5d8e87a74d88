"""nano's forward pass in PyTorch, equal to llama.cpp's ``deepseek2`` graph.

Parameters carry the GGUF tensors' names and shapes, so exporting is copying. The equality is measured
(``benchmarks/parity_nano.py``): the same file's logits from llama.cpp and from here, in 32 bits. Where a
comment names a file, it is llama.cpp's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name
from torch import Tensor, nn

if TYPE_CHECKING:
    from kimi_nb.nano.shape import NanoShape

__all__ = ["Network"]


def _key(name: str) -> str:
    """Return a tensor's name as PyTorch accepts it: no dots."""
    return name.replace(".", "/")


class Network(nn.Module):
    """All of nano's weights and its forward pass.

    Args:
        shape: The hyperparameters.
        seed: Seed of the first weights.
    """

    def __init__(self, shape: NanoShape, seed: int = 0) -> None:
        super().__init__()
        self.shape = shape
        generator = torch.Generator().manual_seed(seed)
        self.weights = nn.ParameterDict()
        for spec in shape.tensors():
            if spec.name.endswith("exp_probs_b.bias"):  # moved by the load of the experts, not by gradients
                self.register_buffer(_key(spec.name), torch.zeros(spec.shape))
                continue
            if not spec.fan_in:
                value = torch.ones(spec.shape)
            else:
                scale = 0.02 if spec.name == "token_embd.weight" else spec.fan_in**-0.5
                if "attn_output" in spec.name or "ffn_down" in spec.name:
                    scale /= math.sqrt(2 * shape.n_layer)
                value = torch.randn(spec.shape, generator=generator) * scale
            self.weights[_key(spec.name)] = nn.Parameter(value)
        self.register_buffer("angles", torch.tensor(shape.yarn_angles()), persistent=False)

    def tensor(self, name: str) -> Tensor:
        """Return the weight with the GGUF name ``name``."""
        key = _key(name)
        found = self.weights[key] if key in self.weights else getattr(self, key)
        assert isinstance(found, Tensor)  # noqa: S101 - for the type checker
        return found

    def forward(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits.

        Args:
            tokens: Token ids, ``[batch, time]``.
            positions: Position of each token within its own conversation, ``[batch, time]``.
            mask: Which earlier tokens each token may see, bool, ``[batch, 1, time, time]``.

        Returns:
            Logits ``[batch, time, vocabulary]`` and, for each layer with experts, the share of tokens that
            chose each expert, ``[layers, experts]``.
        """
        shape = self.shape
        angle = positions[..., None].float() * self.angles  # [batch, time, n_rot / 2]
        turn = torch.stack((angle.cos(), angle.sin()))
        x = F.embedding(tokens, self.tensor("token_embd.weight"))
        loads = []
        for layer in range(shape.n_layer):
            block = f"blk.{layer}"
            x = x + self._attention(block, self._norm(f"{block}.attn_norm", x), turn, mask)
            h = self._norm(f"{block}.ffn_norm", x)
            if layer < shape.n_layer_dense_lead:
                x = x + self._swiglu(block, "ffn_{}.weight", h)
            else:
                out, load = self._experts(block, h)
                loads.append(load)
                x = x + out + self._swiglu(block, "ffn_{}_shexp.weight", h)
        logits = self._norm("output_norm", x) @ self.tensor("output.weight").T
        return logits, torch.stack(loads)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.tensor(f"{name}.weight"), self.shape.rms_eps)

    def _swiglu(self, block: str, name: str, x: Tensor) -> Tensor:
        gate, up, down = (self.tensor(f"{block}.{name.format(part)}") for part in ("gate", "up", "down"))
        return (F.silu(x @ gate.T) * (x @ up.T)) @ down.T

    def _attention(self, block: str, x: Tensor, turn: Tensor, mask: Tensor) -> Tensor:
        shape = self.shape
        batch, time, _ = x.shape
        q = self._norm(f"{block}.attn_q_a_norm", x @ self.tensor(f"{block}.attn_q_a.weight").T)
        q = (q @ self.tensor(f"{block}.attn_q_b.weight").T).view(batch, time, shape.n_head, -1)
        q_nope, q_rot = q.split((shape.n_embd_head_nope, shape.n_rot), dim=-1)
        kv = x @ self.tensor(f"{block}.attn_kv_a_mqa.weight").T
        latent, k_rot = kv.split((shape.n_lora_kv, shape.n_rot), dim=-1)
        latent = self._norm(f"{block}.attn_kv_a_norm", latent)
        # Queries are taken into the latent space (deepseek2.cpp, "absorption"): one key for all heads.
        q_latent = torch.einsum("bthn,hln->bhtl", q_nope, self.tensor(f"{block}.attn_k_b.weight"))
        query = torch.cat((q_latent, _rotate(q_rot.transpose(1, 2), turn[:, :, None])), dim=-1)
        key = torch.cat((latent, _rotate(k_rot, turn)), dim=-1)
        mscale = 1 + 0.1 * (shape.yarn_log_mul / 0.1) * math.log(shape.rope_scaling_factor)
        scale = mscale**2 / math.sqrt(shape.n_embd_head_k)
        score = torch.einsum("bhtd,bsd->bhts", query, key) * scale
        score = score.float().masked_fill(~mask, float("-inf")).softmax(dim=-1).to(latent.dtype)
        seen = torch.einsum("bhts,bsl->bhtl", score, latent)
        value = torch.einsum("bhtl,hvl->bthv", seen, self.tensor(f"{block}.attn_v_b.weight"))
        return value.flatten(2) @ self.tensor(f"{block}.attn_output.weight").T

    def _experts(self, block: str, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = self.shape
        # The gate is 32-bit in the file and in llama.cpp; so it is here, also under autocast.
        with torch.autocast(x.device.type, enabled=False):
            chance = torch.sigmoid(x.float() @ self.tensor(f"{block}.ffn_gate_inp.weight").T)
            wanted = chance + self.tensor(f"{block}.exp_probs_b.bias")
            chosen = wanted.topk(shape.n_expert_used, dim=-1).indices
            picked = torch.zeros_like(chance).scatter(-1, chosen, 1.0)
            weight = chance * picked
            weight = weight / weight.sum(-1, keepdim=True).clamp(min=6.103515625e-5)
            weight = weight * shape.expert_weights_scale
        gate, up, down = (self.tensor(f"{block}.ffn_{part}_exps.weight") for part in ("gate", "up", "down"))
        out, load = torch.zeros_like(x), picked.mean((0, 1))
        if x.is_cuda:  # all experts, the unused with weight 0: ten small ones are sooner done than sorted
            hidden = F.silu(torch.einsum("btd,efd->btef", x, gate)) * torch.einsum("btd,efd->btef", x, up)
            return torch.einsum("btef,edf->btd", hidden * weight[..., None].to(hidden.dtype), down), load
        for number in range(shape.n_expert):  # each for its own tokens alone, a fifth of the work
            own = picked[..., number].nonzero(as_tuple=True)
            hidden = F.silu(x[own] @ gate[number].T) * (x[own] @ up[number].T)
            out[own] += hidden @ down[number].T * weight[..., number, None][own]
        return out, load


def _rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn neighbouring pairs (rope type NORM); ``turn`` holds cosines and sines."""
    cos, sin = turn.to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
