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
# Kimi K2.5 is a model with 1.03 trillion parameters. Its smallest usable files are about 240 GB. Before anyone downloads that much, these notebooks walk the whole path once on **nano**: a model of the same architecture and the same prompt format that is a few thousand times smaller and runs on any laptop. Every step you do here with nano is the step you will do with the real model; only names and sizes change.
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
# | 2 Hardware check | What does my machine have, and which quants could it hold? | nothing |
# | 3 Build and download | How do I get llama.cpp and a model? | programs and a verified model |
# | 4 Inference | How do I ask, thinking or instant? | nothing |
# | 5 Serving | How do other programs talk to it? | nothing: the server stops |
# | 6 Tool calls | How does the model act? | nothing |
# | 7 Troubleshooting | Something is wrong. What now? | nothing |
#
# ## Parameters
#
# Each notebook has one cell like the next one. Change a value and run the notebook again, or run it without opening it: `kimi-nb run notebooks/01_setup.ipynb -p models_folder my-models`.

# %% tags=["parameters"]
models_folder: str = ""  # where model files go; empty means the default shown below

# %%
from kimi_nb.run import params

params.check(models_folder=params.text(models_folder))

# %% [markdown]
# ## Is this the right Python?
#
# The most common trouble with notebooks is a kernel that runs in another Python than the one the packages were installed in. The two must be the same.

# %%
