"""What a run's numbers were computed with. On equal arithmetic equal settings give equal numbers, on another only nearly so.

Another processor, another number of threads, another PyTorch add up the same numbers in another order. Each sum is then
rounded otherwise, and a training carries that on: what was one part in 10⁷ at step 0 may be seen at step 10.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from gradviz.words import gettext as _
from gradviz.words import ngettext

FREE = "free"


@dataclass(frozen=True)
class Arithmetic:
    """Codes and numbers, no words. Two runs with equal ones and equal settings have equal losses, if `repeatable`."""

    device: str  # cpu, cuda or mps
    processor: str  # "AVX512 x86_64 AuthenticAMD": of the kernels PyTorch has chosen and of the machine; of a GPU its name
    held: str  # "ONEDNN_MAX_CPU_ISA=SSE41": the environment variables that hold it to less, sorted; mostly empty
    threads: int  # of the training, on the processor
    torch: str  # "2.13.0+cpu"; empty of an engine that does without
    # Where the number of threads followed the cores that were free: "0:1 12:2 340:1", at step 12 it became 2, at 340 again 1.
    # FREE of a training that has not begun and will. Else empty.
    thread_changes: str = ""

    @property
    def repeatable(self) -> bool:
        """Whether it gives the same digits twice: a GPU's kernels may add up in another order each time."""
        return self.device == "cpu"

    def changed(self, step: int, threads: int) -> Arithmetic:
        """From this step on with so many."""
        return replace(self, thread_changes=f"{self.thread_changes} {step}:{threads}".strip())

    def after(self, earlier: Arithmetic) -> Arithmetic:
        """Of a run whose first steps another one with `earlier` had computed."""
        if not (mine := self.threads_from):
            return self
        before = {step: threads for step, threads in earlier.threads_from.items() if step < min(mine)}
        return replace(self, thread_changes=" ".join(f"{step}:{threads}" for step, threads in (before | mine).items()))

    @property
    def threads_from(self) -> dict[int, int]:
        """Step -> threads from it on; empty where the number is fixed."""
        pairs = [word.split(":") for word in self.thread_changes.split() if word != FREE]
        return {int(step): int(threads) for step, threads in pairs}

    @property
    def code(self) -> str:
        """On one line, for a column of a table: 'cpu AVX512 x86_64 AuthenticAMD threads=1 torch=2.13.0+cpu'."""
        threads = ",".join([f"threads={self.threads}", *(f"{count}@{step}" for step, count in self.threads_from.items() if step)])
        return " ".join(filter(None, (self.device, self.processor, self.held, threads, f"torch={self.torch}")))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: object) -> Arithmetic | None:
        """None for what is not one: that of a run kept before it was noted, or by something else."""
        kinds = {field.name: int if field.name == "threads" else str for field in fields(cls)}
        if isinstance(values, dict):
            values = {"thread_changes": ""} | values  # of a run from before numbers of threads changed
        if not isinstance(values, dict) or any(type(values.get(name)) is not kind for name, kind in kinds.items()):
            return None
        if not re.fullmatch(rf"|{FREE}|[0-9]{{1,9}}:[0-9]{{1,4}}( [0-9]{{1,9}}:[0-9]{{1,4}})*", values["thread_changes"]):
            return None
        return cls(**{name: values[name] for name in kinds})


def differences(one: Arithmetic | None, other: Arithmetic | None) -> tuple[str, ...]:
    """Names of the fields that differ; ("unknown",) if either is not known; empty if they are the same."""
    if one is None or other is None:
        return ("unknown",)
    free = {"threads", "thread_changes"} if one.thread_changes and other.thread_changes else set()  # that is said of both
    names = [field.name for field in fields(Arithmetic) if field.name not in free]
    return tuple(name for name in names if getattr(one, name) != getattr(other, name))


def arithmetic_text(arithmetic: Arithmetic | None) -> str:
    """'processor AVX512 x86_64, 1 thread, PyTorch 2.13.0', in the reader's language."""
    if arithmetic is None:
        return _("unknown arithmetic, not noted when it ran")
    held = f" ({arithmetic.held})" if arithmetic.held else ""
    changes = {step: threads for step, threads in arithmetic.threads_from.items() if threads != arithmetic.threads}
    counts = [arithmetic.threads, *changes.values()]
    if not arithmetic.torch:
        return f"{arithmetic.device}, {arithmetic.processor}{held}"
    if arithmetic.device != "cpu":
        text = _("{device}, {processor}{held}, PyTorch {torch}")
    elif arithmetic.thread_changes == FREE:
        text = _("processor {processor}{held}, as many threads as cores are free, PyTorch {torch}")
    elif min(counts) != max(counts):
        text = _("processor {processor}{held}, {least} to {most} threads (the first change at step {first}), PyTorch {torch}")
    elif arithmetic.threads == 1:
        text = _("processor {processor}{held}, 1 thread, PyTorch {torch}")
    else:
        text = _("processor {processor}{held}, {threads} threads, PyTorch {torch}")
    said = dict(held=held, least=min(counts), most=max(counts), first=next(iter(changes), 0))
    return text.format(**arithmetic.to_dict() | said)


def device_said(kept: str) -> str:
    """What a run got, as it is kept ('cpu, 2 threads', 'cuda, NVIDIA H100'), in the reader's language."""
    if not (counted := re.fullmatch(r"cpu, ([0-9]{1,6}) threads?", kept)):
        return kept
    n = int(counted[1])
    return ngettext("cpu, {n} thread", "cpu, {n} threads", n).format(n=n)


def other_arithmetic(kept: Arithmetic | None, now: Arithmetic | None) -> str:
    """One sentence for who meets a run that was computed otherwise than it would be `now`, here; else empty."""
    if not differences(kept, now):
        return ""
    if kept is None:
        return _("It was not noted what this run was computed with: computed here and now, its digits may differ.")
    if now is None:
        return _("This run was computed with {kept}; its device is not on this machine.").format(kept=arithmetic_text(kept))
    return _("This run was computed with {kept}. This machine would compute with {now}, and the digits may differ.").format(
        kept=arithmetic_text(kept), now=arithmetic_text(now))  # fmt: skip
