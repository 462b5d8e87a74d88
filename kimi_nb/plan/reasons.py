"""Why a plan is as it is, in sentences for a person who has never run such a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_nb.plan.filling import expert_mib

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimi_nb.machine import Machine
    from kimi_nb.model.candidates import Candidate
    from kimi_nb.plan.limits import Limits
    from kimi_nb.plan.planner import Choice, Planning
    from kimi_nb.plan.speed import Forecast

__all__ = ["BOUNDS", "gb", "gib", "left_out", "no_room", "reasons", "trade", "warnings"]

_TEN_GB = 10**10
BOUNDS = {
    "cpu": "the processor, which unpacks and multiplies the experts in main memory",
    "ram": "the speed of main memory",
    "pcie": "the way between main memory and GPU",
    "gpu": "the GPU",
    "disk": "the disk",
}
"""What holds a forecast back, in words."""


def gib(mib: float) -> str:
    """Return a size as a person reads it."""
    return f"{mib / 1024:,.1f} GiB" if mib >= 102.4 else f"{mib:,.0f} MiB"  # noqa: PLR2004 - a tenth of a GiB


def gb(n_bytes: int) -> str:
    """Return the size of a download, in the units of download pages."""
    return f"{n_bytes / 1e9:,.0f} GB" if n_bytes > _TEN_GB else f"{n_bytes / 1e6:,.3g} MB"


def reasons(choice: Choice, planning: Planning, candidates: Sequence[Candidate]) -> list[str]:
    """Return why this model, this placement and these settings were chosen."""
    found = []
    if len(candidates) > 1:
        found.append(_quant(choice, planning, candidates))
    found += [_placement(choice, planning), _context(choice)]
    found += [text for text in (_step(choice), _loading(choice, planning.machine)) if text]
    found.append(
        f"{choice.option.settings.threads} threads: one for each fast core that may work here; twice as many"
        " on the same cores do not help."
    )
    found.append(_bound(choice.option.forecast))
    found.append(_margins(choice, planning.limits))
    found.append(
        "--fit off: every setting is given, because llama.cpp's own fitting cuts the context to 4,096 tokens"
        " first and does not look at main memory."
    )
    return found


def warnings(choice: Choice, planning: Planning) -> list[str]:
    """Return what a person should know before starting it."""
    found = []
    option, host = choice.option, choice.option.report.host
    if choice.candidate.approximate:
        found.append(
            (
                "approximate: the file's own header was not read; sizes come from the catalog, and how its"
                " bits are spread is assumed. Plan again when you are online, or with --gguf on the file."
            )
            + (f" ({choice.candidate.note}.)" if choice.candidate.note else "")
        )
    if planning.machine.origin == "profile":
        found.append(
            f"{planning.machine.name} stands for machines with typical values, all of their memory free: what"
            " else runs on a real one comes off. `kimi-nb check --save FILE` there tells its own."
        )
    if option.paged:
        found.append(
            f"{gib(host.paged_mib)} of the {gib(host.model_mib)} of weights in main memory find no room there"
            " and will be read from disk again and again: it runs, but slowly."
        )
    if option.settings.cache_type_k not in {None, "f16", "f32", "bf16"}:
        found.append(
            f"the cache keeps {option.settings.cache_type_k} values instead of 16 bits, which can cost some"
            " quality in long contexts."
        )
    if option.settings.mmproj:
        found.append(
            f"the vision part is counted with its {gib(planning.limits.mmproj_mib)} of weights; what it needs"
            " while it looks at a picture comes on top."
        )
    if option.report.gpus and not choice.search.whole(option):
        found.append(
            f"only {option.settings.n_gpu_layers} of {choice.search.weights.n_layer_all + 1} layers find room"
            " on the GPU, even with all experts in main memory."
        )
    if len(planning.machine.numa) > 1:
        found.append(
            f"this machine has {len(planning.machine.numa)} memory nodes; only a try tells whether"
            " --numa distribute helps."
        )
    if not option.report.exact:
        found.append("llama.cpp's figures are followed exactly for CUDA; on other GPUs they are near.")
    return found


def trade(gain: str, choice: Choice, chosen: Choice) -> str:
    """Return what an alternative gives, and what it costs against the plan."""
    mine, plan = choice.option, chosen.option
    speeds = (
        f"writes about {mine.forecast.decode_tok_s} tokens/s instead of {plan.forecast.decode_tok_s}, reads"
        f" {mine.forecast.prefill_tok_s} instead of {plan.forecast.prefill_tok_s}"
    )
    size = gb(choice.candidate.model.file_bytes)
    gives = {
        "quality": f"{choice.candidate.label} ({size}) loses less of the released weights",
        "context": f"a context of {mine.settings.ctx_size:,} tokens instead of {plan.settings.ctx_size:,}",
        "prefill": "reads long prompts faster",
        "decode": f"{choice.candidate.label} ({size}) writes faster",
    }[gain]
    return f"{gives}; {speeds}."


def left_out(planning: Planning, candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """Return why candidates cannot be downloaded: said of the smallest, since all others lack more."""
    if not candidates:
        return ()
    smallest = min(candidates, key=lambda one: one.model.file_bytes)
    size, lacks = gib(smallest.model.file_bytes / 2**20), gib(planning.disk_lacks(smallest))
    more = f"; so are {len(candidates) - 1} larger ones" if len(candidates) > 1 else ""
    keep = gib(planning.limits.disk_keep_free_mib)
    return (
        (
            f"{smallest.label} is too large for the disk: it takes {size}, and {lacks} are missing ({keep}"
            f" are kept free){more}."
        ),
    )


def no_room(candidates: Sequence[Candidate], machine: Machine, limits: Limits, ctx_size: int | None) -> str:
    """Return why nothing runs."""
    one = len(candidates) == 1
    which = f"{candidates[0].label} does not run" if one else "None of the quants runs"
    wish = "" if ctx_size is None else f" with {ctx_size:,} tokens of context"
    return (
        f"{which}{wish} on this machine: cache and buffers alone need more than the"
        f" {gib(machine.memory.available_mib)} of main memory that are free"
        f" ({gib(limits.host_keep_free_mib)} of them stay free)."
    )


def _quant(choice: Choice, planning: Planning, candidates: Sequence[Candidate]) -> str:
    label, size = choice.candidate.label, gb(choice.candidate.model.file_bytes)
    why = {
        "decode": "the fastest at writing; of those as fast, the largest",
        "prefill": "the fastest at reading prompts; of those as fast, the largest",
        "context": "the one that leaves room for the longest context",
        "quality": "the largest that runs from memory, so the one that loses least",
    }[planning.objective]
    return f"{label} ({size}): of {len(candidates)} quants {why}."


def _margins(choice: Choice, limits: Limits) -> str:
    ram = f"{gib(limits.host_keep_free_mib)} of main memory"
    if not choice.option.report.gpus:
        return f"{ram} stay free, as a margin."
    most = max(one.extra_mib for one in choice.option.report.gpus)
    beside = f"{gib(limits.cuda_context_mib)} for CUDA itself"
    borrowed = most - limits.cuda_context_mib - limits.mmproj_mib
    beside += f" and {gib(borrowed)} that its kernels borrow" if borrowed > 0 else ""
    gpu = f"{gib(limits.gpu_keep_free_mib)} of each GPU (beside {beside})"
    return f"{gpu} and {ram} stay free, as a margin."


def _bound(forecast: Forecast) -> str:
    writing, reading = (BOUNDS.get(bound, bound) for bound in (forecast.decode_bound, forecast.prefill_bound))
    if writing == reading:
        return f"What bounds both writing and reading is {writing}."
    return f"What bounds writing is {writing}; what bounds reading a prompt is {reading}."


def _placement(choice: Choice, planning: Planning) -> str:
    option, weights = choice.option, choice.search.weights
    report, n = option.report, option.settings.n_cpu_moe or 0
    if not report.gpus:
        gpus = "no GPU" if not planning.machine.usable_gpus else "no GPU with enough free memory"
        return f"There is {gpus}, so the processor computes everything from main memory."
    many = f"{len(report.gpus)} GPUs" if len(report.gpus) > 1 else "the GPU"
    if not choice.search.whole(option):
        return (
            f"{option.settings.n_gpu_layers} layers are on {many} and the others in main memory: one more"
            " would not find room."
        )
    on_host = [layer for layer in range(n) if weights.sums[layer][0]]
    if not on_host:
        return f"Everything is on {many}, which is the fastest there is."
    layers = sum(1 for sums in weights.sums if sums[0])
    free = max(mib for name, mib in option.left_mib.items() if name != "Host")
    need = expert_mib(weights, on_host[-1])
    room = f"one more layer's experts would need {gib(need)} of GPU memory, and {gib(max(free, 0))} are left"
    if free >= need:  # the room is on a GPU that already has all of its layers' experts
        room = f"one more layer's experts would need {gib(need)} on a GPU that has no room for it"
    partly = ""
    if option.settings.override_tensor:
        partly = f"; of layer {n}, a part of the experts stays there too"
    there = (
        f", with the experts of {layers - len(on_host)} of {layers} layers" if layers > len(on_host) else ""
    )
    stay = f"those of the first {len(on_host)}" if there else f"the experts of all {layers} layers"
    return (
        f"What every token needs is on {many}{there}; {stay} stay in main memory{partly}."
        f" {room[0].upper()}{room[1:]}."
    )


def _context(choice: Choice) -> str:
    report, settings = choice.option.report, choice.option.settings
    total = sum(gpu.context_mib for gpu in report.gpus) + report.host.context_mib
    limit = choice.search.model.context_length
    tokens = settings.ctx_size or limit
    share = "all that it was trained for" if tokens == limit else f"it was trained for {limit:,}"
    return f"{tokens:,} tokens of context take {gib(total)} in {settings.cache_type_k}; {share}."


def _step(choice: Choice) -> str:
    option = choice.option
    settings, weights = option.settings, choice.search.weights
    if not option.report.gpus or not (settings.n_cpu_moe or 0) or not weights.sums:
        return ""
    if settings.op_offload is False:
        return (
            "The GPU is not lent experts of main memory for prompts (--no-op-offload): the space that takes"
            " holds weights instead."
        )
    return (
        f"Prompts are read in steps of {settings.ubatch_size:,} tokens: in each, the experts in main memory"
        " are sent to the GPU once, so that larger steps read faster and take more GPU memory."
    )


def _loading(choice: Choice, machine: Machine) -> str:
    settings, host = choice.option.settings, choice.option.report.host
    if settings.load_mode == "none":
        return (
            f"--load-mode none: the {gib(host.model_mib)} of weights in main memory are read once, to stay;"
            " the GPU reads such memory faster than a mapped file."
        )
    if settings.repack is False:
        return (
            "--no-repack: a rearranged copy of the weights would not fit beside the file's own pages, which"
            " the system can drop when memory is short."
        )
    if machine.unified:
        return "GPU and processor share one memory, so the file is mapped, not copied."
    return ""
