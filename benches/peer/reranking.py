"""The re-ranking loops of ALBEF's retrieval evaluation: k texts for each image, then k images for each
text, every pair with the image's tokens of its own.

Peers: `eager`, `sdpa` (fused attention).
"""

import numpy as np
import torch
from safetensors.torch import load_file

import recipe as recipes
from albef import Albef


class Reranking:
    def __init__(self, workload, folder, peer):
        recipe = recipes.load(workload["recipe"], workload["set"])
        self.model = Albef(recipe["model"]["albef"], fused=peer == "sdpa").eval()
        self.model.load_state_dict(load_file(folder / "weights.safetensors"))
        inputs = load_file(folder / "inputs.safetensors")
        self.image_tokens = inputs["image_tokens"]
        self.image_embed, self.text_embed = inputs["image_embed"], inputs["text_embed"]
        self.text_tokens, self.text_mask = inputs["text_tokens"], inputs["text_mask"]
        self.k = workload["k"]
        self.images, self.texts = workload["images"], workload["texts"]

    def tokens_of(self, images):
        return self.image_tokens[images % self.image_tokens.shape[0]]

    def score(self, texts, tokens):
        atts = torch.ones(tokens.shape[:-1], dtype=torch.long)
        fused = self.model.text_encoder.bert.fusion(
            self.text_tokens[texts], self.text_mask[texts], tokens, atts
        )
        return self.model.itm_head(fused[:, 0, :])[:, 1]

    @torch.no_grad()
    def run(self):
        sims = self.image_embed @ self.text_embed.t()
        count = len(self.text_embed), len(self.image_embed)
        i2t = torch.full((count[1], count[0]), -100.0)
        t2i = torch.full(count, -100.0)
        for image in self.images:
            _, texts = sims[image].topk(k=self.k)
            tokens = self.tokens_of(torch.tensor([image])).repeat(self.k, 1, 1)
            i2t[image, texts] = self.score(texts, tokens)
        sims = sims.t()
        for text in self.texts:
            _, images = sims[text].topk(k=self.k)
            tokens = self.tokens_of(images)
            t2i[text, images] = self.score(torch.tensor([text]).expand(self.k), tokens)
        self.i2t, self.t2i = i2t, t2i

    def outputs(self):
        """The pairs of the image loop, and those of the text loop."""
        pairs, scores = [], []
        for matrix, order in ((self.i2t, (0, 1)), (self.t2i, (1, 0))):
            found = (matrix > -100).nonzero()
            scores.append(matrix[found[:, 0], found[:, 1]])
            pairs.append(found[:, list(order)])
        return {
            "pairs": torch.cat(pairs).numpy().astype(np.int64),
            "scores": torch.cat(scores).numpy(),
        }
