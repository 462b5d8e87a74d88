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
# The first cell asks the drivers and the system. It respects limits: in a container, what counts is what the container may use, not what the machine has.

# %%
from kimi_nb.machine import machine_named, probe
from kimi_nb.tables import table

computer = probe() if machine == "this" else machine_named(machine)
print(f"{computer.name}: {computer.about}")


# %% [markdown]
# What it found, and why that matters for Kimi. Sizes are in GiB (1,073,741,824 bytes), as drivers count them; download pages count in GB (1,000,000,000 bytes), so 240 GB are 223.5 GiB.


# %%
def gib(mib):
    """Write MiB as GiB."""
    return f"{mib / 1024:,.1f} GiB"


gpus = "; ".join(f"{gpu.name}, {gib(gpu.total_mib)}" for gpu in computer.gpus)
processor = f"{computer.cpu.model}, {computer.cpu.physical_cores} cores"
disk = computer.disk
table(
    ["part", "here", "why it matters"],
    [
        ["GPU", gpus or "none", "holds what every token needs: attention, the shared expert, the cache"],
        [
            "GPU memory in all",
            gib(computer.gpu_mib),
            "the more layers' experts fit here, the faster it writes",
        ],
        [
            "main memory",
            f"{gib(computer.memory.total_mib)}, {gib(computer.memory.available_mib)} available",
            "holds the experts that do not fit on a GPU; its speed bounds the tokens per second",
        ],
        ["GPU and main memory together", gib(computer.capacity_mib), "should exceed the size of the weights"],
        ["processor", processor, "computes the experts that lie in main memory"],
        [
            "instruction sets",
            " ".join(computer.cpu.features) or "none that helps",
            "AVX-512 or AVX2 (x86), dotprod (ARM) make llama.cpp several times faster",
        ],
        [
            "memory nodes (NUMA)",
            str(len(computer.numa)),
            "with 2 or more, memory that belongs to the other socket is slower",
        ],
        [
            "disk for models",
            f"{gib(disk.free_mib)} free, {disk.filesystem}" if disk else "not part of a profile",
            "the whole download must fit, with room to spare",
        ],
    ],
)

# %% [markdown]
# ## What is worth knowing about it
#
# A healthy part is not mentioned. What is not as it should be gets an id, a reason and something to do; notebook 7 explains each id at more length.

# %%
if computer.notes:
    notes = table(
        ["id", "kind", "what and why", "what to do"],
        [[note.id, note.severity, f"{note.what}: {note.why}", note.fix] for note in computer.notes],
    )
else:
    notes = "Nothing stands out."
notes

# %% [markdown]
# ## A rough first look: which quants could fit
#
# The catalog knows the files of Kimi K2.5 that people publish: each **quant** has fewer bits for a weight than the one below it, hence a smaller file and some loss. This compares file sizes with memory and disk, and nothing more. It is a first look, not an estimate of what llama.cpp will use.

# %%
from kimi_nb.machine import first_look
from kimi_nb.model import catalog

kimi = catalog().model("kimi-k2.5")


def by_size(look, publisher):
    """Return one publisher's quants of known size, the smallest first."""
    mine = [one for one in look.quants if one.quant.publisher == publisher]
    return sorted(mine, key=lambda one: one.quant.bytes)


def verdict(one):
    """Say in words where a quant's weights could lie."""
    if one.fits_gpu:
        return "on the GPUs alone"
    return "in memory" if one.fits_memory else "too large for memory"


def spare(mib):
    """Say what is left, or how much is missing."""
    return "unknown" if mib is None else f"{gib(mib)} left" if mib >= 0 else f"{gib(-mib)} short"


def look_table(look):
    """Show the first publisher's quants; a size that is published rounded has a ~."""
    return table(
        ["quant", "download", "in memory", "where it could lie", "memory", "disk"],
        [
            [
                one.quant.name,
                one.quant.size,
                ("" if one.quant.exact else "~") + gib(one.quant.bytes / 2**20),
                verdict(one),
                spare(one.memory_spare_mib),
                spare(one.disk_spare_mib),
            ]
            for one in by_size(look, kimi.publishers[0].name)
        ],
        caption=f"{kimi.name} by {kimi.publishers[0].name}, against {gib(look.memory_mib)} of memory",
    )


first = first_look(computer, kimi)
look_table(first)

# %% [markdown]
# Other publishers have quants in between. Their smallest, and the largest that could lie in this machine's memory:

# %%
for publisher in kimi.publishers[1:]:
    looks = by_size(first, publisher.name)
    if not looks:  # their sizes are not known
        continue
    fitting = [one for one in looks if one.fits_memory]
    largest = (
        f"the largest that fits is {fitting[-1].quant.name} with {fitting[-1].quant.size}" if fitting else ""
    )
    print(
        f"{publisher.name} has {len(looks)}, from {looks[0].quant.name} with {looks[0].quant.size}; "
        f"{largest or 'none of them fits'}."
    )
if not any(one.fits_memory for one in first.quants):
    print(
        "Nothing fits here. nano does: go on with notebook 3, and rent or borrow a machine for the real one."
    )

# %% [markdown]
# ## The same as a picture
#
# Each bar is a quant, as long as its weights. A bar that ends left of the dotted line could lie on the GPUs alone; one that ends left of the solid line, in GPU and main memory together. The words beside each bar say the same.

# %%
import plotly.graph_objects as go

LOOKS = {  # colour and pattern for each verdict: never colour alone
    "on the GPUs alone": ("#1b7837", ""),
    "in memory": ("#2166ac", "/"),
    "too large for memory": ("#8c510a", "x"),
}


def look_figure(look, name):
    """Draw the quants' sizes against GPU memory, and against all memory."""
    figure = go.Figure()
    looks = by_size(look, kimi.publishers[0].name)
    for words, (colour, pattern) in LOOKS.items():
        mine = [one for one in looks if verdict(one) == words]
        sizes = [one.quant.bytes / 2**30 for one in mine]
        figure.add_bar(
            orientation="h",
            y=[one.quant.name for one in mine],
            x=sizes,
            text=[f"{size:,.0f} GiB, {words}" for size in sizes],
            textposition="outside",
            cliponaxis=False,
            name=words,
            marker={"color": colour, "pattern": {"shape": pattern}},
        )
    marks = [(look.memory_mib, "solid", "all memory", "top")]
    marks += [(look.gpu_mib, "dot", "GPU memory", "bottom")] if look.gpu_mib else []
    for mib, dash, words, place in marks:
        figure.add_vline(x=mib / 1024, line_dash=dash, line_width=2)
        figure.add_annotation(
            x=mib / 1024, y=1 if place == "top" else 0, yref="paper", yanchor="bottom" if place == "top" else "top",
            text=f"{words}: {gib(mib)}", showarrow=False, yshift=2 if place == "top" else -22,
        )  # fmt: skip
    largest = max([*(one.quant.bytes / 2**30 for one in looks), look.memory_mib / 1024])
    figure.update_layout(
        title={"text": f"{kimi.name}: weights against the memory of {name}"},
        xaxis={"title": {"text": "GiB"}, "range": [0, 1.45 * largest]},
        yaxis={"categoryorder": "array", "categoryarray": [one.quant.name for one in looks][::-1]},
        legend={"title": {"text": "where it could lie"}, "orientation": "h", "y": -0.3},
        barmode="overlay",
        height=520,
        margin={"t": 90},
    )
    return figure


look_figure(first, computer.name)

# %% [markdown]
# ## What comes on top of the weights
#
# The context needs memory too: for each token that the model can see, llama.cpp keeps a short record of every layer. Kimi's attention compresses that record, so it is small for a model of this size. This part is exact; buffers for computing, the system and other programs come on top of it.

# %%
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
# Pick a machine from the list to see the same table and picture for it. The profiles hold typical values, not measured ones.

# %%
import os

from kimi_nb.machine import profiles

choices = list(dict.fromkeys([machine, "this", *profiles()]))
if os.environ.get("KIMI_NB_HEADLESS") == "1":
    print(f"Nobody is watching this run, so there is no list to pick from. Looked at: {machine}.")
    print("To look at another one: kimi-nb run notebooks/02_hardware_check.ipynb -p machine NAME")
    print(f"NAME is one of: {', '.join(choices)}")
else:
    import ipywidgets
    from IPython.display import display

    picker = ipywidgets.Dropdown(
        options=choices,
        value=machine,
        description="Machine:",
        tooltip="The machine to compare with the quants",
    )
    shown = ipywidgets.Output()

    def show(change):
        """Show the chosen machine's table and picture in place of the ones before."""
        chosen = probe() if change["new"] == "this" else machine_named(change["new"])
        look = first_look(chosen, kimi)
        with shown:
            shown.clear_output(wait=True)
            display(look_table(look), look_figure(look, chosen.name))

    picker.observe(show, names="value")
    display(picker, shown)

# %% [markdown]
# ## Copy-paste recipe
#
# On the machine that is to run Kimi, look at it and keep what was found; on your laptop, look at that file or at a machine you have not rented yet. Then choose a quant whose memory column says "left", with some tens of GiB to spare for context and buffers.
#
# ```sh
# kimi-nb check                              # this machine, and a first look at kimi-k2.5
# kimi-nb check --save my-server.json        # keep it
# kimi-nb check --machine my-server.json     # look at it from elsewhere
# kimi-nb check --machine rtx4090-256gb      # or at one of the profiles
# kimi-nb check --json                       # for programs
# ```
