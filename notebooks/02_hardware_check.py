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
# # 2. Hardware check: what your machine has, and what could fit
#
# The weights of Kimi K2.5 must lie somewhere while it runs. The fastest place is GPU memory, the next one main memory, and the slowest by far the disk. Kimi has one property that makes it less hopeless than its size suggests: for each token it uses only 8 of the 384 experts in a layer. So the experts, which are 98.9% of the weights, can stay in main memory while the small part that every token needs sits on one GPU.
#
# This notebook looks at your machine (or at one you might rent), and compares its memory with the sizes of the known files. It changes nothing.
#
# ## Contents
#
# - [Parameters](#Parameters)
# - [The machine](#The-machine)
# - [What is worth knowing about it](#What-is-worth-knowing-about-it)
# - [A rough first look: which quants could fit](#A-rough-first-look:-which-quants-could-fit)
# - [The same as a picture](#The-same-as-a-picture)
# - [What comes on top of the weights](#What-comes-on-top-of-the-weights)
# - [Try another machine](#Try-another-machine)
# - [Copy-paste recipe](#Copy-paste-recipe)
#
# ## Parameters
#
# `this` looks at the machine that runs this notebook. A profile's name, such as `rtx4090-256gb`, or the path of a file that `kimi-nb check --save` wrote, looks at another one.

# %% tags=["parameters"]
machine: str = "this"  # "this", the name of a profile, or the path of a saved machine file

# %%
from kimi_nb.run import params

params.check(machine=params.text(empty=False))

# %% [markdown]
# ## The machine
#
# The next cell asks the drivers and the system. It respects limits: in a container, what counts is what the container may use, not what the machine has. Sizes are in GiB (1,073,741,824 bytes), as drivers count them; download pages count in GB (1,000,000,000 bytes), so 240 GB are 223.5 GiB.

# %%
from kimi_nb.machine import machine_named, probe
from kimi_nb.machine.show import machine_table

computer = probe() if machine == "this" else machine_named(machine)
print(f"Where these values come from: {computer.about}")
machine_table(computer)

# %% [markdown]
# ## What is worth knowing about it
#
# A healthy part is not mentioned. What stands out gets an id, a reason and something to do; notebook 7 explains each id at more length.

# %%
from kimi_nb.machine.show import notes_table

notes_table(computer)

# %% [markdown]
# ## A rough first look: which quants could fit
#
# The catalog knows the files of Kimi K2.5 that people publish. Each of them is a **quant**: the fewer bits for a weight, the smaller the file and the greater the loss. The table compares file sizes with memory and disk, and nothing more. It is a first look, not an estimate of what llama.cpp will use.

# %%
from kimi_nb.machine import first_look
from kimi_nb.machine.show import first_look_table
from kimi_nb.model import catalog

kimi = catalog().model("kimi-k2.5")
look = first_look(computer, kimi)
first_look_table(look)

# %% [markdown]
# These are the files of the publisher whose names most guides use. Others have more steps in between. In one sentence for this machine, over all quants that the catalog knows the size of (without BF16, which has more than three times the size of Kimi's own release and holds no more):

# %%
sensible = [one for one in look.quants if one.quant.bytes < 2 * kimi.native.bytes]  # BF16 is not
fitting = sorted((one for one in sensible if one.fits_memory), key=lambda one: one.quant.bytes)
if fitting:
    best = fitting[-1].quant
    print(f"{len(fitting)} of {len(sensible)} quants could lie in memory;", end=" ")
    print(f"the largest is {best.name} by {best.publisher} with {best.size}.")
else:
    print("No quant of Kimi K2.5 could lie in this machine's memory. nano can: go on with notebook 3.")

# %% [markdown]
# ## The same as a picture
#
# Each bar is a quant, as long as its weights. A bar that ends left of the dotted line could lie on the GPUs alone (a machine without GPUs has no such line); one that ends left of the solid line, in GPU and main memory together. The words at the end of each row say the same. BF16 is not drawn.

# %%
from kimi_nb.machine.show import first_look_figure

first_look_figure(look, computer.name)

# %% [markdown]
# ## What comes on top of the weights
#
# The context needs memory too: for each token that the model can see, llama.cpp keeps a short record of every layer. Kimi's attention compresses that record, so it is small for a model of this size. This part is exact; buffers for computing, the system and other programs come on top of it.

# %%
from kimi_nb.tables import table

per_token = kimi.architecture.cache_bytes_per_token
table(
    ["context in tokens", "memory for it", "enough for"],
    [
        [f"{tokens:,}", f"{tokens * per_token / 2**30:.2f} GiB", what]
        for tokens, what in [
            (16384, "short questions in instant mode"),
            (98304, "long thinking; what Unsloth's guide suggests"),
            (kimi.context_limit, "all that the model was trained for"),
        ]
    ],
    caption=f"{per_token:,} bytes for each token, at 16 bits a value",
)

# %% [markdown]
# ## Try another machine
#
# Pick a machine from the list, with the mouse or the arrow keys, to see its table and picture. The profiles hold typical values, not measured ones.

# %%
from IPython.display import display

from kimi_nb.machine.show import pick_machine


def show(name):
    """Show the table and the picture of one machine."""
    chosen = probe() if name == "this" else machine_named(name)
    chosen_look = first_look(chosen, kimi)
    display(first_look_table(chosen_look), first_look_figure(chosen_look, chosen.name))


pick_machine(show, machine)

# %% [markdown]
# ## Copy-paste recipe
#
# On the machine that is to run Kimi, look at it and keep what was found; on your laptop, look at that file or at a machine you have not rented yet. Then choose a quant whose column "of memory" says "left", with some tens of GiB to spare for context and buffers.
#
# ```sh
# kimi-nb check                              # this machine, and a first look at kimi-k2.5
# kimi-nb check --save my-server.json        # keep it
# kimi-nb check --machine my-server.json     # look at it from elsewhere
# kimi-nb check --machine rtx4090-256gb      # or at one of the profiles
# kimi-nb check --json                       # for programs
# ```
