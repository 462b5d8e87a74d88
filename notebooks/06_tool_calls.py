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
# # 6. Tool calls: let the model act
#
# A model can only write text. A **tool** is a function of yours that it may ask for: it writes the function's name and the arguments, *you* run it, and you hand back the result. The model itself never runs anything, so what can happen is up to you.
#
# This notebook makes tools of Python functions, goes through one call by hand, lets a loop do the work, and then looks at everything that can go wrong.
#
# nano can call tools, and copies what they return into short answers. It is far too small to be relied on; where its last sentence and the trace differ, believe the trace. That is a good habit with the real model too.
#
# ## Contents
#
# - [Parameters](#Parameters)
# - [Start an engine](#Start-an-engine)
# - [A function becomes a tool](#A-function-becomes-a-tool)
# - [One call, step by step](#One-call,-step-by-step)
# - [The loop does it for you](#The-loop-does-it-for-you)
# - [Two calls at once](#Two-calls-at-once)
# - [Search the code of this package](#Search-the-code-of-this-package)
# - [When a tool fails](#When-a-tool-fails)
# - [Wrong arguments never reach the function](#Wrong-arguments-never-reach-the-function)
# - [A dangerous tool asks you first](#A-dangerous-tool-asks-you-first)
# - [When no tool fits](#When-no-tool-fits)
# - [Tools from an MCP server](#Tools-from-an-MCP-server)
# - [Stop the engine](#Stop-the-engine)
# - [Copy-paste recipe](#Copy-paste-recipe)
#
# ## Parameters
#
# As in notebook 4: with an `engine_url`, the same cells talk to a llama-server, a vLLM, or Moonshot's API that runs already. If it needs a key, put that into the environment variable `ENGINE_API_KEY`.

# %% tags=["parameters"]
model_file: str = ""  # a GGUF file to start a server for (of several shards, the first); empty: nano
engine_url: str = ""  # an engine that already runs, up to and with /v1; empty: start a server here
engine_key_env: str = "ENGINE_API_KEY"  # the variable of the environment that holds its key, if it needs one
engine_model: str = ""  # the model's name at that engine; empty: the first that it names
ctx: int = 8192  # context in tokens: declarations, results and all replies together
mode: str = "thinking"  # thinking, or instant
max_tokens: int = 256  # the most tokens of one reply, thinking included; the real model wants thousands
steady: bool = True  # the likeliest token each time, so that every run shows the same; False for real use
search_for: str = "find_build"  # the function to look for in the code of kimi_nb

# %%
from kimi_nb.run import params

params.check(
    model_file=params.existing_file(empty=True),
    engine_url=params.text(),
    engine_key_env=params.text(empty=False),
    engine_model=params.text(),
    ctx=params.between(2048, 262144),
    mode=params.one_of("thinking", "instant"),
    max_tokens=params.between(64, 262144),
    steady=params.flag(),
    search_for=params.text(empty=False),
)

# %%
import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator

import kimi_nb
from kimi_nb.chat import Chat, Limits, McpServer, assistant_message, tool, tool_loop
from kimi_nb.chat.functions import ArgumentsError
from kimi_nb.chat.reach import engine_at, read_key
from kimi_nb.chat.sample_tools import calculator, code_search, file_reader
from kimi_nb.engine import LlamaServer
from kimi_nb.model import encode_tools
from kimi_nb.model.prompt import render
from kimi_nb.nano import nano_path
from kimi_nb.plan import Settings
from kimi_nb.tables import texts

# %% [markdown]
# ## Start an engine
#
# A server for nano, or the engine you named.

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
options = {"mode": mode, **steadily}
limits = Limits(max_steps=6, max_tokens=max_tokens)
print(chat)

# %% [markdown]
# ## A function becomes a tool
#
# Write an ordinary function with type hints and a docstring. `@tool` reads both: the hints say what the arguments must be, the docstring tells the model what the function is for. This weather is made up, and the function notes each time that it really runs.

# %%
WEATHER = {"Rome": {"temp_c": 24, "sky": "sun"}, "Oslo": {"temp_c": -3, "sky": "light snow"}}
ran = []


@tool
def get_weather(city: str) -> dict:
    """Get the weather of a city.

    Args:
        city: name of the city
    """
    ran.append(city)
    return WEATHER.get(city, {"temp_c": 11, "sky": "clouds"})


print(json.dumps(get_weather.declaration, indent=2))

# %% [markdown]
# That is OpenAI's way to declare a tool: JSON with a JSON schema. Kimi K2.5 was trained to read declarations in another language, TypeScript. Moonshot's own engine translates; llama.cpp does not, and shows the model the JSON. So our client sends the TypeScript along (`tools_ts_str`), and this is what the model reads:

# %%
print(encode_tools([get_weather.declaration]))

# %% [markdown]
# It stands at the very beginning of the prompt, before the system message:

# %%
asked = [{"role": "user", "content": "What is the weather in Rome?"}]
declared = [get_weather.declaration]
print(render(asked, tools=declared, tools_ts_str=encode_tools(declared), thinking=mode == "thinking"))

# %% [markdown]
# ## One call, step by step
#
# First by hand, to see every part. **Step 1:** ask, with the tool declared.

# %%
first = chat.ask(asked, tools=[get_weather], max_tokens=max_tokens, **options)
print("reasoning:  ", first.reasoning)
print("content:    ", repr(first.content))
print("ended by:   ", first.finish_reason)
for call in first.tool_calls:
    print("tool call:  ", call)

# %% [markdown]
# No answer yet: the reply ended because the model wants a tool called. Nothing has run so far. Kimi's call ids look like `functions.get_weather:0`; the number counts all calls of the conversation.
#
# **Step 2:** check the arguments and run the function. `arguments` is text that a model wrote, so it is checked against the schema before anything runs.

# %%
outputs = []
for call in first.tool_calls:
    arguments = get_weather.check(call.arguments)
    # Compact, as tool_loop writes it too: the form that Kimi and nano have seen most.
    outputs.append(json.dumps(get_weather(**arguments), separators=(",", ":")))
    print(f"{call.name}(**{arguments}) returned {outputs[-1]}")

# %% [markdown]
# **Step 3:** append what the model said, *with its reasoning*, and the result, which names the call it belongs to. Within a chain of calls Kimi expects to find its own thinking again; Moonshot's API even refuses the conversation without it.

# %%
told = [
    *asked,
    assistant_message(first),
    *(
        {"role": "tool", "tool_call_id": call.id, "content": output}
        for call, output in zip(first.tool_calls, outputs, strict=True)
    ),
]
print(json.dumps(told, indent=2, ensure_ascii=False))

# %% [markdown]
# As the model sees it, its own call is text with special tokens around it, and the result follows as a message from the system:

# %%
print(render(told, thinking=mode == "thinking").partition("<|im_assistant|>")[2])

# %% [markdown]
# **Step 4:** ask again with all of that. Now it can answer.

# %%
second = chat.ask(told, tools=[get_weather], max_tokens=max_tokens, **options)
print(second.content)

# %% [markdown]
# ## The loop does it for you
#
# `tool_loop` repeats these steps until there is an answer, or a limit is met. It returns the answer and a full **trace**: each thought, call and result, and how long it took.

# %%
run = tool_loop(chat, "What is the weather in Oslo?", [get_weather], limits=limits, **options)
print(run)
print("\nanswer:", run.answer)

# %% [markdown]
# The trace is plain data as well: `run.steps`, `run.calls`, `run.as_dict()` for a file. `run.messages` is the whole conversation, to carry on with.
#
# ## Two calls at once
#
# One question may need two calls. The model asks for both in one reply, numbered 0 and 1, and gets both results before it goes on.

# %%
run = tool_loop(chat, "What is the weather in Rome and Oslo?", [get_weather], limits=limits, **options)
print(run)
print("\nanswer:", run.answer)

# %% [markdown]
# ## Search the code of this package
#
# Now tools that look at something real: the source of `kimi_nb` itself. The package brings four sample tools: a calculator, a clock, a search through the files of one folder, and a reader of files in it. They see that folder and nothing else. Any tool can be called without a model, which is how to try it:

# %%
folder = Path(kimi_nb.__file__).parent
search, read = code_search(folder), file_reader(folder)
print(calculator("2 ** 10 + 24"))
print(search(search_for, files="*.py", max_results=4))
try:
    read("../pyproject.toml")
except ValueError as error:
    print("ValueError:", error)

# %% [markdown]
# The last one shows that reading outside the folder is refused, whatever a model may ask for.
#
# The smaller a model, the simpler its tools should be: few arguments, short and exact results. So for nano we put two plain functions in front. Each gives back just what the next step needs. (Kimi itself gets along with `sample_tools(folder)` as they are; the recipe below does that.)

# %%
where = {}


@tool
def search_code(query: str) -> list[dict[str, str | int]]:
    """Search the code base for files and functions.

    Args:
        query: what to look for
    """
    line = search(f"def {query}(", files="*.py", max_results=1).splitlines()[0]
    path, _, rest = line.partition(":")
    number = rest.partition(":")[0]
    if not number.isdigit():
        return []
    where[path] = int(number)
    return [{"file": path, "line": int(number)}]


@tool
def read_file(path: str) -> str:
    """Read a file.

    Args:
        path: the file, as search_code names it
    """
    line = where.get(path, 1)
    return read(path, first_line=line, last_line=line).split(maxsplit=1)[1]


run = tool_loop(chat, f"Where is {search_for} defined?", [search_code], limits=limits, **options)
print(run)
print("\nanswer:", run.answer)

# %% [markdown]
# Two steps in a row, where the second depends on the first: find the file, then read it. `read_file` returns the one line that was found.

# %%
question = f"Find {search_for} in the code and show me the file."
run = tool_loop(chat, question, [search_code, read_file], limits=limits, **options)
print(run)
print("\nanswer:", run.answer)
print("\nwhat the tools really returned:")
for call in run.calls:
    print(f"  {call.id} -> {call.output}")

# %% [markdown]
# Compare the answer with what the tools really returned. nano copies short results well, as here, and loses its way in those of many lines: given all that a search of many lines returns, it may name a file that does not exist. A trace shows such things, and an answer alone does not.
#
# ## When a tool fails
#
# Tools fail: a service is down, a file is gone. A tool can say so in its result, and the model passes it on.


# %%
@tool(name="get_weather")
def broken_weather(city: str) -> dict:
    """Get the weather of a city.

    Args:
        city: name of the city
    """
    ran.append(city)
    return {"error": "service down"}


run = tool_loop(chat, "What is the weather in Rome?", [broken_weather], limits=limits, **options)
print(run)

# %% [markdown]
# A tool that raises, or takes too long, does not stop the loop either. The model is told, so that it can say so, and the trace marks the call as `raised` or `timeout`. Here the limit is a tenth of a second:


# %%
@tool(name="get_weather", timeout_s=0.1)
def slow_weather(city: str) -> dict:
    """Get the weather of a city.

    Args:
        city: name of the city
    """
    time.sleep(1)
    return WEATHER[city]


run = tool_loop(chat, "What is the weather in Rome?", [slow_weather], limits=limits, **options)
for call in run.calls:
    print(f"{call.id}: {call.outcome}: {call.output} ({call.seconds:.2f} s)")
print("\nanswer:", run.answer)

# %% [markdown]
# ## Wrong arguments never reach the function
#
# A model can write anything. Each call's arguments are checked against the function's type hints first; what does not fit is refused with a reason that the model may learn from. Strictly: the text `"3"` is not the number 3, and an argument that nobody declared is refused too.

# %%
ran.clear()
rows = []
for text in ('{"city": "Rome"}', '{"city": 3}', "{}", '{"city": "Rome", "when": "now"}', '{"city": "Ro'):
    try:
        rows.append((text, "fits", get_weather.check(text)))
    except ArgumentsError as error:
        rows.append((text, "refused", error))

texts(["what a model might write", "", "result"], rows, "Checked before anything runs")

# %% [markdown]
# While nano writes a call, llama-server already holds it to the schema, so such mistakes are rare there; other engines need not do that. A schema cannot say everything, though. This tool knows two cities, and only Python knows that. The loop refuses the call and tells the model why; `max_steps=2` keeps a stubborn one from trying for ever. nano passes the reason on instead of trying again, and the function was not touched.


# %%
def has_station(city):
    if city not in WEATHER:
        raise ValueError(f"there is no weather station in {city}")
    return city


@tool(name="get_weather")
def checked_weather(city: Annotated[str, AfterValidator(has_station)]) -> dict:
    """Get the weather of a city.

    Args:
        city: name of the city
    """
    ran.append(city)
    return WEATHER[city]


few = Limits(max_steps=2, max_tokens=max_tokens)
run = tool_loop(chat, "What is the weather in Paris?", [checked_weather], limits=few, **options)
print(run)
print("\nthe function ran for:", ran or "nobody")

# %% [markdown]
# Every loop has limits: `Limits` bounds the steps, the calls, the seconds of the whole and of each tool, and how much of a result the model is shown. None of them raises an error; `run.stopped` says which was met.
#
# ## A dangerous tool asks you first
#
# Mark what must not happen by itself with `dangerous=True`. Such a tool runs only if `approve` says yes to this very call; without `approve` it never runs. First somebody says no, then yes.

# %%
sent = []


@tool(dangerous=True)
def create_ticket(title: str, priority: Literal["low", "medium", "high"]) -> dict:
    """Create a ticket.

    Args:
        title: short title
        priority: how urgent
    """
    sent.append((title, priority))
    return {"id": "K204", "ok": True}


def person(says):
    def approve(tool, arguments):
        print(f"  -> may {tool.name} run with {dict(arguments)}? {'yes' if says else 'no'}")
        return says

    return approve


question = "Create a high priority ticket: budget review."
for says in (False, True):
    print("The person says", "yes:" if says else "no:")
    run = tool_loop(chat, question, [create_ticket], approve=person(says), limits=few, **options)
    for call in run.calls:
        print(f"  {call.id} {call.arguments}: {call.outcome}")
    print("  the model says:", run.answer or f"nothing (stopped: {run.stopped})")
    print("  tickets really created:", sent, "\n")

# %% [markdown]
# nano was taught what a refusal is, so it says that you did not approve the call. A model may also ask again, or even claim that it created a ticket. None was, whatever it says: what happened is in the trace and in your own records.
#
# In a notebook of your own, ask a real person:
#
# ```python
# approve = lambda tool, arguments: input(f"Run {tool.name} with {arguments}? y/n ") == "y"
# ```
#
# ## When no tool fits
#
# A good model does not bend a tool to a question it was not made for. Here it could only ask for the weather.

# %%
for question in ("Please email Anna about holidays.", "Who are you?"):
    run = tool_loop(chat, question, [get_weather], limits=limits, **options)
    print(f"{question}\n  calls: {[call.id for call in run.calls]}\n  answer: {run.answer}\n")

# %% [markdown]
# ## Tools from an MCP server
#
# Many programs offer their tools over MCP, the Model Context Protocol: editors, databases, trackers. A server is a program that speaks on its standard input and output, or an address. `McpServer` takes either, and its tools go into the same loop, under the same rules.
#
# Here is a whole server, in a few lines with the mcp package:

# %%
SERVER = """
from typing import Annotated
from mcp.server import MCPServer
from pydantic import Field

server = MCPServer("weather")

@server.tool()
def get_weather(city: Annotated[str, Field(description="name of the city")]) -> dict[str, int | str]:
    "Get the weather of a city."
    return {"temp_c": 31, "sky": "sun"}

@server.tool()
def forget_everything() -> str:
    "Delete all measurements."
    return "done"

server.run()
"""

with McpServer([sys.executable, "-c", SERVER], trusted=["get_weather"], timeout_s=60) as station:
    for each in station.tools:
        print(f"{each.name}: {each.description} ({'asks first' if each.dangerous else 'trusted'})")
    wanted = [each for each in station.tools if each.name == "get_weather"]
    run = tool_loop(chat, "What is the weather in Rome?", wanted, limits=limits, **options)
print(run)
print("\nanswer:", run.answer)

# %% [markdown]
# The server was started for this cell and ended with it; had the notebook been killed, it would have ended too. It sees `PATH` and what you pass in `env`, nothing else of your environment. What it declares is checked before the model sees it (`station.refused` names what was left out), what it returns is cut like any tool's output, and a tool runs without a person's approval only if you name it in `trusted`: a stranger's word that it is harmless does not count.
#
# ## Stop the engine

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
# Run this notebook with Kimi K2.5, headless:
#
# ```sh
# kimi-nb run 6 \
#   -p model_file "$(kimi-nb models path UD-TQ1_0)" \
#   -p ctx 65536 -p max_tokens 8192 -p steady false
# ```
#
# The code search of this notebook on a folder of yours, with a server that runs already (notebook 5 starts one):
#
# ```python
# from kimi_nb.chat import Chat, Limits, tool_loop
# from kimi_nb.chat.reach import engine_at, read_key
# from kimi_nb.chat.sample_tools import sample_tools
#
# key = read_key("LLAMA_API_KEY", None)
# with Chat(engine_at("http://127.0.0.1:8080/v1", key, model="kimi-k2.5")) as chat:
#     run = tool_loop(
#         chat,
#         "Where are temporary files made, and are they always removed? Name file and line.",
#         sample_tools("my-project"),
#         mode="thinking",
#         limits=Limits(max_steps=20, deadline_s=1800, max_tokens=16384),
#     )
# print(run)
# print(run.answer)
# ```
#
# With the tools of an MCP server beside your own, here one at an address:
#
# ```python
# from kimi_nb.chat import McpServer
#
# headers = {"Authorization": f"Bearer {os.environ['TRACKER_TOKEN']}"}
# with McpServer("http://127.0.0.1:8000/mcp", headers=headers, trusted=["search_issues"]) as tracker:
#     run = tool_loop(chat, "Which issues are about memory?", [calculator, *tracker.tools], approve=approve)
# ```
#
# What the engine must be told for tool calls:
#
# - **llama-server**: nothing; `--jinja` is on by default. Never add `--special`: a tool call then ends in the error `The model produced output that does not match the expected peg-native format`.
# - **vLLM**: `--tool-call-parser kimi_k2 --enable-auto-tool-choice --reasoning-parser kimi_k2`; without the second flag, `tool_choice="auto"` is refused.
# - **Moonshot's API**: nothing. Leave out `temperature`.
#
# With the plain openai package on llama-server, send the TypeScript declarations yourself, and the JSON in the same order: llama-server holds the model to the order of the JSON when it writes arguments.
#
# ```python
# from kimi_nb.model import encode_tools, in_kimis_order
#
# client.chat.completions.create(
#     model="kimi-k2.5",
#     messages=messages,
#     tools=in_kimis_order(tools),
#     extra_body={"chat_template_kwargs": {"tools_ts_str": encode_tools(tools)}},
# )
# ```
