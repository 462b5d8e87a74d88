# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5. Serving: let other programs talk to the model
#
# Notebook 4 asked questions from Python. Most programs (editors, chat windows, agents) want an address to talk to instead. This notebook starts **llama-server**, looks at what it does and where its key is, talks to it with the plain openai package, and stops it again.
#
# The server here runs nano. Serving Kimi K2.5 is the same, with a larger file and more patience: loading 240 GB takes minutes.
#
# ## Contents
#
# - [Parameters](#Parameters)
# - [Start a server, and watch it come up](#Start-a-server,-and-watch-it-come-up)
# - [Where the key is, and where it is not](#Where-the-key-is,-and-where-it-is-not)
# - [What the server says](#What-the-server-says)
# - [Talk to it with the openai package](#Talk-to-it-with-the-openai-package)
# - [From other languages](#From-other-languages)
# - [Slots: two requests at once](#Slots:-two-requests-at-once)
# - [Figures](#Figures)
# - [Stop it, even in the middle of an answer](#Stop-it,-even-in-the-middle-of-an-answer)
# - [What survives, and what does not](#What-survives,-and-what-does-not)
# - [Copy-paste recipe](#Copy-paste-recipe)
#
# ## Parameters
#
# With a `model_file` of your own, set `n_cpu_moe` as well if the model does not fit into GPU memory: it keeps the experts of that many layers in RAM. Or name a `plan_file` that was saved in the plan panel of notebook 2 or by `kimi-nb plan --save`: then the server runs what was planned, and the parameters before it are not used. With an `engine_url`, the part that talks with the openai package talks to that engine instead: a llama-server, vLLM, or Moonshot's API. The server of this notebook is started all the same.

# %% tags=["parameters"]
model_file: str = ""  # a GGUF file to serve (of several shards, the first); empty: nano
ctx: int = 2048  # context in tokens of one request: prompt, thinking and answer together
parallel: int = 2  # slots: how many requests are answered at the same time
n_cpu_moe: int = 0  # keep the experts of so many layers in RAM; Kimi K2.5 has 61 layers
plan_file: str = ""  # a saved plan to serve instead: it names the model and all settings
engine_url: str = ""  # another engine to talk to, up to and with /v1; empty: our own server
engine_key_env: str = "ENGINE_API_KEY"  # the variable of the environment that holds its key, if it needs one
engine_model: str = ""  # the model's name at that engine; empty: the first that it names

# %%
from kimi_nb.run import params

params.check(
    model_file=params.existing_file(empty=True),
    ctx=params.between(512, 262144),
    parallel=params.between(2, 16),
    n_cpu_moe=params.between(0, 61),
    plan_file=params.existing_file(empty=True),
    engine_url=params.text(),
    engine_key_env=params.text(empty=False),
    engine_model=params.text(),
)

# %%
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import openai
import psutil

from kimi_nb.chat.reach import engine_at, read_key
from kimi_nb.engine import LlamaServer
from kimi_nb.engine.planned import planned
from kimi_nb.nano import nano_path
from kimi_nb.plan import Settings
from kimi_nb.tables import texts

# %% [markdown]
# ## Start a server, and watch it come up
#
# A `LlamaServer` object describes the server; nothing runs yet. Each slot gets `ctx` tokens of context, so llama-server is given `ctx` times `parallel` in all.

# %%
begun = time.monotonic()


def say(text, fraction):
    done = "" if fraction is None else f" ({fraction:.0%})"
    print(f"{time.monotonic() - begun:6.2f} s  {text}{done}")


settings = Settings(
    ctx_size=ctx * parallel,
    parallel=parallel,
    n_cpu_moe=n_cpu_moe or None,
    threads=None if model_file else 1,  # nano is so small that one thread runs it fastest
)
if plan_file:
    model_file, settings = planned(Path(plan_file))
path = Path(model_file) if model_file not in {"", "nano"} else nano_path()
server = LlamaServer(path, alias="nano" if path == nano_path() else None, settings=settings, on_progress=say)
print(server)

# %% [markdown]
# `start` returns when the server is **ready**. That is more than an open port: while a model loads, llama-server already answers, but only to say that it is loading. Ready means here that it is healthy, that it serves the right model, and that it has answered a first small request.

# %%
begun = time.monotonic()
server.start()
print(server)

# %% [markdown]
# nano is loaded before there is anything to tell. While 240 GB are read, the cell above shows how far it is; the time limit is on silence, not on loading, since a slow disk may take half an hour.
#
# The states are `stopped`, `starting`, `ready`, `degraded` (it runs but no longer answers), `stopping` and `failed`. If it fails, `server.error` says why in one line.
#
# ## Where the key is, and where it is not
#
# The server listens on 127.0.0.1, so only programs on this machine reach it. Other people may use this machine too, so it also asks for a **key**, which was made just for it. Anybody can see the command line of every process with `ps`; so the key is not there. It was handed over in the server's environment, which only you can read.

# %%
command = psutil.Process(server.pid).cmdline()
print("command line: llama-server", *command[1:])
print()
print("is the key on it?    ", server.api_key in " ".join(command))
print("is it in the log?    ", server.api_key in "\n".join(server.log_tail(4000)))
print("is it in what prints?", server.api_key in f"{server!r} {server.engine!r}")

# %% [markdown]
# Without the key, or with a wrong one, there is no answer. Only the health check is open to everybody.

# %%
root = server.base_url.removesuffix("/v1")
hello = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8}

# A proxy that may be named in the environment must not see what goes to this machine itself.
with httpx2.Client(trust_env=False, timeout=60) as web:
    tries = [
        ("GET /health, no key", web.get(f"{root}/health")),
        ("POST /v1/chat/completions, no key", web.post(f"{root}/v1/chat/completions", json=hello)),
        (
            "POST /v1/chat/completions, a wrong key",
            web.post(f"{root}/v1/chat/completions", json=hello, headers={"Authorization": "Bearer wrong"}),
        ),
        (
            "POST /v1/chat/completions, the key",
            web.post(
                f"{root}/v1/chat/completions",
                json=hello,
                headers={"Authorization": f"Bearer {server.api_key}"},
            ),
        ),
    ]

texts(["request", "status", "begins with"], [(what, got.status_code, got.text[:70]) for what, got in tries])

# %% [markdown]
# Do not print the key in a notebook: outputs are saved, and get shared. To choose it yourself, put it into an environment variable and pass `api_key=os.environ["MY_KEY"]`.
#
# ## What the server says
#
# llama-server writes a log. Ours goes to a file, with secrets taken out, and its newest lines are kept at hand. If something goes wrong, this is where to look first.

# %%
print("the log is", server.log_path.name, "in the cache folder of kimi-nb; its newest lines:\n")
for line in server.log_tail(6):
    print(line)

# %% [markdown]
# ## Talk to it with the openai package
#
# Everything that speaks OpenAI's chat format can use this server: give it the base URL, the key, and the model's name. Here is the openai package with nothing of ours around it. One setting is worth knowing: it repeats failed requests on its own, and with a large model a repeated answer costs minutes, so we turn that off.

# %%
if engine_url:
    key = read_key(engine_key_env, None) if engine_key_env in os.environ else ""
    engine = engine_at(engine_url, key, model=engine_model or None)
else:
    engine = server.engine


def openai_client(to):
    # A proxy that may be named in the environment must not see what goes to this machine itself.
    web = openai.DefaultHttpxClient(trust_env="//127.0.0.1:" not in to.base_url)
    return openai.OpenAI(base_url=to.base_url, api_key=to.api_key or "none", max_retries=0, http_client=web)


# For a steady demonstration; Kimi wants 1.0 when thinking and 0.6 in instant mode, and Moonshot's API no temperature.
steadily = {} if engine.kind == "moonshot" else {"temperature": 0}

with openai_client(engine) as client:
    print("models:", [model.id for model in client.models.list()])
    stream = client.chat.completions.create(
        model=engine.model,
        messages=[{"role": "user", "content": "What is llama.cpp?"}],
        max_tokens=200,
        stream=True,
        **steadily,
    )
    for chunk in stream:
        delta = chunk.choices[0].delta if chunk.choices else None
        print(getattr(delta, "reasoning_content", None) or getattr(delta, "content", None) or "", end="")
        if delta is not None and chunk.choices[0].finish_reason:
            print(f"\n(ended: {chunk.choices[0].finish_reason})")

# %% [markdown]
# The thinking came first and ran straight into the answer, because we printed both. The openai package has no name for the thinking: it is in the extra field `reasoning_content`. `kimi_nb.chat.Chat` of notebook 4 keeps the two apart, and switches the modes.
#
# ## From other languages
#
# The next cell prints two ways to ask this very server, to copy into a terminal. Both take the key from the environment variable `LLAMA_API_KEY`. The first looks odd for a reason: `-H "Authorization: ..."` would put the key on curl's command line, where `ps` shows it. `printf` is built into the shell and starts no process.

# %%
body = '{"messages": [{"role": "user", "content": "Hello!"}]}'
print(
    f"""# shell
printf 'header = "Authorization: Bearer %s"' "$LLAMA_API_KEY" | curl --config - \\
  {server.base_url}/chat/completions \\
  -H "Content-Type: application/json" -d '{body}'

// JavaScript (Node 18 or newer)
const reply = await fetch("{server.base_url}/chat/completions", {{
  method: "POST",
  headers: {{
    "Content-Type": "application/json",
    "Authorization": `Bearer ${{process.env.LLAMA_API_KEY}}`,
  }},
  body: JSON.stringify({body}),
}});
console.log((await reply.json()).choices[0].message.content);"""
)

# %% [markdown]
# ## Slots: two requests at once
#
# A **slot** answers one request at a time and has its own part of the context. Two slots answer two people at once; a third waits. Here one request runs alone, then two run together, while we look at the slots. The requests forbid the model to end, so that there is something to see.


# %%
client = openai_client(server.engine)


def write(tokens):
    """Let the model write so many tokens, and return the seconds it took."""
    start = time.monotonic()
    client.chat.completions.create(
        model=server.alias,
        messages=[{"role": "user", "content": "Hello!"}],
        max_tokens=tokens,
        extra_body={"ignore_eos": True},
    )
    return time.monotonic() - start


tokens = 400
alone = write(tokens)
with ThreadPoolExecutor(2) as people:
    start = time.monotonic()
    asked = [people.submit(write, tokens) for _ in range(2)]
    time.sleep(alone / 3)
    slots = [(slot["id"], slot["n_ctx"], slot["is_processing"]) for slot in server.slots()]
    each = [one.result() for one in asked]
    together = time.monotonic() - start

texts(["slot", "its context in tokens", "busy"], slots, "While two requests ran")

# %%
print(f"one request alone: {tokens} tokens in {alone:.2f} s, {tokens / alone:.0f} tokens/s")
print(
    f"two at once:       {2 * tokens} tokens in {together:.2f} s, {2 * tokens / together:.0f} tokens/s in all"
)

# %% [markdown]
# These times hold the whole request, prompt included. Two at once often give more tokens in all, and fewer to each. For a model like Kimi, whose experts lie in RAM, the gain is small: two requests mostly need different experts, so both must be read from memory. And every slot takes context: 70,272 bytes a token for Kimi K2.5, so 1.1 GiB for 16k tokens.
#
# ## Figures
#
# The server counts what it does. `metrics` reads its counters; monitoring programs such as Prometheus read the same from `/metrics`.

# %%
metrics = server.metrics()
meaning = {
    "prompt_tokens_total": "tokens of prompts it had to compute",
    "tokens_predicted_total": "tokens it wrote",
    "prompt_tokens_seconds": "prompt tokens a second, on average",
    "predicted_tokens_seconds": "written tokens a second, on average",
    "requests_processing": "requests being answered now",
    "requests_deferred": "requests that wait for a slot",
}
texts(["counter", "means", "value"], [(name, text, f"{metrics[name]:g}") for name, text in meaning.items()])

# %% [markdown]
# ## Stop it, even in the middle of an answer
#
# Left to itself, llama-server does not end while somebody is still connected: a half-read stream keeps it, and its memory, alive. `stop` asks politely first, then firmly, and checks that the process is gone. Here it is stopped while an answer is being written.


# %%
def read_on():
    """Read a long answer, and say how it ended."""
    got = 0
    try:
        for _ in client.chat.completions.create(
            model=server.alias,
            messages=[{"role": "user", "content": "Hello!"}],
            max_tokens=100_000,
            stream=True,
            extra_body={"ignore_eos": True},
        ):
            got += 1
    except (openai.OpenAIError, httpx2.HTTPError) as error:
        return f"{got} pieces arrived, then: {type(error).__name__}"
    return f"{got} pieces arrived, then the stream ended"


pid, address = server.pid, server.base_url
with ThreadPoolExecutor(1) as people:
    reader = people.submit(read_on)
    time.sleep(0.3)
    begun = time.monotonic()
    server.stop(grace_s=1)
    stopped = time.monotonic() - begun
    print("the reader:", reader.result())

client.close()
print(f"stopped after {stopped:.1f} s: {server}")
print("process", pid, "is", "still there" if psutil.pid_exists(pid) else "gone")

# %% [markdown]
# ## What survives, and what does not
#
# A server that a notebook starts belongs to the notebook. It ends with the kernel, however the kernel ends: restarted, crashed, or killed by the system when memory ran out. Nothing is left that holds 240 GB of RAM. To show it, the next cell starts another Python, which starts a server, and then kills that Python without any warning (`kill -9`).

# %%
other = """
import sys
from kimi_nb.chat.reach import engine_at, read_key
from kimi_nb.engine import LlamaServer
from kimi_nb.nano import nano_path
from kimi_nb.plan import Settings

server = LlamaServer(nano_path(), settings=Settings(ctx_size=512, threads=1)).start()
print(server.pid, flush=True)
sys.stdin.read()
"""
with subprocess.Popen([sys.executable, "-c", other], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
    orphan = psutil.Process(int(owner.stdout.readline()))
    print(f"Python is process {owner.pid}, its server is process {orphan.pid}")
    owner.kill()

begun = time.monotonic()
orphan.wait(timeout=30)
print(f"Python was killed; its server was gone {time.monotonic() - begun:.1f} s later")

# %% [markdown]
# | what happens | a server of a notebook | `kimi-nb serve` | `kimi-nb serve --detach` |
# |---|---|---|---|
# | the notebook is closed or its kernel restarted | ends | goes on | goes on |
# | the terminal is closed | goes on | ends | goes on |
# | `kimi-nb serve stop` | goes on | ends | ends |
# | the machine restarts | gone | gone | gone |
#
# So, for a server that other programs rely on, use the command line, and this notebook for looking. `kimi-nb serve status` lists the servers that the command line started, and `kimi-nb serve logs` shows what they say.
#
# ## Copy-paste recipe
#
# Serve Kimi K2.5 with kimi-nb, in a terminal. It makes the key, keeps it in a file that only you can read, and says where:
#
# ```sh
# kimi-nb serve --detach --name kimi --alias kimi-k2.5 \
#   --model "$(kimi-nb models path UD-TQ1_0)" \
#   --ctx-size 32768 --parallel 1 --n-gpu-layers 99 --n-cpu-moe 61
# kimi-nb chat "Hello!" --server kimi
# kimi-nb serve logs --name kimi
# kimi-nb serve stop --name kimi
# ```
#
# The same with llama-server alone (`kimi-nb build` says in which folder it lies):
#
# ```sh
# export LLAMA_API_KEY="$(openssl rand -hex 32)"
# llama-server \
#   -m "$(kimi-nb models path UD-TQ1_0)" \
#   --alias kimi-k2.5 --host 127.0.0.1 --port 8080 \
#   -c 32768 -np 1 -ngl 99 --n-cpu-moe 61 --load-mode mmap \
#   --temp 1.0 --top-p 0.95 --min-p 0.01 --metrics
# ```
#
# - The key comes from `LLAMA_API_KEY`, or from a file with `--api-key-file FILE`; `--api-key KEY` would show it in `ps`. Keep `--host 127.0.0.1`: with `0.0.0.0` everybody who reaches your machine can try.
# - `--n-cpu-moe 61` keeps the experts of all layers in RAM. Make it smaller until GPU memory is full; leave it out when the whole model fits.
# - `--load-mode mmap` reads the file as it is needed. With enough free RAM for the whole model, `--load-mode none` is often faster. The old `--no-mmap` is gone and stops the server with an error.
# - Never add `--special`, which some guides do: it puts `<|im_end|>` into answers and breaks tool calls.
# - `kimi-nb recipe --plan kimi.json` writes such a script for a plan that `kimi-nb plan --save` or the plan panel made: it downloads what is missing, makes the key once, and starts llama-server with every setting of the plan.
# - For a server that never thinks, add `--chat-template-kwargs '{"thinking": false}' --temp 0.6`.
#
# vLLM serves the original weights (595 GB) on 8 H200 GPUs, for many people at once:
#
# ```sh
# export VLLM_API_KEY="$(openssl rand -hex 32)"
# vllm serve moonshotai/Kimi-K2.5 --host 127.0.0.1 --port 8000 \
#   --tensor-parallel-size 8 --mm-encoder-tp-mode data \
#   --tool-call-parser kimi_k2 --enable-auto-tool-choice \
#   --reasoning-parser kimi_k2 --trust-remote-code
# ```
#
# Notebooks 4 and 6 talk to either of them: give them the address as `engine_url` and the variable's name as `engine_key_env`.
