"""A peer's side of the benchmark: `peer.py FOLDER PEER`.

Sets up the work that FOLDER/workload.json describes as PEER does it, prints `ready`, and answers the
lines that `fitup/src/main.rs` lists.
"""

import json
import os
import sys
import time
from pathlib import Path


def peak():
    """Greatest memory of this process in bytes, `unknown` where the system does not tell."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return "unknown"


def reset_peak():
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def set_up(workload, folder, peer):
    match workload["work"]:
        case "albef_step":
            from step import AlbefStep as Work
        case "image_encoding":
            from encoding import ImageEncoding as Work
        case "text_encoding":
            from encoding import TextEncoding as Work
        case "reranking":
            from reranking import Reranking as Work
        case "search":
            from search import Search as Work
        case "photos":
            from photos import Photos as Work
        case "product":
            from product import Product as Work
        case other:
            raise SystemExit(f"unknown work {other}")
    return Work(workload, folder, peer)


def main():
    folder, peer = Path(sys.argv[1]), sys.argv[2]
    workload = json.loads((folder / "workload.json").read_text())
    # Answers go to the driver alone: what a library prints must not come between.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(line):
        print(line, file=answers, flush=True)

    work = set_up(workload, folder, peer)
    answer("ready")
    for line in sys.stdin:
        match line.split(maxsplit=1):
            case ["run"]:
                start = time.perf_counter()
                work.run()
                answer(f"seconds {time.perf_counter() - start}")
            case ["outputs", path]:
                from safetensors.numpy import save_file

                path = Path(path.strip())
                save_file(work.outputs(), path.with_suffix(".part"))
                path.with_suffix(".part").rename(path)
                answer("written")
            case ["reset"]:
                reset_peak()
                answer("reset")
            case ["memory"]:
                answer(f"peak {peak()}")
            case other:
                raise SystemExit(f"unknown line {other}")


if __name__ == "__main__":
    main()
