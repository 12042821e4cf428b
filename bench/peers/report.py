"""The table and the plot of what `python -m bench.peers` has measured."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent.parent
README, PLOT = HERE / "README.md", HERE / "peers.svg"
BEGIN, END = "<!-- peers -->", "<!-- /peers -->"
TITLES = {"hit": "hit", "checked": "hit with two checks", "miss": "miss, 8 hosts"}
LEFT, WIDTH, BAR, GAP = 130, 420, 16, 6
OURS, OTHERS = "#1f6feb", "#8b949e"


def write(kind: str, repeat: int, rows: list[dict[str, Any]]) -> None:
    """Put table and plot into bench/README.md, between its marks."""
    ours = {row["workload"]: row["cpu_us"] for row in rows if row["worker"] == "millrace"}
    where = f"{kind}, {os.cpu_count()} cores, Python {platform.python_version()}"
    lines = [
        f"`make bench-peers` on {time.strftime('%Y-%m-%d', time.gmtime())}: {where}, medians of {repeat} runs.",
        "",
        "| workload | worker | CPU µs a request | × Millrace | requests/s | p99 ms at requests/s | RSS MiB |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        ratio = row["cpu_us"] / ours[row["workload"]]
        lines.append(
            f"| {TITLES[row['workload']]} | {row['worker']} | {row['cpu_us']} | {ratio:.2f} | "
            f"{row['per_s']:,} | {row['p99_ms']} at {row['paced_per_s']:,} | {row['rss_mib']} |"
        )
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    table = "\n".join(lines)
    README.write_text(f"{before}{BEGIN}\n{table}\n\n![CPU a request](peers.svg)\n{END}{after}", encoding="utf-8")
    PLOT.write_text(plot(rows), encoding="utf-8")


def plot(rows: list[dict[str, Any]]) -> str:
    """Return the CPU a request of each worker as bars, a group a workload, each group to its own scale."""
    parts: list[str] = []
    top = 10
    for workload in dict.fromkeys(row["workload"] for row in rows):
        group = [row for row in rows if row["workload"] == workload]
        most = max(row["cpu_us"] for row in group)
        parts.append(f'<text x="4" y="{top + 12}" font-weight="bold">{TITLES[workload]}: CPU µs a request</text>')
        top += 22
        for row in group:
            length = max(1, round(WIDTH * row["cpu_us"] / most))
            colour = OURS if row["worker"] == "millrace" else OTHERS
            parts += [
                f'<text x="{LEFT - 6}" y="{top + 12}" text-anchor="end">{row["worker"]}</text>',
                f'<rect x="{LEFT}" y="{top}" width="{length}" height="{BAR}" fill="{colour}"/>',
                f'<text x="{LEFT + length + 5}" y="{top + 12}">{row["cpu_us"]}</text>',
            ]
            top += BAR + GAP
        top += 14
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 70}" height="{top}" font-family="sans-serif" '
        f'font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )
