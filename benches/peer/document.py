"""`docs/benchmarks.md` from the results that are stored, one file a row."""

import json
import statistics
from pathlib import Path

from rows import GROWTH, TABLE

# Taken by hand with `perf`, and kept beside the table.
PROFILES = Path(__file__).parent / "profiles.md"

HEAD = """# Benchmarks

fitup and its peers, side by side: both sides in a warm process of their own, on the same random weights
and inputs (the tiny step: on real pictures and captions), in float32, with the same number of threads,
run after run in turn, the one that begins changing from pair to pair. A ratio is the peer's time by
fitup's of one pair: above 1, fitup is faster. Before anything is timed, both sides' results (for steps:
the losses of three steps one after another) are compared; a row whose results differ shows no time.

"Share of rate": the operations in matrix products that a side executes (`benches/peer/arithmetic.py`),
by its time, by the rate at which PyTorch multiplies large float32 matrices between the pairs of the same
run. Work that a side leaves out is not counted for it.
"Memory": the greatest resident memory after the set-up (`VmHWM`).

The peers and their order of computation: `benches/peer/README.md`. The command:

```
{command}
```
"""


def load(results, name):
    path = results / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def spread(values, form):
    middle = form(statistics.median(values))
    return f"{middle} ({form(min(values))} to {form(max(values))})"


def seconds(value):
    for unit, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 1:
            break
    value *= factor
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def memory(value):
    return "not told" if value is None else f"{value / 1e9:.2f} GB"


def share(side):
    return f"{100 * side['share']:.0f} %" if side.get("share") else "-"


def reached(result, memory_at_most):
    ratio = spread(result["ratios"], lambda r: f"{r:.2f}")
    bar = result["at_least"]
    if bar is None:
        return ratio
    short = "" if statistics.median(result["ratios"]) >= bar else ", falls short"
    ours, theirs = (result[side]["memory"] for side in ("fitup", "peer"))
    if memory_at_most is not None and ours is not None and theirs is not None:
        short += f"; memory {ours / theirs:.2f} of the peer's (at most {memory_at_most})"
    return f"**{ratio}**{short}"


def asked(value):
    return "-" if value is None else f"{value}"


def table(results):
    lines = ["| work | peer | at least | reached: median (range) |", "|---|---|---|---|"]
    details = [
        "| row | peer | pairs | fitup | peer | memory fitup | memory peer | memory ratio | share of rate fitup | share of rate peer | results differ by | code |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    notes = []
    for row in TABLE:
        stored = load(results, row.name)
        if stored is None or "cannot_run" in stored:
            reason = "not run" if stored is None else f"cannot run on this machine: {stored['cannot_run']}"
            lines += [f"| {row.title} | {peer} | {asked(bar)} | {reason} |" for peer, bar in row.peers.items()]
            continue
        for peer, bar in row.peers.items():
            result = stored["peers"].get(peer)
            if result is None or "cannot_run" in result:
                reason = "not run" if result is None else result["cannot_run"]
                lines.append(f"| {row.title} | {peer} | {asked(bar)} | {reason} |")
                continue
            lines.append(f"| {row.title} | {peer} | {asked(bar)} | {reached(result, row.memory_at_most)} |")
            ours, theirs = result["fitup"], result["peer"]
            known = ours["memory"] is not None and theirs["memory"] is not None
            by = f"{ours['memory'] / theirs['memory']:.2f}" if known else "-"
            details.append(
                f"| {row.name} | {peer} | {len(result['ratios'])} | {spread(ours['seconds'], seconds)} "
                f"| {spread(theirs['seconds'], seconds)} | {memory(ours['memory'])} | {memory(theirs['memory'])} "
                f"| {by} | {share(ours)} | {share(theirs)} | {result['difference']:.0e} | {result['commit']} |"
            )
        notes += [f"- {row.name}: {note}." for note in stored["notes"]]
        rates = [result["rate"] for result in stored["peers"].values() if "rate" in result]
        if rates:
            notes.append(f"- {row.name}: the machine multiplied at {statistics.median(rates) / 1e9:.0f} GFLOP/s.")
    return lines, details, notes


def growth(results):
    lines = ["| what | size | peer | fitup | peer | ratio | memory fitup | memory peer |", "|---|---|---|---|---|---|---|---|"]
    for what, grown in GROWTH.items():
        for row, size in grown:
            lines.append(f"| {what} | {size:,} | {growth_line(load(results, row.name), next(iter(row.peers)))}")
    return lines


def growth_line(stored, peer):
    """The rest of a line, against the row's first peer."""
    result = (stored or {}).get("peers", {}).get(peer)
    if result is None or "cannot_run" in result:
        reason = (result or stored or {}).get("cannot_run", "not run")
        return f"{peer} | {reason} | | | | |"
    ours, theirs = result["fitup"], result["peer"]
    cells = [
        peer,
        *(seconds(statistics.median(side["seconds"])) for side in (ours, theirs)),
        spread(result["ratios"], lambda r: f"{r:.2f}"),
        memory(ours["memory"]),
        memory(theirs["memory"]),
    ]
    return " | ".join(cells) + " |"


def write(path, results, machine, command, small):
    lines, details, notes = table(results)
    trial = ["**A trial at small sizes: not those of the titles, and no result.**\n"] if small else []
    parts = [
        *trial,
        HEAD.format(command=command),
        "## Machine and versions\n",
        *(f"- {name}: {value}" for name, value in machine.items()),
        "\n## Reached\n",
        *lines,
        "\n## Times, memory, rate\n",
        *details,
        "",
        *notes,
        "\n## How cost grows\n",
        "ALBEF-base step where nothing else is said: batch 4, 25 tokens, 256 px, queue 65,536.\n",
        *growth(results),
        "",
        PROFILES.read_text() if PROFILES.exists() else "",
    ]
    path.with_suffix(".part").write_text("\n".join(parts))
    path.with_suffix(".part").rename(path)
