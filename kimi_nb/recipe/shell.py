"""A shell script that fetches a planned model and serves it with llama.cpp's own program."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_nb.engine.server_command import command
from kimi_nb.shell_words import by_option

if TYPE_CHECKING:
    from kimi_nb.plan import Plan

__all__ = ["shell_script"]

PORT = 8080
"""llama-server's own."""

_KEY = """\
# The key: yours, if LLAMA_API_KEY is set; else one that is made once and kept where only you can read it.
# It goes through the environment, since everybody on a machine can read command lines.
if [ -z "${LLAMA_API_KEY:-}" ]; then
  key_file="${XDG_CONFIG_HOME:-$HOME/.config}/kimi-nb/llama-server.key"
  if [ ! -s "$key_file" ]; then
    mkdir -p "$(dirname "$key_file")"
    od -An -N32 -tx1 /dev/urandom | tr -d ' \\n' > "$key_file"
  fi
  LLAMA_API_KEY="$(cat "$key_file")"
fi
export LLAMA_API_KEY
"""


def shell_script(plan: Plan, *, port: int = PORT) -> str:
    """Return a script for ``sh`` that runs a plan until it is stopped.

    It needs llama-server on the path, or named in ``LLAMA_SERVER``, and the model, named in ``MODEL`` or
    downloaded with ``kimi-nb download``. What a plan holds is quoted, so no name in it can become a command.

    Args:
        plan: What to run.
        port: Where it listens, on 127.0.0.1.
    """
    model, forecast = plan.model, plan.forecast
    words = command(
        Path("llama-server"),
        Path(model.file),
        alias=model.key or Path(model.file).stem,
        port=port,
        settings=plan.settings,
        extra_args=(),
    )
    # The first three are the program, --model and the file, which the script finds by itself.
    options = " \\\n  ".join(by_option(map(shlex.quote, words[3:])))
    about = [
        f"{model.title} on {plan.machine}, planned for {plan.objective}.",
        *(f"{gpu.name}: {gpu.needed_mib / 1024:.1f} GiB are needed." for gpu in plan.memory.gpus),
        f"Main memory: {plan.memory.host.needed_mib / 1024:.1f} GiB are needed.",
        f"Tokens/s, {forecast.source}: {forecast.decode_tok_s} written, {forecast.prefill_tok_s} read.",
        *plan.warnings,
    ]
    comments = "\n".join(f"# {line}" for text in about for line in text.splitlines())
    return f"""\
#!/bin/sh
{comments}
set -eu
umask 077

# llama.cpp's server; `kimi-nb build` makes it and prints its folder.
llama_server="${{LLAMA_SERVER:-llama-server}}"
{_finding(plan)}
{_KEY}
exec "$llama_server" --model "$model" \\
  {options}
"""


def _finding(plan: Plan) -> str:
    """Return the lines that set ``model``."""
    model = plan.model
    if model.key is not None and model.repo is not None:
        what = f"--model {shlex.quote(model.key)} --quant {shlex.quote(model.quant)}"
        name = shlex.quote(f"{model.repo}:{model.quant}")
        return f"""\
# The first of the model's files. A download that was stopped continues, and one that is whole costs nothing.
if [ -z "${{MODEL:-}}" ]; then
  kimi-nb download {what}
  MODEL="$(kimi-nb models path {name})"
fi
model="$MODEL"
"""
    return f"""\
# The model's file, or the first of several.
model="${{MODEL:-}}"
[ -n "$model" ] || model={shlex.quote(model.file)}
"""
