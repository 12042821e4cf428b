"""A soak repeats its faults by their seed, tells growth from noise, and draws what was measured."""

from __future__ import annotations

import itertools
from xml.etree import ElementTree as ET

import pytest

from tests.faults.faults import FAULTS
from tests.faults.history import Result
from tests.faults.levels import ENOUGH, FILES, MEMORY, TASKS, THREADS, WARM, Sizes, grown, quarters
from tests.faults.load import SLOW_EVERY
from tests.faults.outcome import Done, Outcome, percentiles
from tests.faults.plot import BREAK, HEIGHT, LEFT, TOP, WIDTH, Band, Panel, draw
from tests.faults.soak import deck, hours

SVG = "{http://www.w3.org/2000/svg}"
LONG = 400
LIMITS = {"memory": MEMORY, "threads": THREADS, "files": FILES, "tasks": TASKS}


def lived(count: int = LONG, *, calm: bool = True, name: str = "w", **more: float) -> list[Sizes]:
    """Return samples a second of a worker; `more` is by how much a quantity grows from the first to the last."""

    def value(what: str, at: int) -> int:
        return int(100 + more.get(what, 0) * at / count)

    return [Sizes(float(at), name, calm, value("memory", at), value("threads", at), value("files", at),
                  value("tasks", at)) for at in range(count)]  # fmt: skip


def test_a_seed_draws_the_same_faults_each_once_before_any_again() -> None:
    """The order of a soak can be had again, and no kind of fault is left out of a long one."""
    one = list(itertools.islice(deck(7), 200))
    assert one == list(itertools.islice(deck(7), 200))
    assert one != list(itertools.islice(deck(8), 200))
    kinds = len(set(one))
    assert kinds == len(set(one[:kinds])) == len(set(one[kinds : 2 * kinds]))
    assert one[:kinds] != one[kinds : 2 * kinds]
    assert set(one) < FAULTS.keys()
    assert not any(FAULTS[name].alone for name in one)


@pytest.mark.parametrize("what", LIMITS)
def test_a_worker_that_grows_is_named(what: str) -> None:
    """Half as much again as is allowed between its quarters is growth, half of it is not."""
    apart = 4 / 3 * LONG / (LONG - WARM)  # the medians of the quarters are three quarters of the calm apart
    assert grown(lived()) == ""
    assert grown(lived(**{what: 0.5 * LIMITS[what] * apart})) == ""
    found = grown([*lived(name="level"), *lived(name="leaks", **{what: 1.5 * LIMITS[what] * apart})])
    assert found.startswith("leaks: from ")
    assert found.endswith(what)
    assert "level" not in found


def test_what_is_no_calm_or_too_short_is_not_judged() -> None:
    """A fault makes workers grow for its time, and so does a start."""
    assert grown(lived(calm=False, files=1_000.0)) == ""
    assert grown(lived(int(WARM) + ENOUGH - 1, files=1_000.0)) == ""
    assert quarters([], "files") is None
    calm = lived(200)
    burst = [Sizes(each.at, "w", False, each.memory, 10_000, 10_000) for each in calm[100:150]]
    assert grown(sorted([*calm, *burst], key=lambda each: each.at)) == ""


def test_tasks_are_judged_by_the_samples_that_have_them() -> None:
    """They are looked at less often than the rest."""
    rare = [each if number % 5 == 0 else Sizes(each.at, "w", True, 1, 1, 1)
            for number, each in enumerate(lived(tasks=1_000.0))]  # fmt: skip
    assert grown(rare).endswith("tasks")


def test_the_percentile_is_of_first_results_that_nothing_held_up() -> None:
    """Repeats, requests that the upstream makes wait, and those of a fault do not count; a second without results has
    no value.
    """
    slow = f"r{SLOW_EVERY}"
    results = [Result(name, 0, 0, at, None, "ok") for name, at in
               (("r1", 10.1), ("r2", 10.2), ("r1", 50.0), (slow, 12.0), ("big-1", 12.0), ("r3", 40.5))]  # fmt: skip
    sent = {"r1": 10.0, "r2": 10.0, slow: 10.0, "r3": 40.0}
    assert [(at, round(ms)) for at, ms in percentiles(results, sent)] == [(10.0, 200), (40.0, 500)]


def parsed(*panels: Panel, bands: tuple[Band, ...] = ()) -> ET.Element:
    return ET.fromstring(draw("a <title>", 600, panels, bands))


def test_the_picture_has_panels_bands_and_axes() -> None:
    """Titles and names are there as text, the main line is marked, and a band lies where its fault was."""
    memory = Panel("RSS, MiB", {"one": [(0, 100), (600, 200)], "two & more": [(300, 150)]}, main="one")
    latency = Panel("p99, ms", {"p99": [(at, 10 + at) for at in range(0, 600, 2)]}, main="p99", log=True)
    root = parsed(memory, latency, bands=(Band(60, 120, "broker <killed>"),))
    texts = [each.text for each in root.iter(f"{SVG}text")]
    assert {"a <title>", "RSS, MiB", "p99, ms", "broker <killed>", "minutes", "0", "200", "1,000", "10"} <= set(texts)
    [band] = [each for each in root.iter(f"{SVG}rect") if each.get("class") == "band"]
    assert float(band.get("x", "")) == pytest.approx(LEFT + WIDTH / 10, abs=0.1)
    assert float(band.get("width", "")) == pytest.approx(WIDTH / 10, abs=0.1)
    lines = {each.findtext(f"{SVG}title"): each for each in root.iter(f"{SVG}path")}
    assert lines.keys() == {"one", "two & more", "p99"}
    assert [name for name, each in lines.items() if each.get("class") == "main"] == ["one", "p99"]
    style = root.findtext(f"{SVG}style") or ""
    assert "prefers-color-scheme: dark" in style


def test_a_line_breaks_where_nothing_was_measured() -> None:
    """A gap is no straight line; the highest and lowest values are at the ends of the axis."""
    root = parsed(Panel("x", {"x": [(0, 0), (2, 10), (2 + BREAK + 1, 5), (600, 0)]}))
    steps = next(root.iter(f"{SVG}path")).get("d", "")
    assert steps.count("M") == 3
    assert steps.startswith(f"M{LEFT:.1f} {TOP + HEIGHT:.1f}L")
    assert f" {TOP:.1f}" in steps


def test_an_hour_is_a_small_file_that_keeps_its_peaks() -> None:
    """A point a pixel is enough, but none that stands out is lost."""
    line = [(at / 4, 1000.0 if at == 7_777 else at % 7) for at in range(2_400)]
    svg = draw("hour", 600, [Panel("x", {"x": line}), Panel("nothing", {"none": []}, log=True)], [])
    assert len(svg) < 30_000
    peak = [(at, 1000.0 if at == 333 else 1.0) for at in range(600)]
    assert f" {TOP:.1f}" in draw("peak", 60_000, [Panel("x", {"x": peak})], [])


def test_samples_are_written_with_what_was_broken(tmp_path) -> None:
    """A row a sample, with the fault, lag and p99 of its time; the picture lies beside it."""
    outcome = Outcome("t", 100, {"I1 lost": "", "I2 repeats": "3 repeated"}, {"faults": "1"},
                      [Sizes(10.2, "spared", True, 3 << 20, 4, 5, 6), Sizes(50, "worker 1", False, 1 << 20, 1, 2)],
                      [(9.0, 120)], [(10.0, 33)], [Band(40, 60, "broker killed")])  # fmt: skip
    outcome.write(tmp_path / "reports" / "soak-1")
    head, first, second = (tmp_path / "reports" / "soak-1.csv").read_text().splitlines()
    assert head == "second,fault,lag,p99_ms,worker,memory_mib,threads,files,tasks"
    assert first == "10.2,,120,33,spared,3.0,4,5,6"
    assert second == "50.0,broker killed,,,worker 1,1.0,1,2,"
    assert ET.parse(tmp_path / "reports" / "soak-1.svg").getroot().tag == f"{SVG}svg"
    assert outcome.violations == {"I2 repeats": "3 repeated"}
    assert "| I1 lost | yes |\n| I2 repeats | 3 repeated |" in outcome.text("make soak")


def test_a_fault_prints_a_line_while_others_are_done() -> None:
    """With what went wrong, and whether the lag was gone in time."""
    assert Done("x", 110, 120, 123.5).line(100) == "   10 s,  10 s long: x: caught up in 3.5 s"
    assert Done("x", 110, 120, None, ["bad"]).line(100).endswith("x: caught up not in time; bad")


def test_hours_are_a_number_above_nothing() -> None:
    """A fraction will do."""
    assert hours("0.1") == 0.1
    for text in ("0", "-1", "inf", "nan", "x"):
        with pytest.raises(ValueError):
            hours(text)
