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
# # 7. Troubleshooting: something is wrong, what now?
#
# Every foreseeable trouble in these notebooks and on the command line ends in **one line**: an id, what happened, why, and what to do. This notebook shows how to read such a line, provokes a few real ones safely, explains every id, and lists what goes wrong with Kimi *without* any error: the symptoms that cost people evenings.
#
# ## Contents
#
# - [Parameters](#Parameters)
# - [Look up an id](#Look-up-an-id)
# - [How to read an error line](#How-to-read-an-error-line)
# - [Six errors, provoked](#Six-errors,-provoked)
# - [Symptoms with Kimi](#Symptoms-with-Kimi)
# - [Every id](#Every-id)
# - [Copy-paste recipe](#Copy-paste-recipe)
#
# ## Parameters
#
# Put the id of an error here, or paste its whole line, and run the notebook: the next section explains it. Without opening the notebook: `kimi-nb run 7 -p error_id KNB306`.

# %% tags=["parameters"]
error_id: str = ""  # an id such as "KNB306", or a whole error line; empty to look nothing up

# %%
from kimi_nb.run import params

params.check(error_id=params.text())

# %% [markdown]
# ## Look up an id
#
# What the parameter asked for, or how to ask.

# %%
import re
import textwrap

from kimi_nb.errors import troubles

known = troubles()
asked = list(dict.fromkeys(re.findall(r"KNB\d{3}", error_id.upper())))
for id_ in asked:
    if id_ in known:
        print(f"{id_}: {known[id_].title}")
        print(textwrap.fill(known[id_].explanation, 100), end="\n\n")
    else:
        print(f"{id_} is not an id of this version: update, or see the table of ids below.")
if error_id and not asked:
    print(f"There is no id in {error_id!r}: it looks like KNB306. See the table of ids below.")
if not error_id:
    print(f"Nothing was asked for. {len(known)} ids are known; set error_id to look one up.")

# %% [markdown]
# ## How to read an error line
#
# A line has four parts, always in this order. Read the last one first: it is what to do. Take this one, which comes of a model's name with a slip in it:

# %%
from kimi_nb.errors import KimiNbError
from kimi_nb.model import catalog
from kimi_nb.tables import table


def provoke(action):
    """Do something that must fail, and return its error."""
    try:
        action()
    except KimiNbError as error:
        print(textwrap.fill(str(error), 100))
        return error
    raise AssertionError("this was expected to fail, and it did not")


error = provoke(lambda: catalog().model("kimi-k2.55"))
table(
    ["part", "in this line", "what it is for"],
    [
        ["id", error.id, "look it up here, search for it, name it when you ask for help"],
        ["what", error.what, "what happened"],
        ["why", error.why, "the cause, as far as it is known"],
        ["fix", error.fix, "what to do: one sentence or one command"],
    ],
)

# %% [markdown]
# The first digit says which part of the path it comes from.
#
# | ids | part | notebook |
# |---|---|---|
# | KNB0… | the command line itself | |
# | KNB1… | the machine | 2 |
# | KNB2… | building llama.cpp | 3 |
# | KNB3… | model files, the catalog, nano | 3 |
# | KNB4… | downloads | 3 |
# | KNB5… | llama-server and its settings | 5 |
# | KNB6… | requests and answers, tools | 4 and 6 |
# | KNB7… | notebooks, parameters, headless runs | all |
# | KNB8… | trying out memory and speed | 2 |
# | KNB9… | the panels | 2 to 5 |
#
# ## Six errors, provoked
#
# Nothing below harms anything: the files are made in a temporary folder. The unknown model above was the first. The second is the classic: a download that did not finish. Here is nano without its last third.

# %%
import tempfile
from pathlib import Path

from kimi_nb.model import read_header
from kimi_nb.nano import nano_path

lesson = tempfile.TemporaryDirectory(prefix="kimi-nb-lesson-")
folder = Path(lesson.name)
whole = nano_path().read_bytes()
(folder / "cut-short.gguf").write_bytes(whole[: len(whole) * 2 // 3])
error = provoke(lambda: read_header(folder / "cut-short.gguf"))

# %% [markdown]
# The third: a browser or `wget` saved the *page about* the file under the file's name. Such a "model" has some kB.

# %%
page = "<!DOCTYPE html>\n<html><head><title>Kimi-K2.5-UD-TQ1_0-00001-of-00005.gguf</title></head></html>"
(folder / "web-page.gguf").write_text(page)
error = provoke(lambda: read_header(folder / "web-page.gguf"))

# %% [markdown]
# The fourth: `git clone` of a model repository without git-lfs brings small text files that only point to the real ones.

# %%
pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 46304137792\n"
(folder / "pointer.gguf").write_text(pointer)
error = provoke(lambda: read_header(folder / "pointer.gguf"))

# %% [markdown]
# The fifth: another program listens on the port that the server was told to use. This cell takes a port, then starts llama-server on it.

# %%
import socket

from kimi_nb.engine import LlamaServer

with socket.create_server(("127.0.0.1", 0)) as taken:
    port = taken.getsockname()[1]
    error = provoke(LlamaServer(nano_path(), port=port).start)

# %% [markdown]
# The sixth: a parameter with a value that the notebook cannot work with. It is found before anything is started.

# %%
ctx_size = 128
mode = "instnat"
error = provoke(
    lambda: params.check(ctx_size=params.between(256, 262144), mode=params.one_of("thinking", "instant"))
)

# %% [markdown]
# The lesson's files are no longer needed.

# %%
lesson.cleanup()

# %% [markdown]
# ## Symptoms with Kimi
#
# The worst troubles give no error at all. These were seen with llama.cpp's server and Kimi K2.5; `kimi-nb` avoids those marked with *, or reports them with an id.
#
# | symptom | cause | what to do |
# |---|---|---|
# | Thinking cannot be switched off: `--reasoning off`, `enable_thinking: false` and `reasoning_effort: "none"` change nothing * | Kimi's chat template looks for the name `thinking`, and nothing else | send `"chat_template_kwargs": {"thinking": false}` with the request, or start the server with `--chat-template-kwargs '{"thinking": false}'` |
# | The answer ignores the JSON schema, with status 200 * | llama.cpp's parser for Kimi does not read `response_format` | send a `grammar` in instant mode; with thinking on, the grammar would bind the thinking and the answer stays empty |
# | `Failed to initialize samplers: std::exception` with status 400 | `json_schema` was sent with a chat request | the same: a `grammar`, in instant mode |
# | The answer is empty, although tokens were generated * | the thinking never ended: `max_tokens` was used up before the answer | raise `max_tokens`; thinking alone can take many thousands |
# | `The model produced output that does not match the expected peg-native format`, status 500 * | the server runs with `--special` (some guides say so), which adds marks after a tool call | never use `--special` with Kimi |
# | Answers end with the word `im_end` in angle brackets and bars * | `--special` again, or a file that does not name its end token | drop `--special`; update llama.cpp |
# | A tool is required, but no call comes; the reply ends with `length` | Kimi may talk before it calls, and the limit was reached first | raise `max_tokens` |
# | The model invents its own syntax for tools or leaves out arguments * | it was trained on declarations in TypeScript, and llama.cpp shows it JSON | send `tools_ts_str` in `chat_template_kwargs`, beside `tools` |
# | After a tool's result, the model starts thinking from scratch * | the client dropped `reasoning_content` from the history | send it back with the assistant's message, as long as the tool loop lasts |
# | `error: invalid argument: --no-mmap` | llama.cpp dropped that option | `--load-mode none`; the others are `auto`, `mmap`, `mlock`, `mmap+mlock` and `dio` |
# | Far fewer tokens per second than expected, and the disk is busy | the weights do not fit in memory, so they are read again from disk | a smaller quant, or more memory; notebook 2 shows what fits |
# | Out of memory, and a smaller context hardly helps | the context is small: 16,384 tokens take 1.07 GiB; the experts are what is large | keep more experts in main memory: raise `--n-cpu-moe` |
# | `invalid temperature: only 1 is allowed for this model` from Moonshot's API * | the API fixes the sampling of this model | leave out `temperature` and `top_p` |
#
# ## Every id
#
# All that can be said, by part of the path. Open a part to read it; your browser's search finds words in it, too.

# %%
import html

from IPython.display import HTML

PARTS = {
    "0": "the command line",
    "1": "the machine",
    "2": "building llama.cpp",
    "3": "model files, the catalog, nano",
    "4": "downloads",
    "5": "llama-server and its settings",
    "6": "requests and answers, tools",
    "7": "notebooks, parameters, headless runs",
    "8": "trying out memory and speed",
    "9": "the panels",
}
assert {id_[3] for id_ in known} == set(PARTS)
sections = []
for digit, part in PARTS.items():
    mine = [one for id_, one in known.items() if id_[3] == digit]
    rows = table(["id", "title", "explanation"], [[one.id, one.title, one.explanation] for one in mine])
    heading = html.escape(f"KNB{digit}xx: {part} ({len(mine)} ids)")
    sections.append(f"<details><summary>{heading}</summary>{rows._repr_html_()}</details>")
HTML("".join(sections))

# %% [markdown]
# ## Copy-paste recipe
#
# When you ask for help with the real model, these files answer most of what you would be asked. None of them holds a key; look them over before you post them all the same.
#
# ```sh
# # the version; send it with the whole error line
# kimi-nb --version
# # the machine
# kimi-nb check --json > machine.json
# # the build of llama.cpp, every file of it checked
# kimi-nb build --verify --json > build.json
# # whether the model's files are whole: reads all of them, changes none
# kimi-nb download --model kimi-k2.5 --quant UD-TQ1_0 --verify --no-repair
# # what llama-server said, while it runs
# kimi-nb serve logs --lines 200 > server.log
# # whether the path works with nano: report/run.json and report/index.html
# kimi-nb run 5 --out report
# ```
