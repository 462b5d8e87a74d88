"""A plan: one way to run a model on a machine, with the reasons; kept as a small JSON file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from kimi_nb.errors import UsageError
from kimi_nb.files import at_home, write_json
from kimi_nb.plan.limits import Limits
from kimi_nb.plan.memory_verdict import GpuMemory, HostMemory, MemoryReport
from kimi_nb.plan.settings import Settings
from kimi_nb.plan.speed import Band, Forecast
from kimi_nb.records import RecordError, from_plain, read_json, to_plain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kimi_nb.model.candidates import Candidate

__all__ = ["FORMAT", "Plan", "PlannedModel"]

FORMAT = 1
"""The version of the JSON layout; it grows when a key is added, dropped or changes its meaning."""

_DERIVED = ("format", "fits", "short_mib", "verified", "argv")
"""Keys that other programs read and that are worked out again, not believed, when a file is loaded."""


@dataclass(frozen=True, kw_only=True)
class PlannedModel:
    """Which model a plan is for.

    Attributes:
        name: As its header gives it.
        quant: Its label.
        file: The file to give to llama.cpp, with the path where it was read, if it was.
        file_bytes: All its files together.
        layers: Layers, of experts or dense.
        context_length: Tokens of context it was trained for.
        approximate: Whether its header is a stand-in, so that every figure of the plan is near, not exact.
        header_sha256: The header's hash; empty for a stand-in.
        key: Its name in the catalog, if it is there.
        repo: The repository it can be downloaded from.
    """

    name: str
    quant: str
    file: str
    file_bytes: int
    layers: int
    context_length: int
    approximate: bool
    header_sha256: str
    key: str | None = None
    repo: str | None = None

    @property
    def title(self) -> str:
        """Model and quant, as a person says them."""
        return self.name if self.quant.lower() in self.name.lower() else f"{self.name} {self.quant}"

    @classmethod
    def of(cls, candidate: Candidate) -> PlannedModel:
        """Describe a candidate."""
        model = candidate.model
        return cls(
            name=model.name,
            quant=candidate.label,
            file=model.source if candidate.on_disk else model.shards[0].name,
            file_bytes=model.file_bytes,
            layers=model.block_count - model.nextn_predict_layers,
            context_length=model.context_length,
            approximate=candidate.approximate,
            header_sha256="" if candidate.approximate else model.header_sha256,
            key=candidate.key,
            repo=candidate.repo,
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One way to run a model on a machine.

    Attributes:
        model: Which model.
        machine: The machine's name.
        objective: What it is best for.
        settings: Every setting that matters, none left to llama.cpp's own fitting.
        memory: What it takes.
        forecast: How fast it should be.
        limits: What it leaves free.
        reasons: Why it is so, in sentences for a person.
        warnings: What a person should know before starting it.
    """

    model: PlannedModel
    machine: str
    objective: Literal["decode", "prefill", "context", "quality"]
    settings: Settings
    memory: MemoryReport
    forecast: Forecast
    limits: Limits = field(default_factory=Limits)
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def argv(self) -> list[str]:
        """The command that starts it."""
        return ["llama-server", "--model", self.model.file, *self.settings.argv()]

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as a JSON object: an estimate's keys, and the plan's own."""
        return {
            "format": FORMAT,
            "model": to_plain(self.model),
            "machine": self.machine,
            "objective": self.objective,
            "settings": self.settings.to_dict(),
            **self.memory.as_dict(),
            "exact": self.memory.exact and not self.model.approximate,
            "forecast": self.forecast.as_dict(),
            "verified": None,
            "argv": self.argv,
            "reasons": list(self.reasons),
            "warnings": list(self.warnings),
            "limits": to_plain(self.limits),
        }

    @classmethod
    def from_dict(cls, value: Any, *, source: str = "the plan") -> Plan:
        """Make a plan of a JSON object; what is derived from the rest is worked out anew.

        Args:
            value: What :meth:`to_dict` gave, or a whole document of ``kimi-nb plan --json``.
            source: What to call it in an error.

        Raises:
            UsageError: KNB376, a key is missing, unknown, or holds what it must not; or KNB501 to KNB503, a
                setting is wrong.
        """
        try:
            return _plan(_of_document(value))
        except RecordError as error:
            raise UsageError(
                "KNB376",
                f"{source} is not a plan that this version can read",
                why=f"{error.key or 'the whole'} {error.problem}",
                fix="Make it anew with `kimi-nb plan --save FILE`.",
            ) from None

    def save(self, path: Path) -> None:
        """Write the plan to ``path``, whole or not at all.

        Raises:
            UsageError: KNB377, the file cannot be written there.
        """
        path = at_home(path)
        try:
            if path.is_dir():
                raise IsADirectoryError(21, "it is a folder")
            write_json(path, self.to_dict())
        except OSError as error:
            raise UsageError(
                "KNB377",
                f"the plan could not be saved to {path}",
                why=error.strerror or str(error),
                fix="Name a file in a folder you can write to.",
            ) from None

    @classmethod
    def load(cls, path: Path | str) -> Plan:
        """Read a plan that :meth:`save` wrote.

        Raises:
            UsageError: KNB375, the file cannot be read or is not JSON; or as from :meth:`from_dict`.
        """
        path = at_home(path)
        fix = "Name a file that `kimi-nb plan --save FILE` wrote."
        return cls.from_dict(read_json(path, "plan", error_id="KNB375", fix=fix), source=str(path))


@dataclass(frozen=True, kw_only=True)
class _Record:
    """A plan's file, apart from settings and speed, which read themselves."""

    model: PlannedModel
    machine: str
    objective: Literal["decode", "prefill", "context", "quality"]
    settings: dict[str, Any]
    devices: tuple[GpuMemory, ...]
    host: HostMemory
    exact: bool
    forecast: _SpeedRecord
    limits: Limits
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _BandRecord:
    low: float
    expected: float
    high: float
    bound: str

    def band(self) -> Band:
        return Band(self.low, self.expected, self.high)


@dataclass(frozen=True, kw_only=True)
class _SpeedRecord:
    decode_tok_s: _BandRecord
    prefill_tok_s: _BandRecord
    source: Literal["measured", "estimated"]
    notes: tuple[str, ...]

    def forecast(self) -> Forecast:
        decode, prefill = self.decode_tok_s, self.prefill_tok_s
        return Forecast(decode.band(), prefill.band(), decode.bound, prefill.bound, self.source, self.notes)


def _of_document(value: Any) -> Mapping[str, Any]:
    """Return the plan in a document, with its layout's version checked."""
    if isinstance(value, dict) and "plan" in value and "model" not in value:
        value = value["plan"]
    if not isinstance(value, dict):
        raise RecordError("", "must be an object")
    given = value.get("format")
    if type(given) is not int or given != FORMAT:
        raise RecordError("format", f"must be {FORMAT}, but is {str(given)[:40]}")
    return value


def _plan(value: Mapping[str, Any]) -> Plan:
    record = from_plain(_Record, {key: item for key, item in value.items() if key not in _DERIVED})
    return Plan(
        model=record.model,
        machine=record.machine,
        objective=record.objective,
        settings=Settings.from_dict(record.settings),
        memory=MemoryReport(gpus=record.devices, host=record.host, exact=record.exact),
        forecast=record.forecast.forecast(),
        limits=record.limits,
        reasons=record.reasons,
        warnings=record.warnings,
    )
