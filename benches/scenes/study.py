"""Everything that docs/results.md says of scenes, run from the start: data, training, scores.

    python benches/scenes/study.py                       all of it, two runs at a time
    python benches/scenes/study.py --only tasks          one part: tasks, systems, noise, cost
    python benches/scenes/study.py --table               no run: the tables of what is there

A run that is whole is not repeated, and one that was stopped goes on where it was. Runs lie in
`runs/scenes/`, scores in `runs/scenes/scores/`. Python 3.11, nothing else.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "runs/scenes"
SCORES = RUNS / "scores"
DATA = ROOT / "data/scenes"
SEEDS = (1, 2, 3)
# Steps of fine-tuning, of 64 records each.
TASKS = {"vqa": 3000, "nlvr2": 500, "entailment": 1000, "retrieval": 300, "grounding": 1200}
TEXT_ASSIGNMENT_STEPS = 600
# The patches already tell what lies where: without their backward pass a step takes half the time, and the fusion layers
# bear a rate at which the image encoder would forget.
FROZEN = ['optimizer.frozen=["visual_encoder.*"]', "schedule.lr=1e-3", "schedule.warmup_steps=100"]
# Steps of pre-training: about as many minutes each, ALBEF too, whose tasks are measured on a longer run.
SYSTEMS = {"clip": 2500, "vlmo": 1000, "vilt": 700, "albef-short": 1500}
# Steps before the fusion losses join.
FUSION_START = {"vlmo": 600, "albef-short": 600}
COST = ("albef", "clip", "vlmo", "vilt")
SYSTEM_TASKS = ("vqa", "nlvr2", "entailment")
NOISE = (0, 30, 60)
NOISE_SEEDS = (1, 2)
TEST = {
    "vqa": "vqa.json",
    "nlvr2": "nlvr2.jsonl",
    "entailment": "snli_ve.jsonl",
}


class Job:
    """One command, after others; done when `done` says so."""

    def __init__(self, name, command, done, after=(), resumable=False):
        self.name, self.command, self.done, self.after = name, command, done, after
        self.resumable = resumable


def main():
    options = arguments()
    os.chdir(ROOT)
    SCORES.mkdir(parents=True, exist_ok=True)
    if not options.table:
        jobs = plan(options)
        run(jobs, options)
    print(tables(options))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/fitup", help="fitup, already built")
    parser.add_argument("--only", action="append", choices=["tasks", "systems", "noise", "cost"], default=[])
    parser.add_argument("--lanes", type=int, default=2, help="runs at a time (default 2)")
    parser.add_argument("--threads", type=int, default=1, help="threads of a run (default 1)")
    parser.add_argument("--steps", type=int, default=500, help="steps of another system's fine-tuning (default 500)")
    parser.add_argument("--noise-steps", type=int, default=400, help="steps of a run on noise (default 400)")
    parser.add_argument("--pretrained", type=Path, help="ALBEF on scenes; default: trained here")
    parser.add_argument("--table", action="store_true", help="run nothing, print what was measured")
    return parser.parse_args()


def plan(options):
    parts = options.only or ["tasks", "systems", "noise", "cost"]
    fitup = options.binary
    jobs = [scenes(fitup, DATA, 0)]
    base = options.pretrained or RUNS / "albef"
    before = ["scenes"]
    if not options.pretrained:
        jobs.append(pretrain(fitup, "albef", "albef-scenes", after=["scenes"]))
        before = ["albef"]
    if "tasks" in parts or "cost" in parts:
        jobs += tasks(options, base, before)
    if "systems" in parts or "cost" in parts:
        for system, count in SYSTEMS.items():
            if "systems" not in parts and system not in COST:
                continue
            extra = [f"run.steps={count}"]
            if system in FUSION_START:
                extra.append(f"objectives.fusion_start={FUSION_START[system]}")
            recipe = f"{system.removesuffix('-short')}-scenes"
            jobs.append(pretrain(fitup, system, recipe, extra, ["scenes"]))
            for task in SYSTEM_TASKS if "systems" in parts else ():
                extra = [f"run.steps={options.steps}"]
                name = f"{system}-{task}"
                jobs.append(finetune(fitup, name, task, RUNS / system, extra, [system]))
                jobs.append(evaluate(fitup, name, task, after=[name]))
    if "noise" in parts:
        jobs += noise(options, base, before)
    if "cost" in parts:
        every = tuple(job.name for job in jobs)
        for system in COST:
            model = base if system == "albef" else RUNS / system
            command = [fitup, "evaluate", "query-cost", "--model", model, *captions("test"), "--json"]
            # Alone on the machine: after everything else.
            jobs.append(score(f"cost-{system}", command, after=every))
    return jobs


def tasks(options, base, before):
    fitup = options.binary
    steps = f"run.steps={TEXT_ASSIGNMENT_STEPS}"
    jobs = [finetune(fitup, "text-assignment", "text-assignment", base, [steps], before)]
    for seed in SEEDS:
        for task, count in TASKS.items():
            name = f"albef-{task}-{seed}"
            paired = task == "nlvr2"
            start = RUNS / "text-assignment" if paired else base
            after = ["text-assignment"] if paired else before
            extra = [f"run.steps={count}", f"seed={seed}", *(FROZEN if task == "entailment" else [])]
            jobs.append(finetune(fitup, name, task, start, extra, after))
            jobs.append(evaluate(fitup, name, task, after=[name]))
    jobs.append(score("albef-zero-shot-retrieval", retrieval(fitup, base), after=before))
    fine_tuned = f"albef-retrieval-{SEEDS[0]}"
    command = retrieval(fitup, RUNS / fine_tuned, "--texts", "all")
    jobs.append(score("albef-retrieval-all-texts", command, after=[fine_tuned]))
    command = [fitup, "data", "scenes-check", DATA, "--json"]
    jobs.append(score("baselines", command, after=["scenes"]))
    return jobs


def noise(options, base, before):
    """Every run goes on from the one model: one that knows nothing has nothing to distil, and learns nothing of 60 %
    noise in the time that there is."""
    fitup = options.binary
    jobs = [scenes(fitup, DATA.with_name(f"scenes-noise-{share}"), share) for share in NOISE if share]
    for seed in NOISE_SEEDS:
        for share in NOISE:
            data = "scenes" if share == 0 else f"scenes-noise-{share}"
            folder = DATA.with_name(data)
            files = f'["{folder}/train/captions.json"]'
            for distill in (True, False):
                name = f"noise-{share}-{'distilled' if distill else 'plain'}-{seed}"
                extra = [
                    f"seed={seed}",
                    "run.evaluate_every=0",
                    f"run.steps={options.noise_steps}",
                    "schedule.lr=5e-4",
                    f'model.init_weights="{weights(base)}"',
                    f'data.train={{ kind = "albef-json", files = {files}, image_root = "{folder}/train" }}',
                    # Contrast alone: what noise does to it shows in minutes, what it does to the others takes hours.
                    "objectives.itm=false",
                    "objectives.mlm=false",
                    f"objectives.distill_itc={str(distill).lower()}",
                    "objectives.alpha_ramp_epochs=0.0",
                    "objectives.queue_start=0",
                ]
                jobs.append(pretrain(fitup, name, "albef-scenes", extra, [data, *before]))
                command = retrieval(fitup, RUNS / name, "--texts", "all", "--k", "0")
                jobs.append(score(f"retrieval-{name}", command, after=[name]))
    return jobs


def weights(model):
    return model if model.is_file() else model / "model.safetensors"


def retrieval(fitup, model, *extra):
    return [fitup, "evaluate", "retrieval", "--model", model, *captions("test"), *extra, "--json"]


def captions(split):
    return ["--data", f"{DATA}/{split}/captions.json:{DATA}/{split}"]


def scenes(fitup, folder, share):
    command = [
        fitup, "data", "scenes", "--pictograms", "data/pictograms", "--out", folder, "--names", "40", "--side", "96",
        "--held-out", "sets", "--variants", "32", "--lattice", "8", "--train", "40000", "--noise", str(share / 100),
    ]
    name = "scenes" if share == 0 else f"scenes-noise-{share}"
    return Job(name, command, lambda: (folder / "test/split.json").exists())


def pretrain(fitup, name, recipe, extra=(), after=()):
    command = [fitup, "pretrain", recipe, "--out", RUNS / name, "--set", "data.workers=1", *overrides(extra)]
    return Job(name, command, finished(RUNS / name), after, resumable=True)


def finetune(fitup, name, task, start, extra, after):
    command = [
        fitup, "finetune", task, "--from", start, "--out", RUNS / name, "--set", "data.workers=1",
        "--set", "run.evaluate_every=0", *overrides(extra),
    ]
    return Job(name, command, finished(RUNS / name), after, resumable=True)


def evaluate(fitup, name, task, after):
    test = DATA / "test"
    if task == "retrieval":
        command = retrieval(fitup, RUNS / name)
    elif task == "grounding":
        command = [
            fitup, "evaluate", "grounding", "--model", RUNS / name, "--references", test / "refs.json",
            "--instances", test / "instances.json", "--proposals", test / "dets.json", "--images", test, "--json",
        ]
    else:
        command = [
            fitup, "evaluate", task, "--model", RUNS / name, "--data", test / TEST[task], "--images", test, "--json",
        ]
    return score(name, command, after)


def score(name, command, after):
    path = SCORES / f"{name}.json"
    return Job(f"score {name}", [*command, path], path.exists, after)


def overrides(extra):
    return [part for value in extra for part in ("--set", value)]


def finished(folder):
    """A run is whole when its last line in the study's log says so."""
    return lambda: (folder / "whole").exists()


def run(jobs, options):
    waiting = [job for job in jobs if not job.done()]
    whole = {job.name for job in jobs if job.done()}
    failed = set()
    lock = threading.Condition()

    def lane():
        while True:
            with lock:
                while True:
                    ready = next((job for job in waiting if all(name in whole for name in job.after)), None)
                    blocked = [job for job in waiting if any(name in failed for name in job.after)]
                    for job in blocked:
                        waiting.remove(job)
                        failed.add(job.name)
                    if ready or not waiting:
                        break
                    lock.wait()
                if ready is None:
                    lock.notify_all()
                    return
                waiting.remove(ready)
            good = carry_out(ready, options)
            with lock:
                (whole if good else failed).add(ready.name)
                lock.notify_all()

    lanes = [threading.Thread(target=lane) for _ in range(options.lanes)]
    for thread in lanes:
        thread.start()
    for thread in lanes:
        thread.join()
    if failed:
        sys.exit(f"failed: {', '.join(sorted(failed))}; their logs lie in {RUNS}")


def carry_out(job, options):
    command = [str(part) for part in job.command]
    out = None
    if job.name.startswith("score "):
        out = Path(command.pop())
    elif job.resumable:
        folder = Path(command[command.index("--out") + 1])
        if any((folder / "checkpoints").glob("*.safetensors")):
            command.append("--resume")
    log = RUNS / f"{job.name.replace(' ', '-')}.log"
    environment = {**os.environ, "RAYON_NUM_THREADS": str(options.threads)}
    started = time.monotonic()
    with open(log, "a") as told:
        done = subprocess.run(command, stdout=subprocess.PIPE if out else told, stderr=told, env=environment, check=False)
    minutes = (time.monotonic() - started) / 60
    print(f"{'done' if done.returncode == 0 else 'FAILED'} {job.name} in {minutes:.1f} min", flush=True)
    if done.returncode != 0:
        return False
    if out:
        partial = out.with_suffix(".partial")
        partial.write_bytes(done.stdout)
        partial.rename(out)
    elif job.resumable:
        (folder / "whole").touch()
    return True


def read(name):
    path = SCORES / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def accuracies(prefix):
    found = [read(f"{prefix}-{seed}") for seed in SEEDS]
    return [result["result"]["accuracy"] for result in found if result]


def spread(values):
    if not values:
        return "not run"
    return f"{statistics.mean(values):.1f} ({', '.join(f'{value:.1f}' for value in values)})"


def tables(_options):
    lines = ["| task | seeds: mean (each) |", "|---|---|"]
    for task in ("vqa", "nlvr2", "entailment"):
        lines.append(f"| {task} | {spread(accuracies(f'albef-{task}'))} |")
    for seed in SEEDS:
        for name in (f"albef-retrieval-{seed}", f"albef-grounding-{seed}"):
            found = read(name)
            if found:
                lines.append(f"| {name} | {json.dumps(found['result'])} |")
    lines += ["", "| system | vqa | nlvr2 | entailment |", "|---|---|---|---|"]
    for system in SYSTEMS:
        cells = [read(f"{system}-{task}") for task in SYSTEM_TASKS]
        cells = [f"{cell['result']['accuracy']:.1f}" if cell else "not run" for cell in cells]
        lines.append(f"| {system} | {' | '.join(cells)} |")
    lines += ["", "| noise | distilled | IR R@1/5/10 | TR R@1/5/10 |", "|---|---|---|---|"]
    for share in NOISE:
        for kind in ("distilled", "plain"):
            for seed in NOISE_SEEDS:
                found = read(f"retrieval-noise-{share}-{kind}-{seed}")
                if not found:
                    continue
                cells = []
                for side in ("img", "txt"):
                    scores = found["result"]["itc"]["official"]
                    cells.append(" / ".join(f"{scores[f'{side}_r{k}']:.1f}" for k in (1, 5, 10)))
                lines.append(f"| {share} % | {kind}, seed {seed} | {' | '.join(cells)} |")
    for system in COST:
        found = read(f"cost-{system}")
        if found:
            lines.append(f"cost {system}: {json.dumps(found['milliseconds'])}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
