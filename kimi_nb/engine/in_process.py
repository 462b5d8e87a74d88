"""A model inside this process: for tokenising and short completions, without a server.

A crash in llama.cpp takes the process with it, so serving belongs to
:class:`~kimi_nb.engine.llama_server.LlamaServer`.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from kimi_nb.engine.binding import load_llama_cpp
from kimi_nb.errors import ModelFileError, UsageError
from kimi_nb.model.header_only import refuse_header_only

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimi_nb.engine.build import Build

__all__ = ["InProcess"]

# As in ggml.h; llama-cpp-python's own table of them is older.
_ERROR = 4
_CONTINUED = 5


class _Log:
    """Keeps llama.cpp's last complaints instead of printing what it says."""

    def __init__(self, binding: Any) -> None:
        self.errors: deque[str] = deque(maxlen=5)
        self._level = 0
        self._callback = binding.llama_log_callback(self._note)  # held here: llama.cpp keeps only its address
        binding.llama_log_set(self._callback, None)

    def _note(self, level: int, text: bytes, _user_data: object) -> None:
        self._level = self._level if level == _CONTINUED else level
        line = text.decode(errors="replace").strip()
        if self._level == _ERROR and line:
            self.errors.append(line)


_log: _Log | None = None


def _silenced(binding: Any) -> _Log:
    global _log  # noqa: PLW0603 - llama.cpp has one log a process
    if _log is None:
        _log = _Log(binding)
    return _log


class InProcess:
    """A GGUF model, loaded into this process by llama-cpp-python on our libraries.

    Use it as a context manager, or call :meth:`close`. It is for one thread at a time.

    Args:
        model: The GGUF file; of several shards, the first.
        n_ctx: Context length in tokens: prompt and completion together.
        n_threads: Threads to compute with; llama-cpp-python's choice when not given.
        n_gpu_layers: Layers to offload; -1 for all.
        build: The build of llama.cpp; ours when not given.

    Raises:
        UsageError: There is no such file (KNB230).
        ModelFileError: llama.cpp cannot load it (KNB231).
        BuildError: The binding cannot be used on the build.
    """

    def __init__(
        self,
        model: Path,
        *,
        n_ctx: int = 2048,
        n_threads: int | None = None,
        n_gpu_layers: int = 0,
        build: Build | None = None,
    ) -> None:
        model = Path(model)
        if not model.is_file():
            raise UsageError(
                "KNB230",
                f"there is no model file {model}",
                why="it is a folder" if model.is_dir() else "the path leads nowhere",
                fix="Name a .gguf file; kimi-nb nano makes a small one.",
            )
        refuse_header_only(model)
        binding = load_llama_cpp(build)
        log = _silenced(binding)
        log.errors.clear()
        try:
            self._llama: Any = binding.Llama(
                str(model),
                n_ctx=n_ctx,
                n_threads=n_threads,
                n_gpu_layers=n_gpu_layers,
                verbose=False,
            )
        except (ValueError, RuntimeError) as error:
            raise ModelFileError(
                "KNB231",
                f"llama.cpp cannot load {model}",
                why=log.errors[0] if log.errors else str(error),
                fix="Check the file, or make n_ctx smaller if memory is short.",
            ) from error
        self.n_ctx: int = self._llama.n_ctx()

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Return the token ids of ``text``; nothing is added in front.

        Args:
            text: Any text.
            special: Whether text such as ``<|im_end|>`` becomes that special token.
        """
        return list(self._loaded().tokenize(text.encode(), add_bos=False, special=special))

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text of token ids, special tokens included; bytes that are no UTF-8 become U+FFFD."""
        unknown = [token for token in tokens if not 0 <= token < self._loaded().n_vocab()]
        if unknown:
            raise UsageError(
                "KNB232",
                f"{unknown[0]} is not a token of this model",
                why=f"its ids run from 0 to {self._loaded().n_vocab() - 1}",
                fix="Use ids that tokenize gave.",
            )
        return bytes(self._loaded().detokenize(list(tokens), special=True)).decode(errors="replace")

    def complete(
        self, prompt: str | Sequence[int], *, max_tokens: int = 64, temperature: float = 0.0, seed: int = 0
    ) -> str:
        """Continue ``prompt`` as it stands: no chat template is applied.

        Args:
            prompt: Text, or token ids.
            max_tokens: The most tokens to make; fewer where the model stops or the context is full.
            temperature: 0 always takes the likeliest token.
            seed: With the same seed, prompt and machine the text is the same.

        Raises:
            UsageError: The prompt is empty or does not fit (KNB232).
        """
        llama = self._loaded()
        tokens = self.tokenize(prompt) if isinstance(prompt, str) else list(prompt)
        if not 0 < len(tokens) < self.n_ctx or max_tokens < 1:
            raise UsageError(
                "KNB232",
                f"cannot complete a prompt of {len(tokens)} tokens with {max_tokens} more",
                why=f"both must be at least 1, and the prompt less than the context, {self.n_ctx}",
                fix="Change the prompt, or make n_ctx larger.",
            )
        llama.reset()  # a reused prompt is computed in other batches, with slightly other numbers
        reply = llama.create_completion(tokens, max_tokens=max_tokens, temperature=temperature, seed=seed)
        return str(reply["choices"][0]["text"])

    def close(self) -> None:
        """Free the model's memory; calling it again does nothing."""
        if self._llama is not None:
            self._llama.close()
            self._llama = None

    def _loaded(self) -> Any:
        if self._llama is None:
            raise UsageError("KNB232", "this model is closed", why="close was called", fix="Load it again.")
        return self._llama

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
