"""What a fault is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field

from tests.faults.scene import Scene

Act = Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """`crash`: members may lose their partitions without a last commit, so what was finished since then may repeat.

    `unready`: it must be seen at /readyz. `ends`: a worker may end by itself, and is replaced. `fails`: the upstream is
    what is hurt, so steady requests may fail. `unasked`: questions that it leaves without a meaning.
    `expected`: the outcomes that its own requests are to have, by the beginning of their names. `logs`: a pattern of
    the last lines of traces that a log may have, since they are what the fault does.
    `hard`: one of the subset that CI runs. `alone`: it needs workers, or a stage, of its own, so a soak leaves it out;
    what `prepare` does to the stage comes before the first worker.
    """

    act: Act
    crash: bool = False
    unready: bool = False
    ends: bool = False
    fails: bool = False
    hard: bool = False
    alone: bool = False
    expected: Mapping[str, Collection[str]] = field(default_factory=dict)
    logs: str = ""
    unasked: tuple[str, ...] = ()
    prepare: Act | None = None
