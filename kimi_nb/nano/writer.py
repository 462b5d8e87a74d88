"""Write nano as a GGUF file, with every key llama.cpp's converter writes for a real Kimi K2.5.

Training uses the same writer: it hands over its own tensors, under the names and in the shapes of
:meth:`kimi_nb.nano.shape.NanoShape.tensors`. numpy and gguf are imported only when something is written.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from kimi_nb.errors import ModelFileError, UsageError
from kimi_nb.model.prompt import BOS, EOS, IM_END, PAD, UNK, chat_template
from kimi_nb.nano.shape import SHAPE, NanoShape
from kimi_nb.nano.vocab import vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from gguf import GGUFWriter

    Array = np.ndarray[Any, np.dtype[Any]]

__all__ = ["ABOUT_TRAINED", "ENCODINGS", "Array", "Encoding", "random_tensors", "write_gguf"]

Encoding = Literal["F32", "F16", "Q8_0"]
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)

ABOUT_TRAINED = {
    "description": "Kimi K2.5's architecture and prompt format at laptop size, trained on a small world",
    "author": "the kimi-nb authors",
}
"""``general.*`` texts of the trained file."""

_LOGIT_SPREAD = 3.0
"""Standard deviation of the random model's logits: text is then neither uniform nor always the same."""


def random_tensors(shape: NanoShape = SHAPE, seed: int = 0) -> Iterator[tuple[str, Array]]:
    """Yield every tensor by name with random float32 weights, scaled so that activations stay of order 1."""
    import numpy as np

    random = np.random.default_rng(seed)
    for spec in shape.tensors():
        if spec.name.endswith("exp_probs_b.bias"):
            yield spec.name, random.standard_normal(spec.shape, dtype=np.float32) * np.float32(0.01)
        elif not spec.fan_in:
            yield spec.name, np.ones(spec.shape, dtype=np.float32)
        else:
            scale = spec.fan_in**-0.5
            if spec.name.endswith(
                ("attn_output.weight", "ffn_down.weight", "ffn_down_exps.weight", "ffn_down_shexp.weight")
            ):
                scale /= (2 * shape.n_layer) ** 0.5  # each layer adds twice to the residual stream
            elif spec.name == "output.weight":
                scale *= _LOGIT_SPREAD
            yield spec.name, random.standard_normal(spec.shape, dtype=np.float32) * np.float32(scale)


def write_gguf(
    path: Path,
    tensors: Mapping[str, Array],
    shape: NanoShape = SHAPE,
    *,
    encoding: Encoding = "F16",
    about: Mapping[str, str] | None = None,
) -> None:
    """Write a GGUF file, whole or not at all; the same input gives the same bytes.

    Args:
        path: Where to write. Its folder must exist.
        tensors: Every tensor of ``shape`` by name, float32, in ``shape``'s dimensions.
        shape: The hyperparameters.
        encoding: How matrices are stored; vectors and the experts' gate stay F32, as in llama.cpp's
            converter.
        about: ``general.*`` texts (such as ``description``) that replace or join the usual ones.

    Raises:
        ModelFileError: If tensors are missing, too many, of the wrong size or not finite, or if the file
            cannot be written.
        UsageError: If the encoding is unknown.
    """
    if encoding not in ENCODINGS:
        raise UsageError(
            "KNB384",
            f"unknown encoding {encoding!r}",
            why="nano is written in one of three",
            fix=f"Use {', '.join(ENCODINGS)}.",
        )
    _check(tensors, shape)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            _write(temporary, tensors, shape, encoding, about or {})
            temporary.chmod(0o644)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ModelFileError(
            "KNB380",
            f"cannot write {path}",
            why=error.strerror or str(error),
            fix="Choose a folder with room that you may write to.",
        ) from error


def _check(tensors: Mapping[str, Array], shape: NanoShape) -> None:
    import numpy as np

    wanted = {spec.name: spec.shape for spec in shape.tensors()}
    faults = [f"{name} is missing" for name in wanted if name not in tensors]
    faults += [f"{name} is not part of the shape" for name in tensors if name not in wanted]
    for name, dimensions in wanted.items():
        if name in tensors and tuple(tensors[name].shape) != dimensions:
            faults.append(f"{name} is {tuple(tensors[name].shape)}, not {dimensions}")
        elif name in tensors and not np.isfinite(tensors[name]).all():
            faults.append(f"{name} holds values that are not finite")
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise ModelFileError(
            "KNB381",
            "these tensors do not make a nano",
            why=faults[0] + more,
            fix="Give every tensor that NanoShape.tensors() names, in its dimensions.",
        )


def _write(
    path: Path, tensors: Mapping[str, Array], shape: NanoShape, encoding: Encoding, about: Mapping[str, str]
) -> None:
    import gguf
    import numpy as np

    kind = gguf.GGMLQuantizationType[encoding]
    writer = gguf.GGUFWriter(None, "deepseek2")
    _add_general(writer, encoding, about)
    _add_shape(writer, shape)
    _add_tokenizer(writer)
    for spec in shape.tensors():
        values = np.ascontiguousarray(tensors[spec.name], dtype=np.float32)
        if spec.kept_f32 or encoding == "F32":
            writer.add_tensor(spec.name, values)
        else:
            writer.add_tensor(spec.name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    for file in writer.fout or ():
        file.flush()
        os.fsync(file.fileno())
    writer.close()


def _add_general(writer: GGUFWriter, encoding: Encoding, about: Mapping[str, str]) -> None:
    import gguf

    texts = {
        "type": "model",
        "name": "nano",
        "basename": "nano",
        "description": "Kimi K2.5's architecture and prompt format at laptop size, with random weights",
        "license": "apache-2.0",
        **about,
    }
    for key, value in texts.items():
        writer.add_string(f"general.{key}", value)
    writer.add_languages(["en", "zh", "ar"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(
        {
            "F32": gguf.LlamaFileType.ALL_F32,
            "F16": gguf.LlamaFileType.MOSTLY_F16,
            "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
        }[encoding]
    )


def _add_shape(writer: GGUFWriter, shape: NanoShape) -> None:
    import gguf

    writer.add_block_count(shape.n_layer)
    writer.add_context_length(shape.n_ctx_train)
    writer.add_embedding_length(shape.n_embd)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(1)  # MLA: all heads share the compressed keys
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(shape.rope_scaling_factor)
    writer.add_rope_scaling_orig_ctx_len(shape.n_ctx_orig_yarn)
    writer.add_rope_scaling_yarn_beta_fast(shape.yarn_beta_fast)
    writer.add_rope_scaling_yarn_beta_slow(shape.yarn_beta_slow)
    writer.add_rope_freq_base(shape.rope_freq_base)
    writer.add_layer_norm_rms_eps(shape.rms_eps)
    writer.add_expert_used_count(shape.n_expert_used)
    writer.add_expert_group_count(1)
    writer.add_expert_group_used_count(1)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_leading_dense_block_count(shape.n_layer_dense_lead)
    writer.add_vocab_size(shape.n_vocab)
    writer.add_q_lora_rank(shape.n_lora_q)
    writer.add_kv_lora_rank(shape.n_lora_kv)
    writer.add_key_length(shape.n_lora_kv + shape.n_rot)
    writer.add_value_length(shape.n_lora_kv)
    writer.add_key_length_mla(shape.n_embd_head_k)
    writer.add_value_length_mla(shape.n_embd_head_v)
    writer.add_expert_feed_forward_length(shape.n_ff_exp)
    writer.add_expert_count(shape.n_expert)
    writer.add_expert_shared_count(shape.n_expert_shared)
    writer.add_expert_weights_scale(shape.expert_weights_scale)
    writer.add_expert_weights_norm(value=True)
    writer.add_rope_dimension_count(shape.n_rot)
    writer.add_rope_scaling_yarn_log_mul(shape.yarn_log_mul)


def _add_tokenizer(writer: GGUFWriter) -> None:
    import gguf

    vocab = vocabulary()
    # The converter makes the whole special block control tokens, think and tool markers included;
    # llama-server shows those to its parser all the same, because the parser asks for them.
    special = len(vocab.tokens) - vocab.first_special
    types = [gguf.TokenType.NORMAL] * vocab.first_special + [gguf.TokenType.CONTROL] * special
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("kimi-k2")
    writer.add_token_list(list(vocab.tokens))
    writer.add_token_types(types)
    writer.add_token_merges([f"{left} {right}" for left, right in vocab.merges])
    writer.add_bos_token_id(vocab.id(BOS))
    writer.add_eos_token_id(vocab.id(EOS))
    # Not in Kimi's file, where llama.cpp finds the end of a turn by its name; saying it makes the choice
    # certain.
    writer.add_eot_token_id(vocab.id(IM_END))
    writer.add_unk_token_id(vocab.id(UNK))
    writer.add_pad_token_id(vocab.id(PAD))
    writer.add_chat_template(chat_template())
