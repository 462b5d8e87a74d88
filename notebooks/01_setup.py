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
# # 1. Setup: what you have, and where things go
#
# Kimi K2.5 is a model with 1.03 trillion parameters. Its smallest usable files have about 210 to 240 GB. Before anyone downloads that much, these notebooks walk the whole path once on **nano**: a model of the same architecture and the same prompt format that is tens of thousands of times smaller and runs on any laptop. Every step you do here with nano is the step you will do with the real model; only names and sizes change.
#
# This first notebook changes nothing. It checks that the notebook runs in the right Python, shows the versions, and tells you where files will go.
#
# ## Contents
#
# - [The whole path on one page](#The-whole-path-on-one-page)
# - [Parameters](#Parameters)
# - [Is this the right Python?](#Is-this-the-right-Python?)
# - [Versions](#Versions)
# - [Where files go](#Where-files-go)
# - [What is already here](#What-is-already-here)
# - [The words we use](#The-words-we-use)
# - [Copy-paste recipe](#Copy-paste-recipe)
#
# ## The whole path on one page
#
# | notebook | question it answers | what it leaves behind |
# |---|---|---|
# | 1 Setup | Is my Python in order? | nothing |
# | 2 Hardware check | What does my machine have, and which files could it hold? | nothing |
# | 3 Build and download | How do I get llama.cpp and a model? | llama.cpp's programs |
# | 4 Inference | How do I ask, thinking or instant? | nothing |
# | 5 Serving | How do other programs talk to it? | nothing: the server stops |
# | 6 Tool calls | How does the model act? | nothing |
# | 7 Troubleshooting | Something is wrong. What now? | nothing |
#
# ## Parameters
#
# Each notebook has one cell like the next one. Change a value and run the notebook again from the top, or run it without opening it:
#
# ```sh
# kimi-nb run 1 -p models_folder my-models
# ```
#
# The cell after the parameters checks them, and says nothing when they are in order. If it says `ModuleNotFoundError: No module named 'kimi_nb'`, this notebook runs in another Python: start JupyterLab with `make lab` (without a clone: `kimi-nb lab`), or choose the kernel "Python 3 (ipykernel)" of the environment that kimi-nb is installed in.

# %% tags=["parameters"]
models_folder: str = ""  # where model files go; empty means the default shown below

# %%
from kimi_nb.run import params

params.check(models_folder=params.text())

# %% [markdown]
# ## Is this the right Python?
#
# The most common trouble with notebooks is a kernel (the program that runs the cells) of another Python than the one the packages were installed in. The next cell compares the two.

# %%
import platform
import sys

from kimi_nb.machine.jupyter import read_jupyter
from kimi_nb.tables import table

facts, notes = read_jupyter()
table(
    ["question", "answer"],
    [
        ["Which Python runs this notebook?", f"{platform.python_version()}, `{sys.executable}`"],
        ["Which one would a new notebook start?", f"`{facts.kernel_python}`"],
        ["Are they of the same environment?", "yes" if facts.same_environment else "NO, see below"],
        ["Can widgets show?", "NO, see below" if any(n.id == "KNB118" for n in notes) else "yes"],
        ["Which system is this?", f"{platform.system()} {platform.release()}, {platform.machine()}"],
    ],
)

# %% [markdown]
# Silence is good news here: whatever is wrong gets one line that says what, why, and what to do.

# %%
for note in notes:
    print(note)
if not notes:
    print("Nothing to mend: the kernel and its widgets are in order.")

# %% [markdown]
# ## Versions
#
# What this package needs, and what is installed. In a clone `make setup` installs exactly the locked versions, and `pip install` of a wheel the newest ones that fit. The table shows if something was changed since; either command puts it right.

# %%
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement


def state_of(needs: Requirement) -> list[str]:
    """Compare one requirement with what is installed."""
    try:
        has = version(needs.name)
    except PackageNotFoundError:
        return [needs.name, str(needs.specifier), "none", "MISSING: install again"]
    fits = needs.specifier.contains(has, prereleases=True)
    return [needs.name, str(needs.specifier), has, "ok" if fits else "DOES NOT FIT: install again"]


needed = [Requirement(line) for line in requires("kimi-nb") or []]
table(
    ["package", "needed", "installed", "state"],
    [
        ["kimi-nb", "", version("kimi-nb"), "ok"],
        *(state_of(one) for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})),
    ],
)

# %% [markdown]
# ## Where files go
#
# There are two places. The **cache** holds what can be made again, above all the build of llama.cpp: about 100 MB, and more with a GPU. The **models folder** holds what took a night to download: for Kimi, 210 GB and more, so it should be on a large, fast, local disk. An environment variable moves each of them; set it before JupyterLab or `kimi-nb` starts, and in your shell's profile, so that every later step finds the same place.

# %%
from pathlib import Path

from kimi_nb.engine.storage import free_mib
from kimi_nb.files import cache_home, models_home

models = Path(models_folder).expanduser().absolute() if models_folder else models_home()
table(
    ["what", "where", "free there", "to move it"],
    [
        [
            "llama.cpp's programs, logs",
            f"`{cache_home()}`",
            f"{free_mib(cache_home()) / 1024:,.0f} GiB",
            "set `KIMI_NB_CACHE`",
        ],
        ["model files", f"`{models}`", f"{free_mib(models) / 1024:,.0f} GiB", "set `KIMI_NB_MODELS`"],
    ],
)

# %% [markdown]
# If you moved the models folder with the parameter above, this is the line that makes it permanent.

# %%
if models_folder:
    print(f'export KIMI_NB_MODELS="{models}"')
else:
    print("The parameter models_folder is empty: the folder in the table is the one that is used.")

# %% [markdown]
# ## What is already here
#
# On a first visit llama.cpp is not built yet: notebook 3 does that. nano comes with this package.

# %%
from kimi_nb.engine import find_build
from kimi_nb.engine.fetch.shelf import Shelf
from kimi_nb.nano import nano_path

build = find_build()
sets = [entry.manifest for entry in Shelf(models).entries() if entry.complete]
table(
    ["what", "here?", "which"],
    [
        [
            "llama.cpp",
            "yes" if build else "not yet",
            f"{build.version}, for {build.backend}" if build else "notebook 3 builds it",
        ],
        ["nano", "yes", f"{nano_path().stat().st_size / 1e6:.1f} MB"],
        [
            "downloaded models",
            "yes" if sets else "not yet",
            ", ".join(f"{one.repo}:{one.quant}" for one in sets) or "none is needed for these notebooks",
        ],
    ],
)

# %% [markdown]
# ## The words we use
#
# One word for one thing, in the notebooks, on the command line and in error messages.
#
# | word | what it is |
# |---|---|
# | llama.cpp | the program that runs the model, on GPUs, on the processor, or on both together |
# | GGUF | the file format of llama.cpp: a header that describes the model, then its weights |
# | Model | what a GGUF header says: the architecture and every tensor's name, shape, type and size |
# | expert | a block of weights that only some tokens use: Kimi has 384 in a layer and uses 8 of them for each token, which is why it can run at all on machines without 1 TB of GPU memory |
# | quant | one compressed version of a model: fewer bits for a weight, a smaller file, some loss of quality |
# | shard | one file of a quant that is cut into several, such as `…-00001-of-00005.gguf` |
# | catalog | the models and quants we know, with sizes, sampling advice and licences |
# | Machine | GPUs, memory, processor and disk: looked at here, or loaded from a file |
# | token | a piece of text, about three quarters of an English word; context, speed and prices are counted in them |
# | context | how many tokens the model can see at once: the question, its thinking and its answer together |
# | Settings | llama.cpp's options, under llama.cpp's own names |
# | Engine | something that answers chat requests in OpenAI's format: here, llama.cpp's server |
# | nano | the laptop-sized model with Kimi's architecture and prompt format |
# | Run | one execution of notebooks without anyone watching, with its own record |
#
# ## Copy-paste recipe
#
# For the real model: install, choose the disk, look at the machine, and see what a download would do before it starts. `--dry-run` fetches nothing.
#
# ```sh
# # once, in the clone of this repository (the README tells how to install without one)
# make setup
# source .venv/bin/activate
# # a disk with 240 GB free and more; keep this line in your shell's profile
# export KIMI_NB_MODELS=/mnt/big-disk/models
# # notebook 2: what this machine has
# kimi-nb check
# # notebook 3: llama.cpp, once, and what a download would do
# kimi-nb build
# kimi-nb download --model kimi-k2.5 --quant UD-TQ1_0 --dry-run
# ```
