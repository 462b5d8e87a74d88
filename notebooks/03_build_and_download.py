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
# # 3. Build and download: the programs, and a model you can trust
#
# Two things are needed to run a model: **llama.cpp**, the program, and the model's **GGUF files**. This notebook builds the first from a pinned source, once. Then it downloads nano the way you will download Kimi: in several files (**shards**), from a server that speaks the protocol of the Hugging Face Hub, with every byte checked. That server runs inside this notebook, so nothing here needs the network once llama.cpp is built.
#
# It also shows what a long night can bring: a download that is interrupted, and a file that is damaged on the disk.
#
# ## Contents
#
# - [Parameters](#Parameters)
# - [Build llama.cpp](#Build-llama.cpp)
# - [Cut nano into shards](#Cut-nano-into-shards)
# - [A Hub of our own](#A-Hub-of-our-own)
# - [One file, with huggingface_hub](#One-file,-with-huggingface_hub)
# - [Before the first byte](#Before-the-first-byte)
# - [The whole set, interrupted and continued](#The-whole-set,-interrupted-and-continued)
# - [A damaged byte, found and mended](#A-damaged-byte,-found-and-mended)
# - [A folder that another tool filled](#A-folder-that-another-tool-filled)
# - [What is here](#What-is-here)
# - [What the header says](#What-the-header-says)
# - [Clean up](#Clean-up)
# - [Copy-paste recipe](#Copy-paste-recipe)
#
# ## Parameters
#
# The size at which the model is cut. Kimi's files are cut at about 50 GB; nano has 19.5 MB in all, so 5 MB give it four shards.

# %% tags=["parameters"]
shard_size_mb: int = 5  # largest size of a shard of nano, in MB (1,000,000 bytes)

# %%
from kimi_nb.run import params

params.check(shard_size_mb=params.between(2, 15))

# %% [markdown]
# ## Build llama.cpp
#
# The next cell builds llama.cpp for what this machine has: a GPU of NVIDIA or Apple, or the processor alone. The first time, that takes 12 to 14 minutes of processor time for the processor alone (half as long on two cores) and more for a GPU, and prints a line now and then; stopped at any point, it continues when the cell is run again. Later it finds the finished build at once.

# %%
import sys
import time

from kimi_nb.engine import ensure_build, find_build
from kimi_nb.progress import ProgressLine, bar

was_here = find_build() is not None
line = ProgressLine(sys.stdout)
started = time.monotonic()
build = ensure_build(
    progress=lambda text, part: line.update(text if part is None else f"{bar(part)} {part:4.0%} {text}")
)
print("It was here already." if was_here else f"Built in {time.monotonic() - started:.0f} s.")
print(f"llama.cpp {build.version}, for {build.backend}")

# %% [markdown]
# These are the programs it consists of. The notebooks use `llama-server` and `llama-gguf-split`; the others are for planning, measuring and making quants of your own.

# %%
from kimi_nb.tables import table

PURPOSES = {
    "llama-server": "runs a model and answers chat requests over HTTP",
    "llama-fit-params": "says how much memory a model would take, without loading it",
    "llama-gguf-split": "cuts a model into shards, or joins them",
    "llama-bench": "measures the speed of reading and writing",
    "llama-batched-bench": "measures the speed with several requests at once",
    "llama-quantize": "makes a smaller quant of a model",
    "llama-imatrix": "finds out which weights matter, before making a quant",
    "llama-perplexity": "measures what a quant has lost",
    "llama-tokenize": "shows the tokens of a text",
    "llama-mtmd-cli": "answers questions about an image",
}
table(
    ["program", "what it is for"],
    [[f"`{build.program(name).name}`", purpose] for name, purpose in PURPOSES.items()],
    caption=f"in {build.bin}",
)

# %% [markdown]
# ## Cut nano into shards
#
# Publishers cut large models into shards, since no one wants to repeat a download of 240 GB for one bad file. llama.cpp's own program does it; the name of each shard says which of how many it is. You load the first one, and llama.cpp finds the others beside it.
#
# All files of this lesson go into a temporary folder, in the shape of a Hub repository: one folder for each quant.

# %%
import subprocess
import tempfile
from pathlib import Path

from kimi_nb.nano import nano_path

REPO, QUANT = "lesson/nano-GGUF", "Q8_0"  # 8 bits for a weight: how nano is stored
lesson = tempfile.TemporaryDirectory(prefix="kimi-nb-lesson-")
published = Path(lesson.name) / "hub" / REPO / QUANT
published.mkdir(parents=True)
size = f"{shard_size_mb}M"
command = [build.program("llama-gguf-split"), "--split", "--split-max-size", size]
done = subprocess.run(
    [*command, nano_path(), published / f"nano-{QUANT}"], capture_output=True, text=True, check=False
)
assert done.returncode == 0, done.stderr[-500:]
table(
    ["shard", "bytes"],
    [[f"`{shard.name}`", shard.stat().st_size] for shard in sorted(published.iterdir())],
)

# %% [markdown]
# ## A Hub of our own
#
# This starts a small server on this machine that answers as the Hub does: with a list of files and their hashes, and with redirects to a second address for the large ones. Its address is all that differs from the real Hub.

# %%
import os

from kimi_nb.nano.hub import LocalHub

# Where a proxy is set, it must not be asked for addresses of this machine.
os.environ["NO_PROXY"] = ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1"]))
hub = LocalHub(Path(lesson.name) / "hub").start()
print(f"The lesson's Hub listens on {hub.endpoint}")

# %% [markdown]
# ## One file, with huggingface_hub
#
# `huggingface_hub` is the Hub's own Python package. It does not know that this Hub is small. First it lists the repository; `token=False` keeps your own Hub token, if you have one, at home.

# %%
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.utils import disable_progress_bars

disable_progress_bars()
listed = HfApi(endpoint=hub.endpoint, token=False).list_repo_tree(REPO, recursive=True)
shards = [entry for entry in listed if hasattr(entry, "size")]
table(
    ["file in the repository", "bytes", "sha256, its first digits"],
    [[f"`{entry.path}`", entry.size, f"`{entry.lfs.sha256[:16]}`"] for entry in shards],
)

# %% [markdown]
# Then it fetches one file. Note the folder of the quant in the path: many guides leave it out, and then the file is not found.

# %%
one = hf_hub_download(
    REPO,
    shards[0].path,
    endpoint=hub.endpoint,
    token=False,
    local_dir=Path(lesson.name) / "one-file",
)
print(f"{shards[0].path}: {Path(one).stat().st_size:,} bytes have come")

# %% [markdown]
# ## Before the first byte
#
# For a set of 240 GB one wants more than a file at a time: a fixed revision, so that all shards are of one version; a check of every byte on its way; and that an interruption costs next to nothing. `kimi-nb download` does that, and the cells from here on call the functions behind it. `plan_download` is what `--dry-run` prints: which files at which commit, whether they fit on the disk, and for a large model whether this machine could run it.

# %%
from kimi_nb.engine.download import plan_download

models = Path(lesson.name) / "models"
todo = plan_download(REPO, QUANT, folder=models, endpoint=hub.endpoint)
print(f"{todo.fetch_bytes / 1e6:.1f} MB to fetch, at commit {todo.manifest.commit[:12]}.")
print(f"By {todo.transfer}.")
print(f"{todo.room.free_bytes / 1e9:.0f} GB are free on {todo.room.mount} ({todo.room.filesystem}).")
for warning in (*todo.warnings, *todo.outlook):
    print(f"note: {warning}")

# %% [markdown]
# ## The whole set, interrupted and continued
#
# The first attempt is made to fail halfway, as if the network or the power had gone. The function that is called with the progress raises an error to do so; a panel would draw a bar with it.

# %%
from kimi_nb.engine.download import Options, download
from kimi_nb.files import sha256_file


class PowerCutError(Exception):
    """What interrupts the first attempt."""


def cut_halfway(now):
    """Interrupt the download when half of it is here."""
    if now.done_bytes > now.total_bytes / 2:
        raise PowerCutError(f"{now.done_bytes / 1e6:.1f} of {now.total_bytes / 1e6:.1f} MB were here")


slow = Options(limit_bytes_s=20e6)  # a limit, so that there is a halfway
try:
    download(REPO, QUANT, folder=models, endpoint=hub.endpoint, options=slow, progress=cut_halfway)
except PowerCutError as interruption:
    print(f"Interrupted: {interruption}.")

# %% [markdown]
# The download panel shows the same from the outside: what is still to come and whether there is room for it, how far each file is, and the models of the folder, to verify or remove. It looks at the disk, so it knows of the interruption although it was not there. **Resume** goes on in the background while other cells run, **Pause** keeps what has come; closing the tab stops nothing. You may press it, or leave it to the next cell. In a headless run you see the panel as a summary.

# %%
from kimi_nb import panel

downloading = panel.download(REPO, QUANT, folder=models, endpoint=hub.endpoint)
downloading.wait()

# %% [markdown]
# The same call again fetches only what is missing. What was on its way at the moment of the power cut is kept too, so the two figures may add up to less than the whole. No shard has its final name before its hash was found right, so there is never half a file that looks like a whole one.

# %%
result = download(REPO, QUANT, folder=models, endpoint=hub.endpoint)
total = sum(file.size for file in result.manifest.files)
print(f"Fetched {result.fetched_bytes / 1e6:.1f} MB this time, of {total / 1e6:.1f} MB in all.")
print(f"Pinned to commit {result.manifest.commit[:12]}; {result.transfer}.")
table(
    ["file", "bytes", "sha256 on this disk is the Hub's"],
    [
        [f"`{path.name}`", path.stat().st_size, "yes" if sha256_file(path) == file.sha256 else "NO"]
        for path, file in zip(result.files, result.manifest.files, strict=True)
    ],
)

# %% [markdown]
# ## A damaged byte, found and mended
#
# Disks and memory flip a bit now and then, and a model with a flipped bit still loads: it only answers a little worse, or breaks off. So let us flip one bit in the second shard.

# %%
damaged = result.files[1]
with damaged.open("r+b") as file:
    file.seek(damaged.stat().st_size // 2)
    byte = file.read(1)[0]
    file.seek(-1, os.SEEK_CUR)
    file.write(bytes([byte ^ 1]))
print(f"One bit of {damaged.stat().st_size * 8:,} in {damaged.name} is wrong now.")

# %% [markdown]
# Verifying reads every byte again. Without repair, it only says what it found: one line, with an id that notebook 7 explains.

# %%
from kimi_nb.engine.download import verify
from kimi_nb.errors import DownloadError

try:
    verify(model=REPO, quant=QUANT, folder=models, endpoint=hub.endpoint, repair=False)
except DownloadError as error:
    print(error)

# %% [markdown]
# With repair, it fetches again what is broken, and no more: for a shard of Kimi that means about a MB instead of 50 GB.

# %%
mended = verify(model=REPO, quant=QUANT, folder=models, endpoint=hub.endpoint)
for look in mended.repaired:
    print(f"{look.file.path} was {look.verdict}: {look.why}")
print(f"Fetched {mended.fetched_bytes / 1e6:.1f} MB to mend it. All files are whole again.")

# %% [markdown]
# ## A folder that another tool filled
#
# The file that `huggingface_hub` fetched above lies in a folder of its own. `verify` takes such a folder as it is, copies nothing, and fetches only what is missing or wrong. The shard that is there is hashed and stays; the others come from the Hub.

# %%
adopted = verify(
    Path(lesson.name) / "one-file",
    model=REPO,
    quant=QUANT,
    folder=Path(lesson.name) / "models-of-another",
    endpoint=hub.endpoint,
)
print(f"Fetched {adopted.fetched_bytes / 1e6:.1f} MB of {adopted.manifest.size / 1e6:.1f} MB.")
print(f"The set lies in {adopted.first_shard.parent.name} beside the file that was there.")

# %% [markdown]
# ## What is here
#
# `kimi-nb models` lists the sets of a models folder. Their state costs a look at each file's size and date, not a reading: what was verified is trusted until it changes, and so a server starts without delay. Removing a set takes its own files and nothing else, and refuses while a program has one of them open.

# %%
from kimi_nb.engine.download import trust
from kimi_nb.engine.fetch.shelf import Shelf
from kimi_nb.engine.fetch.stock import find, plan_removal, stock

shelf = Shelf(models)
print(trust(result.first_shard))
for one in stock(shelf):
    print(f"{one.entry.manifest.name}: {one.state}, {one.here_bytes / 1e6:.1f} MB")
removal = plan_removal(shelf, find(shelf, f"{REPO}:{QUANT}"))
print(f"Removing it would delete {len(removal.files)} files and free {removal.freed_bytes / 1e6:.1f} MB.")

# %% [markdown]
# ## What the header says
#
# A GGUF file begins with a header that describes the whole model. Reading it takes a moment, even for the largest model, and shows whether you have what you think you have. Beside nano stands what the catalog says of Kimi K2.5: the same plan, other numbers.

# %%
from kimi_nb.model import catalog, read_header

nano = read_header(result.first_shard)
kimi = catalog().model("kimi-k2.5")
real, quant = kimi.architecture, kimi.quant("UD-TQ1_0")
table(
    ["what", "nano", "Kimi K2.5"],
    [
        ["architecture", nano.architecture, real.gguf_architecture],
        ["weights", f"{nano.parameters:,}", f"{kimi.parameters.total:,}"],
        ["layers", str(nano.block_count), str(real.n_layer)],
        ["of these without experts", str(nano.leading_dense_block_count), str(real.n_layer_dense_lead)],
        ["experts in a layer", str(nano.expert_count), str(real.n_expert)],
        ["experts used for a token", str(nano.expert_used_count), str(real.n_expert_used)],
        ["experts used for every token", str(nano.expert_shared_count), str(real.n_expert_shared)],
        ["context in tokens", f"{nano.context_length:,}", f"{real.n_ctx_train:,}"],
        ["vocabulary", f"{nano.vocab_size:,}", f"{real.n_vocab:,}"],
        ["quant", nano.quant, f"{quant.name}, for example"],
        ["shards", str(nano.split_count), str(quant.shards)],
        ["size of all files", f"{nano.file_bytes / 1e6:.1f} MB", quant.size],
        ["tensors", str(len(nano.tensors)), "not in the catalog: its header says it"],
    ],
)

# %% [markdown]
# ## Clean up
#
# The lesson's Hub stops and its folder goes. The build of llama.cpp stays: every later notebook uses it.

# %%
hub.stop()
lesson.cleanup()
print("The lesson's files are gone.")

# %% [markdown]
# ## Copy-paste recipe
#
# For the real model. `--dry-run` shows what would come, whether it fits on the disk, and fetches nothing. Interrupt the download whenever you like; the same line continues it.
#
# ```sh
# kimi-nb build
# kimi-nb download --model kimi-k2.5 --quant UD-TQ1_0 --dry-run
# # about 240 GB in 5 shards
# kimi-nb download --model kimi-k2.5 --quant UD-TQ1_0
# # later: read every byte again, and mend what is broken
# kimi-nb download --model kimi-k2.5 --quant UD-TQ1_0 --verify
# ```
#
# With the Hub's own tool instead: its name is `hf` now, the older `huggingface-cli` no longer works. It continues by itself, too. Then let the files be checked where they lie:
#
# ```sh
# hf download unsloth/Kimi-K2.5-GGUF --include "UD-TQ1_0/*" --local-dir models/Kimi-K2.5-GGUF
# kimi-nb download --verify models/Kimi-K2.5-GGUF --repo unsloth/Kimi-K2.5-GGUF --quant UD-TQ1_0
# ```
#
# Each quant lies in a folder of its own, and the number of shards differs. Give llama.cpp the first one; `kimi-nb models path UD-TQ1_0` prints where it lies:
#
# | quant | size | the first shard |
# |---|---|---|
# | UD-TQ1_0 | about 240 GB | `UD-TQ1_0/Kimi-K2.5-UD-TQ1_0-00001-of-00005.gguf` |
# | UD-Q2_K_XL | 374.8 GB | `UD-Q2_K_XL/Kimi-K2.5-UD-Q2_K_XL-00001-of-00008.gguf` |
# | UD-Q4_K_XL | about 630 GB | `UD-Q4_K_XL/Kimi-K2.5-UD-Q4_K_XL-00001-of-00013.gguf` |
#
# Notebook 5 is about serving; this is how it begins on a machine with one GPU, all experts in main memory and the weights mapped from the disk:
#
# ```sh
# kimi-nb serve --model "$(kimi-nb models path UD-TQ1_0)" --ctx-size 16384 --n-gpu-layers 99 --cpu-moe --load-mode mmap
# ```
