"""What was measured on a machine for one quant of a model, and the cost of each part of it.

llama.cpp works in steps: one token while it writes, ``ubatch_size`` tokens while it reads a prompt. So one
table holds both: what each part of the model costs in a step of so many tokens, by where it is computed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from kimi_nb.errors import UsageError
from kimi_nb.records import RecordError, from_plain, to_plain, without_format

if TYPE_CHECKING:
    from kimi_nb.machine import Machine
    from kimi_nb.model import Model
    from kimi_nb.plan.memory_verdict import MemoryReport
    from kimi_nb.plan.settings import Settings
    from kimi_nb.plan.speed import Forecast

__all__ = ["FORMAT", "Cost", "Measurement", "Profile", "ProfileModel", "StepCost", "Way", "forecast_from"]

FORMAT = 1
"""The version of the JSON layout; it grows when a key is added, dropped or changes its meaning."""

Part = Literal["fixed", "dense", "moe", "head", "depth"]
"""What costs: a step as such; one dense layer; one layer of experts; the output; a layer's cached tokens."""

Way = Literal["gpu", "cpu", "experts_cpu", "experts_offload"]
"""Where: all on a GPU; all on the processor; a layer on a GPU with its experts on the processor; or with its
experts in host memory, sent to the GPU over PCIe for each step (op-offload)."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Milliseconds: the middle of what was measured, and how far the measurements spread."""

    low: float
    expected: float
    high: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            low=self.low + other.low,
            expected=self.expected + other.expected,
            high=self.high + other.high,
        )

    def __mul__(self, times: float) -> Cost:
        return Cost(low=self.low * times, expected=self.expected * times, high=self.high * times)


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """What one part of the model costs in one step.

    Attributes:
        part: Which part. ``depth`` is for one layer and 1024 tokens in the cache; ``head`` for the whole
            output, once a step that writes.
        way: Where it is computed.
        threads: Processor threads; 0 where only a GPU works.
        tokens: Tokens in the step; 1 while writing.
        kv_type: Type of the cache.
        ms: The cost.
    """

    part: Part
    way: Way
    threads: int
    tokens: int
    kv_type: str
    ms: Cost


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One run of llama-bench on a slice, as it came out.

    Attributes:
        n_dense: Dense layers of the slice.
        n_moe: Layers of experts.
        n_expert: Experts in each of them.
        n_vocab: Tokens of its vocabulary.
        moe_bytes: Weights that one token reads in one of its layers of experts, on average.
        settings: The settings it ran with, by llama.cpp's names.
        prompt_tokens: Tokens read in one sample; 0 where it wrote.
        written_tokens: Tokens written in one sample; 0 where it read.
        depth: Tokens in the cache before.
        samples_ms: Milliseconds of each sample.
    """

    n_dense: int
    n_moe: int
    n_expert: int
    n_vocab: int
    moe_bytes: float
    settings: dict[str, Any]
    prompt_tokens: int
    written_tokens: int
    depth: int
    samples_ms: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class ProfileModel:
    """The model that costs are for.

    Attributes:
        name: As its header gives it.
        quant: Its label.
        architecture: llama.cpp's name, ``deepseek2`` for Kimi.
        n_embd: Width of the model.
        n_dense: Dense layers.
        n_moe: Layers of experts.
        n_expert: Experts in each.
        n_expert_used: Experts that a token uses.
        n_vocab: Tokens of the vocabulary.
        dense_bytes: Weights of a dense layer, on average.
        rest_bytes: Weights of a layer of experts that every token uses.
        attention_bytes: The part of these that is attention.
        used_bytes: Weights of the experts that one token uses in a layer, on average.
        experts_bytes: Weights of all experts of a layer, on average.
        head_bytes: Weights of the output.
        types: The tensor types of each role, most frequent first.
    """

    name: str
    quant: str
    architecture: str
    n_embd: int
    n_dense: int
    n_moe: int
    n_expert: int
    n_expert_used: int
    n_vocab: int
    dense_bytes: float
    rest_bytes: float
    attention_bytes: float
    used_bytes: float
    experts_bytes: float
    head_bytes: float
    types: dict[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a rehearsal found out.

    Attributes:
        machine: Name of the machine.
        machine_key: What of the machine the figures depend on: processor, cores, GPUs.
        build: llama.cpp's version.
        backend: ``cpu``, ``cuda``, ``metal`` or ``vulkan``.
        made: When, in UTC, ISO 8601.
        model: What it is for.
        costs: What each part costs.
        measurements: What was measured, as it came out.
        disk_read_mib_s: How fast the disk reads what is not cached, in MiB/s; None where that could not be
            measured. A faster disk is the higher number.
        limits: What the measurement cannot show, in sentences for a person.
    """

    machine: str
    machine_key: str
    build: str
    backend: str
    made: str
    model: ProfileModel
    costs: tuple[StepCost, ...]
    measurements: tuple[Measurement, ...] = ()
    disk_read_mib_s: Cost | None = None
    limits: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as a JSON object; :meth:`from_dict` reads it back."""
        plain: dict[str, Any] = to_plain(self)
        return {"format": FORMAT, **plain}

    @classmethod
    def from_dict(cls, value: Any, *, source: str = "the profile") -> Profile:
        """Make a profile of a JSON object.

        Args:
            value: What :meth:`to_dict` gave.
            source: What to call it in an error.

        Raises:
            UsageError: A key is missing, unknown, or holds what it must not (KNB841); the key is named.
        """
        try:
            return _checked(from_plain(cls, without_format(value, FORMAT)))
        except RecordError as error:
            raise UsageError(
                "KNB841",
                f"{source} is not a profile this version can read",
                why=f"{error.key or 'the whole'} {error.problem}",
                fix="Measure anew with `kimi-nb rehearse`.",
            ) from None


def forecast_from(
    profile: Profile,
    model: Model,
    settings: Settings,
    machine: Machine,
    *,
    report: MemoryReport | None = None,
) -> Forecast:
    """Return how fast a model will be, from what was measured on that machine.

    Args:
        profile: What was measured.
        model: The model, from its header; of the same shape as the profile's.
        settings: How it is run.
        machine: Where; the one that the profile was measured on.
        report: What it takes there, if that is known already.

    Raises:
        ModelFileError: KNB371, the model is not covered.
        UsageError: KNB370 or KNB372, a setting cannot be used or is not covered; KNB842, the profile is for
            another model, or does not cover these settings.
    """
    from kimi_nb.plan.profile_forecast import forecast_from as forecast

    return forecast(profile, model, settings, machine, report=report)


def _checked(profile: Profile) -> Profile:
    """Refuse what each number allows alone but not together."""
    for i, cost in enumerate(profile.costs):
        if not cost.ms.low <= cost.ms.expected <= cost.ms.high:
            raise RecordError(f"costs[{i}].ms", "must have low <= expected <= high")
        if cost.tokens < 1:
            raise RecordError(f"costs[{i}].tokens", "must be at least 1")
    if not any(cost.tokens == 1 for cost in profile.costs):
        raise RecordError("costs", "must hold the costs of writing, which are for 1 token")
    for i, measured in enumerate(profile.measurements):
        if bool(measured.prompt_tokens) == bool(measured.written_tokens) or not measured.samples_ms:
            raise RecordError(f"measurements[{i}]", "must have read or written, with at least one sample")
    return profile
