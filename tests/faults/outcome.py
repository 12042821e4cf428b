"""What came out of a soak: the answers to the questions, its figures, a table of samples and a picture."""

from __future__ import annotations

import asyncio
import bisect
import csv
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.faults import FAULTS
from tests.faults.history import STEADY, Result, disordered, failed, lost, repeated, skipped, unlike
from tests.faults.levels import WARM, Sizes, by_worker, grown, quarters
from tests.faults.load import SLOW_EVERY
from tests.faults.plot import Band, Panel, draw
from tests.faults.scene import HEALED_WITHIN
from tests.faults.trial import UPSTREAM_AFTER, blamed, differ

if TYPE_CHECKING:
    from tests.faults.soak import Soak

WINDOW = 10
"""Seconds of results of which each 99th percentile is."""
PERCENTILE = 0.99


@dataclass
class Done:
    """One fault that was done, with times in seconds of the epoch; `caught_up` is None if nothing was in time."""

    name: str
    began: float
    healed: float = 0.0
    caught_up: float | None = None
    problems: list[str] = field(default_factory=list)

    def line(self, since: float) -> str:
        """Return what is printed of it while the others are done."""
        healed = "not in time" if self.caught_up is None else f"in {self.caught_up - self.healed:.1f} s"
        after = f"{self.began - since:5.0f} s, {self.healed - self.began:3.0f} s long"
        return "; ".join([f"{after}: {self.name}: caught up {healed}", *self.problems])


@dataclass
class Outcome:
    """Answers by question, empty where all is well; figures by name; samples, with times since the beginning."""

    title: str
    seconds: float
    answers: dict[str, str]
    figures: dict[str, str]
    sizes: list[Sizes]
    lags: list[tuple[float, float]]
    latencies: list[tuple[float, float]]
    bands: list[Band]

    @property
    def violations(self) -> dict[str, str]:
        """Return the questions with another answer than that all is well."""
        return {question: answer for question, answer in self.answers.items() if answer}

    def text(self, command: str) -> str:
        """Return questions and figures as tables in Markdown."""
        lines = [f"`{command}`", "", "| question | all is well |", "|---|---|"]
        lines += [f"| {question} | {answer or 'yes'} |" for question, answer in self.answers.items()]
        lines += ["", "| figure | |", "|---|---|"]
        return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in self.figures.items())])

    def write(self, path: Path) -> None:
        """Write the samples to `path` with .csv, and the picture with .svg."""
        path.parent.mkdir(exist_ok=True)
        with path.with_suffix(".csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["second", "fault", "lag", "p99_ms", "worker", "memory_mib", "threads", "files", "tasks"])
            for each in self.sizes:
                fault = next((band.name for band in self.bands if band.start <= each.at <= band.end), "")
                rows.writerow([f"{each.at:.1f}", fault, _latest(self.lags, each.at), _latest(self.latencies, each.at),
                               each.worker, f"{each.memory / (1 << 20):.1f}", each.threads, each.files,
                               "" if each.tasks is None else each.tasks])  # fmt: skip
        path.with_suffix(".svg").write_text(draw(self.title, self.seconds, self._panels(), self.bands))

    def _panels(self) -> list[Panel]:
        memory = {name: [(each.at, each.memory / (1 << 20)) for each in lived]
                  for name, lived in by_worker(self.sizes).items()}  # fmt: skip
        return [
            Panel("RSS of each worker with its children, MiB (blue: the one that is spared)", memory, main="spared"),
            Panel("lag, requests", {"lag": self.lags}, main="lag"),
            Panel(f"p99 from request to result over {WINDOW} s, ms (without requests that the upstream makes wait)",
                  {"p99": self.latencies}, main="p99", log=True),
        ]  # fmt: skip


async def ask(run: Soak, left: str, orphans: list[str]) -> Outcome:
    """Ask every question. `left` says what was not done in the end, `orphans` which processes outlived their worker."""
    scene, since = run.scene, run.began
    results = await asyncio.to_thread(scene.observer.results, scene.stage.results)
    acknowledged = await asyncio.to_thread(scene.observer.located, scene.load.acknowledged)
    repeats, wrong = repeated(results, scene.crashes, acknowledged, scene.observer.samples)
    late = [f"{done.name}: not caught up {HEALED_WITHIN:.0f} s after healing"
            for done in run.done if done.caught_up is None]  # fmt: skip
    sizes = [Sizes(each.at - since, each.worker, each.calm, each.memory, each.threads, each.files, each.tasks)
             for each in run.sampler.sizes]  # fmt: skip
    natural = "|".join({logs for done in run.done if (logs := FAULTS[done.name].logs)})
    answers = {
        "I1 lost": lost(acknowledged, results, scene.load.nameless),
        "I2 repeats": wrong,
        "I3 commits": skipped(acknowledged, results, scene.observer.samples),
        "I4 tables": await differ(scene),
        "I6 lag": _joined([*late, left]),
        "I6 sizes": _joined([grown(sizes), *orphans]),
        "I7 truth": _joined([*(f"{done.name}: {each}" for done in run.done for each in done.problems),
                             failed(results, _hurt(run.done)),
                             unlike(results, _expected(run.done)),
                             "" if scene.front is None else await scene.front.wrong(
                                 since + WARM, HEALED_WITHIN, fails=bool(natural)
                             ),
                             *(f"log of {run.name(worker)}: {line}" for worker in scene.stage.workers
                               if (line := blamed(worker, "" if worker is scene.spared else natural)))]),
    }  # fmt: skip
    if scene.settings.get("MILLRACE_ORDER") == "key":
        answers["I5 order"] = disordered(acknowledged, scene.load.keys, results)
    latencies = [(at - since, ms) for at, ms in percentiles(results, scene.load.sent)]
    seconds = run.ended - since
    bands = [Band(done.began - since, done.healed - since, done.name) for done in run.done]
    figures = {
        "time": f"{seconds / 60:.0f} min",
        "faults": f"{len(run.done)}, of {len({done.name for done in run.done})} kinds",
        "requests": f"{len(acknowledged):,}",
        "results": ", ".join(f"{count:,} {name}" for name, count in
                             Counter(each.outcome for each in results).most_common()),
        "repeats": str(repeats),
        "caught up after healing": _spread([done.caught_up - done.healed for done in run.done if done.caught_up]),
        **_levels(sizes),
        "p99 in calm": _in_calm(latencies, bands),
    }  # fmt: skip
    lags = [(at - since, float(lag)) for at, lag in run.sampler.lags]
    title = f"{len(run.done)} faults in {seconds / 60:.0f} minutes, seed {run.seed}"
    return Outcome(title, seconds, answers, figures, sizes, lags, latencies, bands)


def percentiles(results: Iterable[Result], sent: Mapping[str, float]) -> list[tuple[float, float]]:
    """Return the 99th percentile in ms of the last WINDOW seconds, for each second in which results came. The first
    result of a request counts; those of requests that the upstream makes wait do not.
    """
    by_second: defaultdict[int, list[float]] = defaultdict(list)
    seen: set[str] = set()
    for each in sorted(results, key=lambda result: result.at):
        steady = STEADY.fullmatch(each.request_id)
        if steady and int(steady[1]) % SLOW_EVERY and each.request_id not in seen:
            seen.add(each.request_id)
            by_second[int(each.at)].append(max(0.0, each.at - sent[each.request_id]) * 1000)
    found = []
    for second in sorted(by_second):
        window = sorted(ms for back in range(WINDOW) for ms in by_second.get(second - back, ()))
        found.append((float(second), window[int(len(window) * PERCENTILE)]))
    return found


def _hurt(done: Iterable[Done]) -> list[tuple[float, float]]:
    """Return when steady requests may fail: while a fault that makes them fail is done, and a while after."""
    return [(each.began, each.healed + UPSTREAM_AFTER) for each in done if FAULTS[each.name].fails]


def _expected(done: Iterable[Done]) -> dict[str, Collection[str]]:
    """Return the outcomes that requests of faults that were done are to have, by the beginning of their names."""
    return {name: outcomes for each in done if not each.problems
            for name, outcomes in FAULTS[each.name].expected.items()}  # fmt: skip


def _levels(sizes: list[Sizes]) -> dict[str, str]:
    """Return from what to what each quantity of the spared worker went."""
    lived, found = by_worker(sizes).get("spared", []), {}
    for what, scale in (("memory", 1 << 20), ("threads", 1), ("files", 1), ("tasks", 1)):
        if lived and (ends := quarters(lived, what)) is not None:
            name = f"{what}, MiB" if what == "memory" else what
            most = max(getattr(each, what) or 0 for each in lived)
            found[f"{name}, of the spared worker in calm: first quarter, last quarter; most"] = (
                f"{ends[0] / scale:.0f}, {ends[1] / scale:.0f}; {most / scale:.0f}"
            )
    return found


def _in_calm(latencies: list[tuple[float, float]], bands: list[Band]) -> str:
    """Return the medians of the first and the last quarter, of times whose window no fault touches."""
    ends = [band.end + WINDOW for band in bands]
    calm = [ms for at, ms in latencies
            if not any(band.start <= at <= end for band, end in zip(bands, ends, strict=True))]  # fmt: skip
    if not (quarter := len(calm) // 4):
        return "-"
    first, last = sorted(calm[:quarter]), sorted(calm[-quarter:])
    return f"{first[len(first) // 2]:.0f} ms in the first quarter, {last[len(last) // 2]:.0f} ms in the last"


def _spread(values: list[float]) -> str:
    values = sorted(values)
    return f"{values[len(values) // 2]:.1f} s in the median, {values[-1]:.1f} s at most" if values else "-"


def _latest(points: list[tuple[float, float]], at: float) -> str:
    """Return the value of the last point before a time, if there was one in the last seconds."""
    number = bisect.bisect_right(points, (at, float("inf"))) - 1
    return f"{points[number][1]:.0f}" if number >= 0 and points[number][0] >= at - WINDOW else ""


def _joined(found: Iterable[str]) -> str:
    return "; ".join(each for each in found if each)
