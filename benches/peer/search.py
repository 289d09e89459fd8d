"""Exact search by inner product. Peer: `faiss`, a flat index."""

import os

import faiss
from safetensors.numpy import load_file


class Search:
    def __init__(self, workload, folder, peer):
        assert peer == "faiss"
        faiss.omp_set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        inputs = load_file(folder / "inputs.safetensors")
        self.index = faiss.IndexFlatIP(inputs["rows"].shape[1])
        self.index.add(inputs["rows"])
        self.queries = inputs["queries"]
        self.k = workload["k"]

    def run(self):
        self.scores, self.found = self.index.search(self.queries, self.k)

    def outputs(self):
        return {"found": self.found, "scores": self.scores}
