"""Encoding without training.

Images, peers: `eager` and `sdpa` (timm), `compile` (the same through torch.compile), `onnxruntime`.
Texts, peers: `eager` and `sdpa` (transformers' BERT), padded to the longest length allowed, in batches
of 256, as ALBEF's evaluation encodes a collection.
"""

import os

import numpy as np
import torch
from safetensors.torch import load_file

from albef import vision_transformer

TEXT_BATCH = 256


class ImageEncoding:
    def __init__(self, workload, folder, peer):
        model = vision_transformer(workload["vision"], fused=peer != "eager").eval()
        model.load_state_dict(load_file(folder / "weights.safetensors"))
        self.all_tokens = workload["all_tokens"]
        self.image = load_file(folder / "inputs.safetensors")["image"]
        if peer == "onnxruntime":
            self.forward = onnx_session(model, self.image, folder / "model.onnx")
        elif peer == "compile":
            self.forward = torch.compile(model)
        else:
            self.forward = model

    def run(self):
        with torch.inference_mode():
            self.tokens = self.forward(self.image)

    def outputs(self):
        tokens = np.asarray(self.tokens)
        return {"tokens": tokens if self.all_tokens else np.ascontiguousarray(tokens[:, 0])}


def onnx_session(model, image, path):
    import onnxruntime

    torch.onnx.export(model, (image,), path, input_names=["image"], output_names=["tokens"], dynamo=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    # Threads spin while a run lasts, which is the fast setting, and not after it, when the other
    # side runs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(["tokens"], {"image": image.numpy()})[0]


class TextEncoding:
    def __init__(self, workload, folder, peer):
        from transformers import BertConfig, BertModel

        text = workload["albef"]["text"]
        config = BertConfig(
            vocab_size=text["vocab_size"],
            hidden_size=text["hidden_size"],
            num_hidden_layers=text["num_hidden_layers"],
            num_attention_heads=text["num_attention_heads"],
            intermediate_size=text["intermediate_size"],
            max_position_embeddings=text["max_position_embeddings"],
            layer_norm_eps=1e-12,
            attn_implementation=peer,
        )
        self.model = BertModel(config, add_pooling_layer=False).eval()
        weights = load_file(folder / "weights.safetensors")
        prefix = "text_encoder.bert."
        weights = {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}
        missing, unexpected = self.model.load_state_dict(weights, strict=False)
        assert not [n for n in missing if "position_ids" not in n] and not unexpected, (missing, unexpected)
        inputs = load_file(folder / "inputs.safetensors")
        self.ids, self.mask = inputs["input_ids"], inputs["attention_mask"]

    def run(self):
        with torch.inference_mode():
            batches = zip(self.ids.split(TEXT_BATCH), self.mask.split(TEXT_BATCH))
            encoded = [self.model(ids, attention_mask=mask).last_hidden_state for ids, mask in batches]
            self.tokens = torch.cat(encoded)

    def outputs(self):
        last = self.mask.sum(1) - 1
        rows = torch.arange(len(last))
        return {
            "first": self.tokens[:, 0].numpy().copy(),
            "last": self.tokens[rows, last].numpy().copy(),
        }
