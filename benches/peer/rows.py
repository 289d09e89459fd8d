"""The rows of the benchmark: what is done, at which shape, against whom, and how both sides' results
are compared. Each row writes its inputs into a folder and says what `workload.json` holds.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import arithmetic
import inputs
import recipe as recipes

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "recipes/pretrain/albef-tiny.toml"
BASE = ROOT / "recipes/pretrain/albef-4m.toml"
ALPHA = 0.4
# Sizes of `shrink`, where only the benchmark itself is tried.
SMALL = [
    "model.albef.vision.depth=2",
    "model.albef.text.num_hidden_layers=4",
    "model.albef.text.fusion_layer=2",
    "model.albef.text.vocab_size=3000",
]


class CannotRun(Exception):
    """Why a row cannot run on this machine."""


class Differs(Exception):
    """Both sides computed different things."""


@dataclass
class Work:
    """What a row has prepared."""

    workload: dict
    # Operations in matrix products that one run of fitup and one of a peer execute.
    fitup_operations: float
    peer_operations: float
    # What a reader of the ratio must know.
    notes: list = field(default_factory=list)


def close(name, ours, theirs, tolerance):
    """Greatest difference as a share of the greatest value."""
    if ours.shape != theirs.shape:
        raise Differs(f"{name}: shape {list(ours.shape)} here, {list(theirs.shape)} there")
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        raise Differs(f"{name}: not finite")
    share = float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30))
    if share > tolerance:
        raise Differs(f"{name}: differs by {share:.1e} of the greatest value, allowed {tolerance:.0e}")
    return share


@dataclass
class Row:
    """One line of the table."""

    name: str
    title: str
    # Peer and the ratio that is asked for, `None` where none is.
    peers: dict
    # Memory that both sides need together.
    gibibytes: float = 4
    # Runs of both sides whose results are compared.
    checked_runs: int = 1
    threads: int | None = None
    # Share of the peer's memory that is asked for, where one is.
    memory_at_most: float | None = None
    # Whether results are compared on other settings than the timed ones.
    own_check = False


class Step(Row):
    own_check = True

    def __init__(self, name, title, peers, recipe, changes, batch, tokens=None, image_size=None, real=False, **more):
        super().__init__(name, title, peers, checked_runs=3, **more)
        self.recipe_path, self.batch, self.tokens, self.real = recipe, batch, tokens, real
        self.changes = [f"data.batch_size={batch}", *changes]
        if image_size:
            self.changes.append(f"model.albef.vision.image_size={image_size}")

    def shrink(self):
        self.batch = 4
        self.changes += ["data.batch_size=4", "objectives.queue_size=64", *SMALL]

    def prepare(self, folder, binary, checking):
        changes = list(self.changes)
        if checking:
            # Dropout of one side cannot be that of the other.
            changes += [f"model.albef.text.{rate}=0.0" for rate in ("hidden_dropout_prob", "attention_probs_dropout_prob")]
        recipe = recipes.load(self.recipe_path, changes)
        sizes, data = recipe["model"]["albef"], recipe["data"]
        torch.manual_seed(1)
        inputs.albef_weights(folder, recipe, with_queue=True)
        if self.real:
            if not (ROOT / "data/pictograms").exists():
                raise CannotRun("needs data/pictograms: `fitup data pictograms --out data/pictograms`")
            batches = inputs.real_batches(folder, binary, self.recipe_path, changes, 4)
        else:
            batches = [inputs.random_batch(sizes, self.batch, self.tokens) for _ in range(2)]
        probability = data.get("mask_probability", 0.15)
        batches = [inputs.with_draws(b, sizes["text"]["vocab_size"], probability) for b in batches]
        inputs.write_batches(folder, batches)
        workload = {
            "work": "albef_step",
            "recipe": str(self.recipe_path),
            "set": changes,
            "alpha": ALPHA,
            "batches": len(batches),
            "given_draws": checking,
        }
        queue = recipe["objectives"]["queue_size"]
        masks = [batch["attention_mask"] for batch in batches]
        ours = [self.ours(sizes, mask.sum(1).tolist(), probability, queue) for mask in masks]
        theirs = [arithmetic.step_original(sizes, self.batch, mask.shape[1], queue) for mask in masks]
        padded = Counter(mask.shape[1] for mask in masks)
        mean = float(np.mean([mask.sum(1).float().mean().item() for mask in masks]))
        note = f"texts of {mean:.1f} tokens on average, the longest of a batch {min(padded)} to {max(padded)}"
        return Work(workload, float(np.mean(ours)), float(np.mean(theirs)), [note])

    @staticmethod
    def ours(sizes, lengths, probability, queue):
        masked = round(probability * (sum(lengths) - len(lengths)))
        return arithmetic.step_fitup(sizes, lengths, masked, queue)

    def compare(self, run, ours, theirs):
        if ours["parameters"] != theirs["parameters"]:
            raise Differs(f"parameters: {ours['parameters']} here, {theirs['parameters']} there")
        # The losses of later runs depend on all gradients, the optimizer, the momentum model and the queue.
        tolerance = [2e-5, 5e-4, 2e-3][run]
        parts = [close(f"losses of step {run + 1}", ours["losses"], theirs["losses"], tolerance)]
        parts.append(close("temperature", ours["temp"], theirs["temp"], 1e-4))
        parts.append(close("queue", ours["queue"], theirs["queue"], 1e-3))
        return max(parts)


class ImageEncoding(Row):
    """`all_tokens`: whether the result is every token, or the first of each image, which an index keeps."""

    def __init__(self, name, title, peers, vision, batch, all_tokens):
        super().__init__(name, title, peers)
        self.vision, self.batch, self.all_tokens = vision, batch, all_tokens

    def shrink(self):
        self.batch, self.vision = 1, self.vision | {"depth": 2}

    def prepare(self, folder, binary, checking):
        torch.manual_seed(1)
        inputs.vision_weights(folder, self.vision)
        side = self.vision["image_size"]
        inputs.write(folder / "inputs.safetensors", {"image": torch.randn(self.batch, 3, side, side)})
        theirs = arithmetic.vision_transformer(self.vision, self.batch)
        ours = theirs if self.all_tokens else arithmetic.vision_transformer_first(self.vision, self.batch)
        workload = {"work": "image_encoding", "vision": self.vision, "all_tokens": self.all_tokens}
        notes = [] if self.all_tokens else ["the peers have no way to compute the first token alone in the last block"]
        return Work(workload, ours, theirs, notes)

    def compare(self, run, ours, theirs):
        return close("tokens", ours["tokens"], theirs["tokens"], 1e-4)


class TextEncoding(Row):
    def __init__(self, name, title, peers, text, count):
        super().__init__(name, title, peers)
        self.text, self.count = text, count

    def shrink(self):
        self.count, self.text = 70, self.text | {"num_hidden_layers": 2, "vocab_size": 1000}

    def prepare(self, folder, binary, checking):
        torch.manual_seed(1)
        vision = {"image_size": 16, "patch_size": 16, "width": 16, "depth": 1, "heads": 1}
        text = self.text | {"encoder_width": 16, "fusion_layer": self.text["num_hidden_layers"]}
        sizes = {"vision": vision, "text": text, "embed_dim": 16}
        inputs.albef_weights(folder, {"model": {"albef": sizes}}, with_queue=False)
        ids, mask = inputs.mixed_texts(self.count, text["vocab_size"])
        inputs.write(folder / "inputs.safetensors", {"input_ids": ids, "attention_mask": mask})
        longest = mask.shape[1]
        ours = arithmetic.texts_fitup(text, mask.sum(1).tolist())
        theirs = arithmetic.padded_layers(text, self.count, longest, text["num_hidden_layers"])
        workload = {"work": "text_encoding", "albef": sizes, "max_tokens": longest}
        return Work(workload, ours, theirs, ["fitup starts from words, and tokenizes them; the peer has ids"])

    def compare(self, run, ours, theirs):
        return max(close(part, ours[part], theirs[part], 1e-4) for part in ("first", "last"))


class Reranking(Row):
    """`images`: how many of the collection's images, and how many of its texts, are re-ranked."""

    def __init__(self, name, title, peers, recipe, changes, count, k, images, bank, **more):
        super().__init__(name, title, peers, **more)
        self.recipe_path, self.changes = recipe, changes
        self.count, self.k, self.images, self.bank = count, k, images, bank

    def shrink(self):
        part = self.images < self.count
        self.count, self.k, self.bank = 40, 8, 10
        self.images = 2 if part else self.count
        self.changes = [*self.changes, *SMALL]

    def prepare(self, folder, binary, checking):
        recipe = recipes.load(self.recipe_path, self.changes)
        sizes = recipe["model"]["albef"]
        text, tokens = sizes["text"], arithmetic.image_tokens(sizes["vision"])
        torch.manual_seed(1)
        inputs.albef_weights(folder, recipe, with_queue=False)
        _, mask = inputs.mixed_texts(self.count, text["vocab_size"])
        image_embed, text_embed = (inputs.unit_rows(self.count, sizes["embed_dim"], seed) for seed in (1, 2))
        tensors = {
            "image_tokens": torch.randn(self.bank, tokens, sizes["vision"]["width"]),
            "text_tokens": torch.randn(self.count, mask.shape[1], text["hidden_size"]),
            "text_mask": mask,
            "image_embed": image_embed,
            "text_embed": text_embed,
        }
        inputs.write(folder / "inputs.safetensors", tensors)
        images, texts, wanted = self.chosen(image_embed @ text_embed.T)
        lengths = mask.sum(1)
        ours = arithmetic.reranking_fitup(sizes, [lengths[wanted[i]].tolist() for i in images])
        theirs = arithmetic.reranking_original(sizes, 2 * self.images * self.k, mask.shape[1])
        workload = {
            "work": "reranking",
            "recipe": str(self.recipe_path),
            "set": self.changes,
            "k": self.k,
            "images": images,
            "texts": texts,
        }
        pairs = sum(int(wanted[i].sum()) for i in images)
        notes = [f"{pairs} different pairs for the {2 * self.images * self.k} that the original scores"]
        if self.images < self.count:
            notes.append(
                f"time of {self.images} of the {self.count} images and as many texts: fitup scores all pairs of "
                "these images, whichever direction asks for them, the peer these images' candidates and the texts'"
            )
        return Work(workload, ours, theirs, notes)

    def chosen(self, sims):
        """Images to re-rank, texts to re-rank, and which pairs either direction wants. Of a part, the
        images that the texts' candidates name as often as the average image."""
        wanted = torch.zeros(self.count, self.count, dtype=torch.bool)
        wanted.scatter_(1, sims.topk(self.k, dim=1).indices, True)
        of_texts = torch.zeros_like(wanted)
        of_texts.scatter_(0, sims.topk(self.k, dim=0).indices, True)
        wanted |= of_texts
        partners = wanted.sum(1).float()
        images = (partners - partners.mean()).abs().argsort(stable=True)[: self.images].sort().values
        return images.tolist(), list(range(self.images)), wanted

    def compare(self, run, ours, theirs):
        """Every pair that both scored; of the whole collection that is every pair that either scored."""
        score = {tuple(pair): s for pair, s in zip(ours["pairs"].tolist(), ours["scores"].tolist())}
        both = [(score[tuple(pair)], s) for pair, s in zip(theirs["pairs"].tolist(), theirs["scores"].tolist()) if tuple(pair) in score]
        if len(both) < self.images * self.k:
            raise Differs(f"only {len(both)} pairs were scored by both")
        if self.images == self.count and len(both) < len(theirs["scores"]):
            raise Differs("fitup left out pairs that the original scores")
        ours, theirs = np.array(both).T
        return close("scores", ours, theirs, 1e-3)


class Search(Row):
    def __init__(self, name, title, peers, rows, queries, dim=256, k=100, **more):
        super().__init__(name, title, peers, **more)
        self.rows, self.queries, self.dim, self.k = rows, queries, dim, k

    def shrink(self):
        self.rows = 20_000

    def prepare(self, folder, binary, checking):
        tensors = {
            "rows": inputs.unit_rows(self.rows, self.dim, 1),
            "queries": inputs.unit_rows(self.queries, self.dim, 2),
        }
        inputs.write(folder / "inputs.safetensors", tensors)
        operations = 2 * self.rows * self.queries * self.dim
        return Work({"work": "search", "k": self.k}, operations, operations)

    def compare(self, run, ours, theirs):
        # Scores that differ in the last bit may change places.
        pairs = zip(ours["found"].tolist(), theirs["found"].tolist())
        missing = max(len(set(b) - set(a)) for a, b in pairs)
        if missing > 1:
            raise Differs(f"{missing} of {self.k} hits are others")
        return close("scores", ours["scores"], theirs["scores"], 1e-5)


class Photos(Row):
    def __init__(self, name, title, peers, count, size=256):
        super().__init__(name, title, peers, threads=1)
        self.count, self.size = count, size

    def shrink(self):
        self.count = 4

    def prepare(self, folder, binary, checking):
        inputs.write_photos(folder / "photos", self.count)
        notes = [f"{self.count} files a run; both sides on one thread"]
        return Work({"work": "photos", "size": self.size}, 0, 0, notes)

    def compare(self, run, ours, theirs):
        # Decoders may round the colour conversion otherwise: a few grey levels of 256, where it clips.
        difference = np.abs(ours["input"] - theirs["input"])
        mean = float(difference.mean() / np.abs(theirs["input"]).max())
        if ours["input"].shape != theirs["input"].shape or mean > 4e-3:
            raise Differs(f"input: differs by {mean:.1e} of the greatest value on average")
        return mean


TRAINED_TINY = [
    # The whole step from the start, with the targets and the one learning rate of the original.
    "objectives.fusion_start=0",
    "objectives.queue_start=0",
    'objectives.itc_targets="pair"',
    "optimizer.lr_scales={}",
]
TRAINED_BASE = ["optimizer.accumulate=1"]
VIT_BASE = {"image_size": 224, "patch_size": 16, "width": 768, "depth": 12, "heads": 12, "mlp_ratio": 4}
BERT_BASE = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
}


def base_step(name, title, peers, batch=4, tokens=25, image_size=256, memory_at_most=None):
    memory = {"gibibytes": 18, "memory_at_most": memory_at_most}
    return Step(name, title, peers, BASE, TRAINED_BASE, batch, tokens, image_size, **memory)


def search(name, title, peers, rows, queries):
    return Search(name, title, peers, rows, queries, gibibytes=8 * rows / 1e6)


TABLE = [
    base_step(
        "base-step",
        "ALBEF-base pre-training step [ViT-B/16 at 256 px, BERT-base, queue 65,536, batch 4, 25 tokens]",
        {"eager": 1.6, "sdpa": None, "compile": None},
        memory_at_most=0.8,
    ),
    Step(
        "tiny-step",
        "ALBEF-tiny pre-training step [sizes of the recipe albef-tiny, batch 64, real captions]",
        {"eager": 2.0, "sdpa": None, "compile": None},
        TINY,
        TRAINED_TINY,
        batch=64,
        real=True,
    ),
    ImageEncoding(
        "image-encoding",
        "ViT-B/16 encoding [224 px, batch 16], to the first token, of which an index's embedding is made",
        {"sdpa": 1.15, "onnxruntime": 1.0, "eager": None, "compile": None},
        VIT_BASE,
        batch=16,
        all_tokens=False,
    ),
    ImageEncoding(
        "image-tokens",
        "same, to all tokens, as fusion reads them",
        {"sdpa": 1.15, "onnxruntime": 1.0, "eager": None, "compile": None},
        VIT_BASE,
        batch=16,
        all_tokens=True,
    ),
    TextEncoding(
        "text-encoding",
        "BERT-base encoding [512 texts of 5 to 30 tokens]",
        {"eager": 1.7, "sdpa": None},
        BERT_BASE,
        count=512,
    ),
    Reranking(
        "reranking-tiny",
        "re-ranking [1,000 images x 1,000 texts, k = 64, tiny sizes]",
        {"eager": 3.5, "sdpa": None},
        TINY,
        [],
        count=1000,
        k=64,
        images=1000,
        bank=1000,
    ),
    Reranking(
        "reranking-base",
        "re-ranking [1,000 images x 1,000 texts, k = 64, base sizes at 384 px, 2 images and 2 texts of them]",
        {"eager": 3.5, "sdpa": None},
        BASE,
        ["model.albef.vision.image_size=384"],
        count=1000,
        k=64,
        images=2,
        bank=64,
        gibibytes=8,
    ),
    search("search-1", "exact search [1 M x 256 f32, top 100, 1 query]", {"faiss": 1.0}, 1_000_000, 1),
    search("search-64", "exact search [1 M x 256 f32, top 100, 64 queries]", {"faiss": 1.0}, 1_000_000, 64),
    Photos("photos", "JPEG photo to augmented 256 px tensor [500 px photos, one core]", {"pillow": 1.5}, count=64),
]

NAMED = {row.name: row for row in TABLE}


def steps(what, sizes, of_table):
    """The base step at several sizes; one of them is the table's own row."""
    for size in sizes:
        name = f"base-step-{what}-{size}"
        step = base_step(name, "", {"eager": None}, **{what: size})
        yield NAMED["base-step"] if size == of_table else step, size


def searches(queries):
    for count in (10_000, 100_000):
        yield search(f"search-{queries}-of-{count}", "", {"faiss": None}, count, queries), count
    yield NAMED[f"search-{queries}"], 1_000_000


# What grows, and the row at each size with that size.
GROWTH = {
    "step time against batch": list(steps("batch", (2, 4, 8), 4)),
    "step time against tokens": list(steps("tokens", (10, 25, 50), 25)),
    "step time against image size": list(steps("image_size", (128, 256, 384), 256)),
    "search against collection size, 1 query": list(searches(1)),
    "search against collection size, 64 queries": list(searches(64)),
}
