"""One side in a warm process of its own, and the line protocol of `fitup/src/main.rs`."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


class DidNotRun(Exception):
    """A side that ended, with the last thing it said."""


class Side:
    def __init__(self, command, threads):
        environment = dict(os.environ)
        for name in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            environment[name] = str(threads)
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment,
            text=True,
        )
        self.expect("ready")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def expect(self, word):
        """What follows `word` in the next answer."""
        answer = self.process.stdout.readline().split()
        if not answer or answer[0] != word:
            self.process.wait()
            self.errors.seek(0)
            said = [line.strip() for line in self.errors.read().splitlines() if line.strip()]
            raise DidNotRun(said[-1] if said else f"ended with status {self.process.returncode}")
        return answer[1] if len(answer) > 1 else None

    def ask(self, line, word):
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        return self.expect(word)

    def run(self):
        """Seconds of one run."""
        return float(self.ask("run", "seconds"))

    def outputs(self, path):
        from safetensors.numpy import load_file

        self.ask(f"outputs {path}", "written")
        return load_file(path)

    def reset(self):
        self.ask("reset", "reset")

    def peak(self):
        """Bytes, `None` where the system does not tell."""
        bytes = self.ask("memory", "peak")
        return None if bytes == "unknown" else int(bytes)


def fitup(binary, folder, threads):
    return Side([binary, "work", folder], threads)


def peer(folder, name, threads):
    return Side([sys.executable, HERE / "peer.py", folder, name], threads)
