"""A chat request as a program that sends it: curl, Python or JavaScript, the key left in the environment."""

from __future__ import annotations

import json
import pprint
import shlex
from typing import TYPE_CHECKING, Any

from kimi_nb.chat.failures import shown_address
from kimi_nb.engine.secrets_out import environment_secrets, redactor

if TYPE_CHECKING:
    from kimi_nb.chat.request import ChatRequest

__all__ = ["LANGUAGES", "as_program"]

LANGUAGES = ("curl", "Python", "JavaScript")

# What the openai package takes by name; the rest goes through its extra_body.
_NAMED = ("model", "messages", "tools", "tool_choice", "max_tokens", "temperature", "top_p", "seed", "stream")

_PYTHON = """\
import os

from openai import OpenAI

client = OpenAI(base_url={url!r}, api_key={key})
stream = client.chat.completions.create(
{fields}
)
for chunk in stream:
    delta = chunk.choices[0].delta if chunk.choices else None
    print(getattr(delta, "reasoning_content", None) or getattr(delta, "content", None) or "", end="")
"""

_JAVASCRIPT = """\
// Node 18 or newer; as a file, call it chat.mjs
const response = await fetch({url}, {{
  method: "POST",
  headers: {{ "Content-Type": "application/json"{key} }},
  body: JSON.stringify({body}),
}});
if (!response.ok) throw new Error(await response.text());
const decoder = new TextDecoder();
let rest = "";
for await (const piece of response.body) {{
  rest += decoder.decode(piece, {{ stream: true }});
  const lines = rest.split("\\n");
  rest = lines.pop();
  for (const line of lines) {{
    if (!line.startsWith("data: ") || line.startsWith("data: [DONE]")) continue;
    const delta = JSON.parse(line.slice(6)).choices?.[0]?.delta;
    process.stdout.write(delta?.reasoning_content ?? delta?.content ?? "");
  }}
}}
"""


def as_program(request: ChatRequest, language: str, *, key_env: str) -> str:
    """Return a program that sends ``request`` and prints the answer while it comes.

    Args:
        request: What is to be sent, exactly as the client would.
        language: One of :data:`LANGUAGES`.
        key_env: The variable of the environment that is to hold the engine's key; empty if it needs none.
            The key itself, and any secret of our own environment, is left out.
    """
    hide = redactor(environment_secrets() | {request.engine.api_key})
    body: dict[str, Any] = json.loads(hide(request.body.decode()))
    url = shown_address(request.engine).rstrip("/")
    return {"curl": _curl, "Python": _python, "JavaScript": _javascript}[language](url, body, key_env)


def _curl(url: str, body: dict[str, Any], key_env: str) -> str:
    data = shlex.quote(json.dumps(body, ensure_ascii=False))
    rest = (
        f"curl {'--config - ' if key_env else ''}--no-buffer \\\n"
        f"  {shlex.quote(url + '/chat/completions')} \\\n"
        f'  -H "Content-Type: application/json" \\\n  -d {data}\n'
    )
    if not key_env:
        return rest
    # -H "Authorization: ..." would show the key in the list of processes; printf is built into the shell.
    return f"""printf 'header = "Authorization: Bearer %s"' "${key_env}" | {rest}"""


def _python(url: str, body: dict[str, Any], key_env: str) -> str:
    fields = {name: body[name] for name in _NAMED if name in body}
    extra = {name: value for name, value in body.items() if name not in {*_NAMED, "stream_options"}}
    if extra:
        fields["extra_body"] = extra
    lines = []
    for name, value in fields.items():
        text = pprint.pformat(value, width=100, sort_dicts=False).replace("\n", "\n    ")
        lines.append(f"    {name}={text},")
    key = f'os.environ["{key_env}"]' if key_env else '"none"'
    code = _PYTHON.format(url=url, key=key, fields="\n".join(lines))
    return code if key_env else code.removeprefix("import os\n\n")


def _javascript(url: str, body: dict[str, Any], key_env: str) -> str:
    key = f", Authorization: `Bearer ${{process.env.{key_env}}}`" if key_env else ""
    data = json.dumps(body, ensure_ascii=False, indent=2).replace("\n", "\n  ")
    return _JAVASCRIPT.format(url=json.dumps(f"{url}/chat/completions"), key=key, body=data)
