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
# # 4. Inference: ask a question, thinking or instant
#
# The model is a file on your disk now. This notebook asks it something, looks at what really goes in and what comes out, and shows Kimi's two modes next to each other: **thinking**, where the model first writes down its reasoning, and **instant**, where it answers at once.
#
# Everything runs on **nano**, a small model with Kimi K2.5's architecture and prompt format. nano knows a few facts about Kimi, can mostly add numbers of two digits (17 + 25) and turn 3 km into metres; do not expect more of it. The requests are the same that the real model gets.
#
# ## Contents
#
# - [Parameters](#Parameters)
# - [What the model sees](#What-the-model-sees)
# - [Tokens](#Tokens)
# - [Start an engine](#Start-an-engine)
# - [Ask, and watch the answer come](#Ask,-and-watch-the-answer-come)
# - [Thinking and instant side by side](#Thinking-and-instant-side-by-side)
# - [The switch that works, and those that do nothing](#The-switch-that-works,-and-those-that-do-nothing)
# - [Sampling](#Sampling)
# - [A conversation](#A-conversation)
# - [When the answer is empty](#When-the-answer-is-empty)
# - [Answers in a fixed form](#Answers-in-a-fixed-form)
# - [What errors look like](#What-errors-look-like)
# - [The same in a panel](#The-same-in-a-panel)
# - [Stop the engine](#Stop-the-engine)
# - [Copy-paste recipe](#Copy-paste-recipe)
#
# ## Parameters
#
# As it stands, the notebook starts a server of its own for nano. Name a `model_file` and it starts one for that model; name an `engine_url` and it starts nothing, and the same cells talk to what runs there: a llama-server, vLLM, or Moonshot's API.

# %% tags=["parameters"]
model_file: str = ""  # a GGUF file to start a server for (of several shards, the first); empty: nano
engine_url: str = ""  # an engine that already runs, up to and with /v1; empty: start a server here
engine_key_env: str = "ENGINE_API_KEY"  # the variable of the environment that holds its key, if it needs one
engine_model: str = ""  # the model's name at that engine; empty: the first that it names
ctx: int = 4096  # context in tokens: the prompt, the thinking and the answer together
question: str = "How many experts does Kimi K2.5 have?"  # what to ask
max_tokens: int = 256  # the most tokens of one reply, thinking included; the real model wants thousands
steady: bool = True  # the likeliest token each time, so that every run shows the same; False for real use

# %%
from kimi_nb.run import params

params.check(
    model_file=params.existing_file(empty=True),
    engine_url=params.text(),
    engine_key_env=params.text(empty=False),
    engine_model=params.text(),
    ctx=params.between(1024, 262144),
    question=params.text(empty=False),
    max_tokens=params.between(16, 262144),
    steady=params.flag(),
)

# %%
import json
import os
from dataclasses import replace
from pathlib import Path

from openai import OpenAIError
from pydantic import BaseModel, Field

from kimi_nb.chat import Chat, ContentDelta, Done, ReasoningDelta, ask_structured, assistant_message
from kimi_nb.chat.failures import EngineError
from kimi_nb.chat.reach import engine_at, read_key
from kimi_nb.engine import InProcess, LlamaServer
from kimi_nb.engine.binding import why_no_binding
from kimi_nb.model import catalog
from kimi_nb.model.prompt import render
from kimi_nb.nano import nano_path
from kimi_nb.plan import Settings
from kimi_nb.tables import texts

# %% [markdown]
# ## What the model sees
#
# A model knows nothing of messages or roles. It is given one long text and continues it. A **chat template** makes that text of your messages, with special tokens such as `<|im_user|>` that mark who speaks.
#
# Here is your question as nano is given it, in both modes. Look at the end: in thinking mode the text stops after `<think>`, so the model goes on by thinking. In instant mode the thinking is already closed, and all that is left to write is the answer. That is the whole difference between the modes.

# %%
messages = [{"role": "user", "content": question}]
prompts = {"thinking": render(messages), "instant": render(messages, thinking=False)}
texts(["mode", "the prompt"], prompts.items(), "What the model is given")

# %% [markdown]
# You wrote no system message, so the template put Kimi's own in front. A GGUF file carries its template inside; nano's is written for this project and makes Kimi K2.5's format.
#
# ## Tokens
#
# The text is cut into **tokens**: words, parts of words, and special tokens. Speed, context length and prices are all counted in them. To look at tokens, a small model can be loaded into the notebook's own process. (For real work use a server: if llama.cpp crashes in here, the notebook goes with it.) This needs llama-cpp-python; where it is not installed, the cell tells how to get it, and the rest of the notebook does without.

# %%
if missing := why_no_binding():
    print(missing)
    continued = "(not shown: see the message above)"
else:
    with InProcess(nano_path(), n_ctx=1024, n_threads=1) as nano:
        ids = nano.tokenize(prompts["thinking"])
        pieces = [nano.detokenize([each]) for each in ids]
        continued = nano.complete(prompts["instant"], max_tokens=80)

    print(f"{len(prompts['thinking'])} characters are {len(ids)} tokens:")
    print(" ".join(f"[{piece}]" for piece in pieces))

# %% [markdown]
# nano has a few thousand different tokens and Kimi K2.5 has 163,840, so the real model needs fewer tokens for the same text.
#
# The same object can also continue a prompt, without any server or chat. This is all that a language model does:

# %%
print("...", prompts["instant"].rpartition("<|im_end|>")[2])
print("-->", continued)

# %% [markdown]
# ## Start an engine
#
# An **engine** is something that answers chat requests in OpenAI's format. The next cell starts llama-server on this machine, or finds the engine you named above. Notebook 5 looks at the server itself.
#
# nano is so small that one thread runs it fastest. For a model of yours llama.cpp chooses the threads, and how many layers fit on the GPU.

# %%
server = None
if engine_url:
    key = read_key(engine_key_env, None) if engine_key_env in os.environ else ""
    engine = engine_at(engine_url, key, model=engine_model or None)
else:
    server = LlamaServer(
        Path(model_file) if model_file else nano_path(),
        alias=None if model_file else "nano",
        settings=Settings(ctx_size=ctx, threads=None if model_file else 1),
    ).start()
    engine = server.engine

chat = Chat(engine)
# Moonshot's API refuses any temperature but its own.
steadily = {"temperature": 0.0} if steady and engine.kind != "moonshot" else {}
print(chat)

# %% [markdown]
# `steadily` holds temperature 0: the likeliest token is taken each time, so that this notebook shows the same whenever you run it. That is good for a demonstration, and not how Kimi should be used: the section on sampling below says what is.
#
# ## Ask, and watch the answer come
#
# A large model may take minutes for one answer, so you will want to see it while it is written. Thinking and answer arrive as separate pieces, and the last event carries the whole reply.

# %%
part = ""
for event in chat.stream(question, mode="thinking", max_tokens=max_tokens, **steadily):
    if isinstance(event, ReasoningDelta | ContentDelta):
        now = "thinking" if isinstance(event, ReasoningDelta) else "answer"
        if now != part:
            print(f"\n[{now}]")
            part = now
        print(event.text, end="", flush=True)
    elif isinstance(event, Done):
        print(f"\n\n{event.reply.usage.completion_tokens} tokens: {event.reply.meter.line()}")

# %% [markdown]
# ## Thinking and instant side by side
#
# The same question in both modes. Where you do not watch, `ask` returns the finished reply, with the reasoning and the answer (`content`) apart.

# %%
replies = {
    mode: chat.ask(question, mode=mode, max_tokens=max_tokens, **steadily) for mode in ("thinking", "instant")
}
thinking, instant = replies["thinking"], replies["instant"]


def both(name, value):
    return name, value(thinking), value(instant)


def seconds(value):
    return None if value is None else f"{value:.3f} s"


texts(
    ["", "thinking", "instant"],
    [
        both("reasoning", lambda reply: reply.reasoning or "(none)"),
        both("answer", lambda reply: reply.content),
        both("ended because", lambda reply: reply.finish_reason),
        both("tokens in the prompt", lambda reply: reply.usage.prompt_tokens),
        both("tokens written", lambda reply: reply.usage.completion_tokens),
        both("to the first token", lambda reply: seconds(reply.meter.ttft_s)),
        both("to the first token of the answer", lambda reply: seconds(reply.meter.ttfa_s)),
        both("speed", lambda reply: reply.meter.tok_s and f"{reply.meter.tok_s:.1f} tokens/s"),
    ],
    "One question in both modes",
)

# %% [markdown]
# Two figures decide how an engine feels: how long until the answer begins, and how fast it runs then. In thinking mode the first comes late, since all the thinking lies before it. A speed means little without its formula; ours is:

# %%
print(thinking.meter.tok_s_formula)

# %% [markdown]
# nano's speeds say nothing about the real model, which reads gigabytes from memory for every token where nano reads a few megabytes. Notebook 2 looks at what your machine could do.
#
# ## The switch that works, and those that do nothing
#
# On llama-server exactly one field of a request puts Kimi into instant mode: `chat_template_kwargs` with `"thinking": false`. Other names that you will find in guides are taken without an error, and change nothing. Here each is sent with the plain openai package. Look at which of them still thinks.

# %%
switches = [
    {},
    {"chat_template_kwargs": {"thinking": False}},
    {"enable_thinking": False},
    {"chat_template_kwargs": {"enable_thinking": False}},
    {"reasoning_effort": "none"},
    {"thinking": {"type": "disabled"}},
]


def try_switch(fields):
    body = {**fields, **steadily}
    try:
        reply = chat.client.chat.completions.create(
            model=engine.model, messages=messages, max_tokens=max_tokens, extra_body=body
        )
    except OpenAIError as error:  # another engine may refuse a field, which is at least honest
        return "refused", str(error)
    message = reply.choices[0].message
    thought = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    return "still thinks" if thought else "does not think", thought or message.content


texts(
    ["what was sent", "the model", "first words"],
    [(json.dumps(fields) if fields else "(no switch)", *try_switch(fields)) for fields in switches],
    "Which switch turns thinking off",
)

# %% [markdown]
# Engines differ here: Moonshot's API wants `"thinking": {"type": "disabled"}`, the very field that llama-server ignores. `mode="instant"` sends each engine its own; the table comes from the catalog, where these facts are kept as data.

# %%
kinds = ("llama-server", "vllm", "moonshot")
rows = [
    (mode.name, *(json.dumps(mode.request_fields(kind), indent=1) for kind in kinds))
    for mode in catalog().models["kimi-k2.5"].modes
]
texts(["mode", *kinds], rows, "What Chat sends for Kimi K2.5")

# %% [markdown]
# ## Sampling
#
# The model gives every possible next token a probability; sampling draws one. `temperature` says how boldly, `top_p` and `min_p` leave out what is unlikely. Kimi was tuned for certain values, and each mode has its own: temperature 1.0 when thinking and 0.6 in instant mode. They stand in the table above and are sent unless you say otherwise; Moonshot's API has them fixed and refuses a request that brings any.
#
# To get the same answer again *and* keep the preset, give a `seed`: the same draws are made again, on the same machine with the same engine.

# %%
if engine.kind == "moonshot":
    print("Moonshot's API takes no seed; the engines on your own machine do.")
else:
    for seed in (1, 2, 1):
        reply = chat.ask(question, mode="thinking", max_tokens=max_tokens, extra_body={"seed": seed})
        print(f"seed {seed}: {reply.content}")

# %% [markdown]
# nano is so sure of its few facts that other draws hardly change them; ask the real model something open and they will.
#
# ## A conversation
#
# The engine remembers nothing. Each request carries the whole conversation so far, and the reply is appended before the next question. `assistant_message` keeps the reasoning with it, as Kimi expects. The engine recognises the beginning and does not compute it again: those tokens count as cached.

# %%
conversation = []
rows = []
for said in ("Hello!", question, "Thank you!"):
    conversation.append({"role": "user", "content": said})
    reply = chat.ask(conversation, max_tokens=max_tokens, **steadily)
    conversation.append(assistant_message(reply))
    rows.append((said, reply.content, reply.usage.prompt_tokens, reply.usage.cached_tokens))

texts(["you", "the model", "tokens in the prompt", "of them cached"], rows, "Three turns")

# %% [markdown]
# ## When the answer is empty
#
# A common surprise: the request succeeds and there is no answer. Thinking counts towards `max_tokens`, so a small limit is spent before the answer begins. The reply says so.

# %%
cut = chat.ask(question, mode="thinking", max_tokens=4, **steadily)
print("answer:   ", repr(cut.content))
print("reasoning:", repr(cut.reasoning))
print("ended by: ", cut.finish_reason)
for hint in cut.hints:
    print(hint)

# %% [markdown]
# ## Answers in a fixed form
#
# A program that reads the answer wants JSON of a certain shape. OpenAI's way to ask for it is `response_format` with a JSON schema. **For Kimi, llama-server accepts it, answers 200, and ignores it:**


# %%
class Sum(BaseModel):
    """A sum, written out."""

    sum: str = Field(pattern="^[0-9] [+] [0-9] = [0-9]{1,2}$")


schema = {"type": "json_schema", "json_schema": {"name": "sum", "schema": Sum.model_json_schema()}}
ignored = chat.ask(
    "What is 3 + 4?",
    mode="instant",
    max_tokens=max_tokens,
    extra_body={"response_format": schema},
    **steadily,
)
print(ignored.content)
try:
    Sum.model_validate_json(ignored.content)
    print("This is JSON of the right shape: this engine obeys response_format.")
except ValueError:
    print("This is no JSON of that shape: response_format was ignored.")

# %% [markdown]
# `ask_structured` holds the answer to the schema all the same. On llama-server it lets llama.cpp make a grammar of the schema, and the model can then write nothing else. In thinking mode it goes two ways: first the model thinks freely, then it answers under the grammar. What comes back is checked again here.

# %%
rows = []
for mode in ("thinking", "instant"):
    try:
        held = ask_structured(
            chat, "What is 3 + 4?", Sum, mode=mode, think_tokens=max_tokens, max_tokens=128, **steadily
        )
        rows.append((mode, held.way, held.reply.content, repr(held.value)))
    except EngineError as error:
        rows.append((mode, "-", str(error), "-"))

texts(["mode", "how it was held", "the answer", "as a Python object"], rows, "Held to the schema")

# %% [markdown]
# A grammar guarantees the *shape*. Whether the numbers in it are right is up to the model. nano does know this sum, but it never learnt to answer in JSON, and easily puts a wrong number into the right place. Bound lengths and ranges in the schema, so that an answer always comes to an end.
#
# ## What errors look like
#
# When a request fails, `Chat` raises one error with one line: what happened, why, and what to do. It begins with an id, which notebook 7 explains. Each request is sent exactly once: with a large model, repeating one by itself could cost minutes, or let a tool act twice. If part of an answer had arrived, the error keeps it in `partial`.


# %%
def provoke(with_engine, asked, **how):
    with Chat(with_engine, timeout_s=60) as trial:
        try:
            reply = trial.ask(asked, **{"max_tokens": 4, **how, **steadily})
        except EngineError as error:
            return str(error), error.partial.reasoning if error.partial else "(nothing)"
    return f"no error: this engine answered {reply.content or reply.reasoning!r}", "-"


nobody = replace(engine, base_url="http://127.0.0.1:1/v1")
long_thought = {"max_tokens": max_tokens, "deadline_s": 0.05, "mode": "thinking"}
texts(
    ["what was done", "the error", "what had arrived"],
    [
        ("nobody listens at the address", *provoke(nobody, question)),
        ("a wrong key", *provoke(replace(engine, api_key="a-wrong-key"), question)),
        ("a prompt larger than the context", *provoke(engine, "word " * (ctx + 100))),
        ("a deadline of 0.05 seconds", *provoke(engine, question, **long_thought)),
    ],
    "Errors, provoked",
)

# %% [markdown]
# ## The same in a panel
#
# All of this with a text field: thinking folded away, both modes, sampling, tools to tick, the figures below each answer, **Stop** and **Regenerate**, and any question as a program to copy. What you say is kept in a folder of your own and found again tomorrow. In a headless run you see the panel as a summary.

# %%
import kimi_nb.panel

panel = kimi_nb.panel.chat(engine, api_key_env=engine_key_env if engine_url else None)
panel

# %% [markdown]
# It talks to whatever has an engine: the name of a server that `kimi-nb serve` runs, an address, a `LlamaServer`. The next cell stops the one of this notebook, so run it when you have chatted enough.
#
# ## Stop the engine
#
# A server that the notebook started also ends with the notebook. Stopping it here frees the memory at once.

# %%
chat.close()
if server is None:
    print(f"{engine.base_url} is not ours, and goes on running.")
else:
    server.stop()
    print(server)

# %% [markdown]
# ## Copy-paste recipe
#
# The same with Kimi K2.5. Notebook 3 downloads the files; the smallest quant (UD-TQ1_0, about 240 GB) wants at least that much RAM and VRAM together.
#
# Run this notebook on the real model, headless:
#
# ```sh
# kimi-nb run 4 \
#   -p model_file "$(kimi-nb models path UD-TQ1_0)" \
#   -p ctx 32768 -p max_tokens 8192 -p steady false
# ```
#
# Or on an engine that runs somewhere else: a llama-server, vLLM, or Moonshot's API (the key stays in the environment; `engine_key_env` names another variable):
#
# ```sh
# export ENGINE_API_KEY=...
# kimi-nb run 4 -p engine_url http://127.0.0.1:8080/v1 -p steady false -p max_tokens 8192
# ```
#
# One question from a terminal; `--model` takes a GGUF file, and `--base-url` an engine that runs:
#
# ```sh
# kimi-nb chat "Explain MLA in two sentences." --mode instant \
#   --model "$(kimi-nb models path UD-TQ1_0)"
# ```
#
# In Python, with nothing but the openai package:
#
# ```python
# import os
# from openai import OpenAI
#
# client = OpenAI(base_url="http://127.0.0.1:8080/v1", api_key=os.environ["LLAMA_API_KEY"])
# reply = client.chat.completions.create(
#     model="kimi-k2.5",
#     messages=[{"role": "user", "content": "Explain MLA in two sentences."}],
#     temperature=0.6,  # instant; 1.0 when thinking
#     top_p=0.95,
#     max_tokens=2048,  # when thinking, rather 16384 and more
#     extra_body={"chat_template_kwargs": {"thinking": False}},  # leave this out to let it think
# )
# print(reply.choices[0].message.content)
# ```
#
# Many questions at once, with asyncio; the server answers as many together as it has slots:
#
# ```python
# import asyncio
# from kimi_nb.chat import AsyncChat
#
# async def all_of(engine, questions):
#     async with AsyncChat(engine) as chat:
#         return await asyncio.gather(*(chat.ask(each, mode="instant") for each in questions))
# ```
#
# Never write `User:` and `Assistant:` into a message yourself: the chat template does that, in Kimi's own tokens. Notebook 5 has the full server command, for llama-server and for vLLM.
