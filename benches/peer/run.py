"""Runs fitup and its peers side by side and writes docs/benchmarks.md.

    python benches/peer/run.py                      every row, then how cost grows
    python benches/peer/run.py --row tiny-step      one row; the others stay as they were measured
    python benches/peer/run.py --row NAME --peer P  one row against one peer
    python benches/peer/run.py --check              no timing: do both sides compute the same?
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

PACKAGES = ("torch", "torchvision", "timm", "transformers", "onnxruntime", "faiss-cpu", "pillow", "opencv-python-headless", "numpy")
PRODUCT_SIDE = 3072
# Threads of the side that has just run may still spin; they are to sleep when the other begins.
REST = 0.5
DIFFERENT = "both sides' results differ"


def main():
    options = arguments()
    # Before torch is imported: this process makes the inputs.
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    import rows

    known = {row.name: row for row in [*rows.TABLE, *(row for grown in rows.GROWTH.values() for row, _ in grown)]}
    unknown = [name for name in options.row if name not in known]
    if unknown:
        raise SystemExit(f"no row {unknown[0]}; rows: {', '.join(known)}")
    chosen = [known[name] for name in options.row] or list(known.values())
    if options.small:
        options.scratch /= "small"
        options.out = options.scratch / "benchmarks.md"
        for row in chosen:
            row.shrink()
            row.gibibytes = 2
    binary = options.binary or build()
    results = options.scratch / "results"
    results.mkdir(parents=True, exist_ok=True)
    failed = False
    for row in chosen:
        growing = row.name not in rows.NAMED
        pairs = options.growth_pairs if growing else options.pairs
        print(f"== {row.name}", flush=True)
        try:
            stored, different = measure(row, binary, options, pairs)
            failed |= different
        except rows.CannotRun as reason:
            stored = {"cannot_run": str(reason)}
            print(f"   cannot run on this machine: {reason}", flush=True)
        if not options.check:
            store(results / f"{row.name}.json", stored)
            write_document(options, results)
    sys.exit(1 if failed else 0)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", action="append", default=[], help="a row by name; may be repeated; default: all")
    parser.add_argument("--peer", action="append", default=[], help="of each row, these peers alone")
    parser.add_argument("--pairs", type=int, default=7, help="pairs of runs a peer (default 7)")
    parser.add_argument("--growth-pairs", type=int, default=3, help="the same where cost growth is measured (default 3)")
    parser.add_argument("--warm-ups", type=int, default=2, help="runs of each side before the pairs (default 2)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each side (default 2)")
    parser.add_argument("--check", action="store_true", help="compare both sides' results, and time nothing")
    parser.add_argument("--small", action="store_true", help="tries the benchmark at small sizes; says nothing of speed")
    parser.add_argument("--binary", type=Path, help="fitup-bench, already built; default: build it")
    parser.add_argument("--scratch", type=Path, default=ROOT / "target/peer", help="inputs and results (default target/peer)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks.md", help="default docs/benchmarks.md")
    return parser.parse_args()


def build():
    """Of the whole workspace: with one package alone, Burn would be built with other features."""
    subprocess.run(["cargo", "build", "--release", "--workspace"], cwd=ROOT, check=True)
    asked = ["cargo", "metadata", "--no-deps", "--format-version", "1"]
    metadata = json.loads(subprocess.run(asked, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    return Path(metadata["target_directory"]) / "release/fitup-bench"


def measure(row, binary, options, pairs):
    """What is stored of a row, and whether any peer's results differ."""
    import rows

    free = available()
    if free is not None and free < row.gibibytes * 2**30:
        raise rows.CannotRun(f"needs {row.gibibytes:.0f} GiB of free memory, {free / 2**30:.0f} are")
    threads = row.threads or options.threads
    folder = options.scratch / row.name
    folder.mkdir(parents=True, exist_ok=True)
    peers = {peer: bar for peer, bar in row.peers.items() if not options.peer or peer in options.peer}
    # Where the timed work has draws that differ from side to side, what is compared is prepared apart.
    work = prepared(row, folder, binary, checking=True)
    differences = {}
    for peer in peers:
        found = differences[peer] = attempt(lambda: check(row, binary, folder, peer, threads))
        print(f"   {peer}: {found if isinstance(found, str) else f'results differ by {found:.1e}'}", flush=True)
    if row.own_check and not options.check:
        work = prepared(row, folder, binary, checking=False)
    stored = {"notes": work.notes, "peers": {}}
    different = any(str(found).startswith(DIFFERENT) for found in differences.values())
    if options.check:
        return stored, different
    for peer, bar in peers.items():
        difference = differences.get(peer)
        result = difference
        if not isinstance(difference, str):
            result = attempt(lambda: pair_up(row, work, binary, folder, peer, threads, options, pairs))
        if isinstance(result, str):
            stored["peers"][peer] = {"cannot_run": result}
            continue
        stored["peers"][peer] = result | {"at_least": bar, "difference": difference, "commit": commit()}
        ratios = result["ratios"]
        print(
            f"   {peer}: peer by fitup {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), "
            f"fitup {statistics.median(result['fitup']['seconds']):.3g} s, peer {statistics.median(result['peer']['seconds']):.3g} s",
            flush=True,
        )
    return stored, different


def attempt(work):
    """The result, or why there is none."""
    from process import DidNotRun
    from rows import Differs

    try:
        return work()
    except DidNotRun as reason:
        said = str(reason)
        for place in (str(ROOT), sys.prefix, str(Path.home())):
            said = said.replace(place, "...")
        return f"did not run: {said[:200]}".replace("|", "/")
    except Differs as difference:
        return f"{DIFFERENT} ({difference})"


def prepared(row, folder, binary, checking):
    import inputs

    work = row.prepare(folder, binary, checking)
    inputs.write_json(folder / "workload.json", work.workload)
    return work


def check(row, binary, folder, peer, threads):
    """The greatest difference of both sides' results; raises where it is more than allowed."""
    import process

    greatest = 0.0
    with process.fitup(binary, folder, threads) as ours, process.peer(folder, peer, threads) as theirs:
        for run in range(row.checked_runs):
            for side in (ours, theirs):
                side.run()
            found = ours.outputs(folder / "ours.safetensors"), theirs.outputs(folder / "theirs.safetensors")
            greatest = max(greatest, row.compare(run, *found))
    return greatest


def pair_up(row, work, binary, folder, peer, threads, options, pairs):
    """Times of both sides in turn, with the machine's own rate between."""
    import inputs
    import process

    product = options.scratch / "product"
    product.mkdir(exist_ok=True)
    inputs.write_json(product / "workload.json", {"work": "product", "side": PRODUCT_SIDE})
    seconds, rates = {"fitup": [], "peer": []}, []
    with (
        process.fitup(binary, folder, threads) as ours,
        process.peer(folder, peer, threads) as theirs,
        process.peer(product, "torch", threads) as machine,
    ):
        sides = {"fitup": ours, "peer": theirs}
        for side in sides.values():
            # The peak of the set-up is not the work's; that of its first runs is.
            side.reset()
            for _ in range(options.warm_ups):
                side.run()
        machine.run()
        for pair in range(pairs):
            for name in sorted(sides, reverse=pair % 2 == 1):
                time.sleep(REST)
                seconds[name].append(sides[name].run())
            time.sleep(REST)
            rates.append(2 * PRODUCT_SIDE**3 / machine.run())
        peaks = {name: side.peak() for name, side in sides.items()}
    rate = statistics.median(rates)
    operations = {"fitup": work.fitup_operations, "peer": work.peer_operations}
    described = {
        name: {
            "seconds": seconds[name],
            "memory": peaks[name],
            "share": operations[name] / statistics.median(seconds[name]) / rate,
        }
        for name in sides
    }
    ratios = [theirs / ours for ours, theirs in zip(seconds["fitup"], seconds["peer"])]
    return {"ratios": ratios, "rate": rate, **described}


def store(path, stored):
    """A row measured against some of its peers alone keeps the others."""
    import inputs

    if path.exists() and "peers" in stored:
        before = json.loads(path.read_text()).get("peers", {})
        stored["peers"] = before | stored["peers"]
    inputs.write_json(path, stored)


def write_document(options, results):
    import document

    command = "python benches/peer/run.py"
    if options.threads != 2:
        command += f" --threads {options.threads}"
    if options.small:
        command += " --small"
    document.write(options.out, results, machine(options.threads), command, options.small)


def machine(threads):
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} not installed")
    rustc = subprocess.run(["rustc", "--version"], cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout.split()
    return {
        "processor": processor(),
        "cores": f"{os.cpu_count()}, threads of each side: {threads}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
        "fitup": f"{commit()}, rustc {rustc[1] if len(rustc) > 1 else 'unknown'}, release build",
        "peers": f"Python {platform.python_version()}, " + ", ".join(versions),
    }


def processor():
    """With the vector instructions that decide what a core can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    fields = {line.split(":")[0].strip(): line.split(":", 1)[1].strip() for line in lines if ":" in line}
    flags = fields.get("flags", "").split()
    vector = [name for flag, name in (("avx2", "AVX2"), ("avx512f", "AVX-512")) if flag in flags]
    family = f"family {fields.get('cpu family', '?')} model {fields.get('model', '?')}"
    return f"{fields.get('model name', 'unknown')} ({family}; {', '.join(vector) or 'no AVX2'})"


def commit():
    def git(*words):
        done = subprocess.run(["git", *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":!docs/benchmarks.md")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" with changes" if changed else "")


def available():
    """Free memory in bytes, `None` where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        return None


if __name__ == "__main__":
    main()
