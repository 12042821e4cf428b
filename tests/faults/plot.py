"""Lines over time, in panels one below the other, and bands with names across all of them: an SVG."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

LEFT, WIDTH, RIGHT = 64, 1100, 16
TOP, HEIGHT, GAP, BOTTOM = 210, 150, 34, 40
"""Pixels: above the panels, where the bands' names stand; of a panel; between two; below the last."""
TICKS = 5
BREAK = 5.0
"""Seconds without a value after which a line ends and begins anew."""
STYLE = """
svg { font: 11px sans-serif; background: #ffffff; color: #1f2328 }
text { fill: currentColor } .name { font-size: 9px }
.grid { stroke: currentColor; stroke-opacity: .15 } .band { fill: #d1242f; fill-opacity: .12 }
path { fill: none; stroke: #8250df; stroke-width: 1; stroke-opacity: .6 }
path.main { stroke: #0969da; stroke-width: 1.6; stroke-opacity: 1 }
@media (prefers-color-scheme: dark) {
  svg { background: #0d1117; color: #e6edf3 } .band { fill: #ff7b72; fill-opacity: .16 }
  path { stroke: #d2a8ff } path.main { stroke: #58a6ff }
}
"""
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines by name, each of (seconds, value) in the order of time; `main` is the one that stands out."""

    title: str
    lines: dict[str, Sequence[Point]]
    main: str = ""
    log: bool = False


@dataclass(frozen=True, slots=True)
class Band:
    """A span of time with a name, in seconds."""

    start: float
    end: float
    name: str


def draw(title: str, seconds: float, panels: Sequence[Panel], bands: Sequence[Band]) -> str:
    """Return the picture of a time of so many seconds. It reads in light and dark."""
    bottom = TOP + len(panels) * (HEIGHT + GAP) - GAP
    parts = [f'<text x="{LEFT}" y="16" font-size="14" font-weight="bold">{escape(title)}</text>']
    for band in bands:
        start, end = _across(band.start, seconds), _across(band.end, seconds)
        middle = (start + end) / 2 + 3
        size = f'width="{max(1, end - start):.1f}" height="{bottom - TOP}"'
        place = f'transform="translate({middle:.1f} {TOP - 22}) rotate(-90)"'
        parts.append(f'<rect class="band" x="{start:.1f}" y="{TOP}" {size}/>')
        parts.append(f'<text class="name" {place}>{escape(band.name)}</text>')
    for number, panel in enumerate(panels):
        parts += _panel(panel, TOP + number * (HEIGHT + GAP), seconds)
    for minute in _steps(seconds / 60):
        at = _across(minute * 60, seconds)
        parts += [f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{bottom}"/>',
                  f'<text x="{at:.1f}" y="{bottom + 14}" text-anchor="middle">{minute:g}</text>']  # fmt: skip
    parts.append(f'<text x="{LEFT + WIDTH / 2}" y="{bottom + 30}" text-anchor="middle">minutes</text>')
    size = f'width="{LEFT + WIDTH + RIGHT}" height="{bottom + BOTTOM}"'
    box = f'viewBox="0 0 {LEFT + WIDTH + RIGHT} {bottom + BOTTOM}"'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {box}>\n<style>{STYLE}</style>\n{body}\n</svg>\n'


def _panel(panel: Panel, top: int, seconds: float) -> Iterator[str]:
    values = [value for line in panel.lines.values() for _, value in line]
    low, high, ticks = _decades(values) if panel.log else _linear(values)

    def up(value: float) -> float:
        if panel.log:
            value, least, most = math.log10(max(value, low)), math.log10(low), math.log10(high)
        else:
            least, most = low, high
        return top + HEIGHT * (1 - (value - least) / (most - least))

    yield f'<text x="{LEFT}" y="{top - 6}" font-weight="bold">{escape(panel.title)}</text>'
    for tick in ticks:
        yield f'<line class="grid" x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>'
        yield f'<text x="{LEFT - 6}" y="{up(tick) + 4:.1f}" text-anchor="end">{tick:,g}</text>'
    for name, line in sorted(panel.lines.items(), key=lambda each: each[0] == panel.main):
        steps = "".join(f"{'M' if first else 'L'}{_across(at, seconds):.1f} {up(value):.1f}"
                        for first, at, value in _pieces(_thinned(line, seconds)))  # fmt: skip
        kind = ' class="main"' if name == panel.main else ""
        yield f'<path{kind} d="{steps}"><title>{escape(name)}</title></path>'


def _across(at: float, seconds: float) -> float:
    return LEFT + WIDTH * min(at, seconds) / seconds


def _thinned(line: Sequence[Point], seconds: float) -> Iterator[Point]:
    """Yield the highest point of each pixel."""
    for _, points in itertools.groupby(line, key=lambda point: int(_across(point[0], seconds))):
        yield max(points, key=lambda point: point[1])


def _pieces(line: Iterator[Point]) -> Iterator[tuple[bool, float, float]]:
    """Yield whether a piece of the line begins, and the point."""
    before = -math.inf
    for at, value in line:
        yield at - before > BREAK, at, value
        before = at


def _linear(values: list[float]) -> tuple[float, float, list[float]]:
    """Return the lowest and highest of an axis from 0, and its ticks."""
    ticks = _steps(max(values, default=1.0) or 1.0)
    return 0.0, max([*values, ticks[-1]]), ticks


def _decades(values: list[float]) -> tuple[float, float, list[float]]:
    """Return the same of an axis of powers of ten."""
    above = [value for value in values if value > 0] or [1.0]
    low = math.floor(math.log10(min(above)))
    high = max(low + 1, math.ceil(math.log10(max(above))))
    return 10.0**low, 10.0**high, [10.0**power for power in range(low, high + 1)]


def _steps(most: float) -> list[float]:
    """Return round numbers from 0 to `most`, at least TICKS of them."""
    rough = most / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = max(power * factor for factor in (1, 2, 5) if power * factor <= rough)
    return [number * step for number in range(int(most / step + 1e-9) + 1)]
