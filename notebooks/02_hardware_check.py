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
# This notebook looks at your machine (or at one you might rent), compares its memory with the sizes of the known files, and then plans: which quant, which settings, how much memory to the MiB, and how many tokens per second to expect. At its end it measures nano on this machine, the way you can measure Kimi without having it. It downloads nothing and changes nothing.
#
# ## Contents
#
# - [Parameters](#Parameters)
# - [The machine](#The-machine)
# - [What is worth knowing about it](#What-is-worth-knowing-about-it)
# - [A rough first look: which quants could fit](#A-rough-first-look:-which-quants-could-fit)
# - [The same as a picture](#The-same-as-a-picture)
# - [What comes on top of the weights](#What-comes-on-top-of-the-weights)
# - [What llama.cpp will really use](#What-llama.cpp-will-really-use)
# - [The plan for Kimi on this machine](#The-plan-for-Kimi-on-this-machine)
# - [The plan on a machine you might rent](#The-plan-on-a-machine-you-might-rent)
# - [Plan by hand](#Plan-by-hand)
# - [What the speed depends on](#What-the-speed-depends-on)
# - [A rehearsal: measuring instead of guessing](#A-rehearsal:-measuring-instead-of-guessing)
# - [Try another machine](#Try-another-machine)
# - [Copy-paste recipe](#Copy-paste-recipe)
#
# ## Parameters
#
# `this` looks at the machine that runs this notebook. A profile's name, such as `rtx4090-256gb`, or the path of a file that `kimi-nb check --save` wrote, looks at another one.
#
# With `read_headers` the plans are made from the headers of the real files, a few megabytes read from the Hub. Without it they are made from the sizes in the catalog: near, and labelled so.

# %% tags=["parameters"]
machine: str = "this"  # "this", the name of a profile, or the path of a saved machine file
rented: str = "rtx4090-256gb"  # a machine to compare with: a profile's name, or the path of a file
objective: str = "decode"  # "decode", "prefill", "context" or "quality": what a plan is to be best at
read_headers: bool = False  # whether to read the headers of the real files from the Hub
rehearsal_s: int = 10  # seconds for measuring nano on this machine; 0 for none

# %%
from kimi_nb.run import params

params.check(
    machine=params.text(empty=False),
    rented=params.text(empty=False),
    objective=params.one_of("decode", "prefill", "context", "quality"),
    read_headers=params.flag(),
    rehearsal_s=params.one_of(0, *range(5, 601)),
)

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
# ## What llama.cpp will really use
#
# File sizes are only the beginning. llama.cpp also needs the context, buffers to compute in, and on a GPU a copy of one layer's experts at a time while it reads a prompt. All of that follows from the model's header and the settings, so it can be worked out without loading anything: for NVIDIA GPUs and for processors to the MiB that llama.cpp itself would print.
#
# Here is nano, whose header is at hand, on the machine above. The weights in main memory are pages of the file: the system can drop them and read them again, so they are counted apart.

# %%
from kimi_nb.model import named_model
from kimi_nb.plan import Settings
from kimi_nb.plan.show import contexts_table

nano = named_model("nano")
contexts_table(nano, Settings(cache_ram=0), computer, [1024, 8192, 32768])

# %% [markdown]
# ## The plan for Kimi on this machine
#
# The planner tries, in a second or so, every quant of the catalog with thousands of settings in mind: how many layers keep their experts on the GPU, how many tokens are read in one step, how the cache is kept, how the work is split over several GPUs. What it plans fits with room to spare, and it does not let llama.cpp choose by itself, because llama.cpp would cut the context to 4,096 tokens first.
#
# **Decode** is writing the answer, **prefill** is reading the prompt. Each speed is a band: the middle is what to expect, the ends are what bad and good luck look like. If nothing runs here, the table says what would.

# %%
from kimi_nb.model.candidates import candidates, with_real_header
from kimi_nb.plan.planner import make_plan
from kimi_nb.plan.show import alternatives_table, plan_table, reasons_table

quants = candidates("kimi-k2.5")
exact = with_real_header if read_headers else None
here = make_plan(quants, computer, objective=objective, exact=exact)
plan_table(here)

# %% [markdown]
# ## The plan on a machine you might rent
#
# The same for the machine in the parameter `rented`, with its reasons. Profiles hold typical values of such machines.

# %%
there_machine = machine_named(rented)
there = make_plan(quants, there_machine, objective=objective, exact=exact)
plan_table(there)

# %%
reasons_table(there.plan) if there.plan else print("There is no plan, and so there are no reasons.")

# %% [markdown]
# What else that machine could do:

# %%
alternatives_table(there)

# %% [markdown]
# ## Plan by hand
#
# The same figures with sliders: move one, with the mouse or the arrow keys, and see at once what each device must hold, whether it fits, how fast it would be, and the command that starts it. **Let the planner choose** begins with its choice; **Verify with llama.cpp** asks llama.cpp itself, without a weight; **Rehearse** measures, if you plan for the machine that you sit at. **Save plan** keeps what you chose in a small file: `kimi-nb serve --plan`, and notebook 5 with `plan_file`, run it without a click. In a headless run you see the panel as a summary.

# %%
from kimi_nb import panel

planning = panel.plan("kimi-k2.5", machine=rented, offline=not read_headers)
planning.press("choose")
planning.wait()

# %% [markdown]
# ## What the speed depends on
#
# Three pictures for the rented machine. The first shows where the memory goes: each bar is a device, the dashed line is all that is free there.

# %%
from kimi_nb.plan.figures import decode_figure, memory_figure, prefill_figure

shown = [one for one in quants if there.plan and one.quant == there.plan.model.quant]
memory_figure(there.plan) if shown else print("There is no plan to draw.")

# %% [markdown]
# Writing: each token passes through 8 experts of every layer. Those on the GPU are quick; those in main memory wait for the processor. So each layer whose experts find room on the GPU helps a little, and the last ones help most. Hollow points are what a GPU with more memory would give. On a machine without a GPU the picture shows threads instead.

# %%
decode_figure(there.plan, shown[0].model, there_machine) if shown else None

# %% [markdown]
# Reading a prompt: in each step, the experts in main memory are sent to the GPU once, whether the step has 64 tokens or 4,096. So larger steps read faster, as long as the GPU has memory for them.

# %%
prefill_figure(there.plan, shown[0].model, there_machine) if shown else None

# %% [markdown]
# ## A rehearsal: measuring instead of guessing
#
# The speeds above are bands, and wide ones: at 1 or 2 bits a weight a processor is held back by unpacking, and no formula knows by how much. Measuring does. A **rehearsal** runs small slices of the model, with its true width and true types but only a few layers and random weights, on your own machine with llama.cpp's own benchmark, and adds them up. For Kimi that takes about a minute and no download but the header.
#
# Here it measures nano, in a few seconds, on the machine that runs this notebook. nano is so small that several processor threads would only wait for each other, so it is measured with one. Other programs that run meanwhile disturb it; a longer `rehearsal_s` gives a narrower band.

# %%
from dataclasses import replace

from kimi_nb.engine import ensure_build
from kimi_nb.plan import forecast
from kimi_nb.plan.show import forecasts_table
from kimi_nb.rehearse import rehearse

this_machine = probe()
one_core = replace(this_machine, cpu=replace(this_machine.cpu, allowed_physical=1))
nano_plan = make_plan(candidates("nano"), one_core, ctx_size=4096).plan
speeds = {"guessed, for one core": nano_plan.forecast}
limits = ["nothing was measured"]
if rehearsal_s:
    profile = rehearse(nano, one_core, budget_s=rehearsal_s, build=ensure_build())
    speeds["measured in a rehearsal"] = forecast(nano, nano_plan.settings, one_core, profile)
    limits = profile.limits
forecasts_table(speeds)

# %% [markdown]
# A rehearsal also says what it could not show:

# %%
print("\n".join(f"- {limit}" for limit in limits))

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
# On the machine that is to run Kimi, look at it and keep what was found; on your laptop, plan for that file or for a machine you have not rented yet. `kimi-nb plan` reads a few megabytes of headers from the Hub and no weights.
#
# ```sh
# kimi-nb check --save my-server.json                       # what the machine has; keep it
# kimi-nb plan --model kimi-k2.5                            # the plan for this machine
# kimi-nb plan --model kimi-k2.5 --machine my-server.json   # or for that one, from elsewhere
# kimi-nb plan --model kimi-k2.5 --machine h100-80gb --objective quality
# kimi-nb rehearse --model kimi-k2.5 --quant UD-TQ1_0       # measure; plans use it from then on
# kimi-nb plan --model kimi-k2.5 --quant UD-TQ1_0 --save kimi.json
# kimi-nb download --model kimi-k2.5 --quant UD-TQ1_0
# kimi-nb serve --plan kimi.json                            # start what was planned
# ```
