"""The same random weights and inputs for both sides, from a seed."""

import io
import json
import subprocess

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from albef import CLS, MASK, PAD, Albef, vision_transformer

SPECIAL = 5  # ids below are [PAD], [UNK], [CLS], [SEP], [MASK]
TEXT_LENGTHS = (5, 30)


def write_json(path, value):
    path.with_suffix(".part").write_text(json.dumps(value, indent=1))
    path.with_suffix(".part").rename(path)


def write(path, tensors):
    save_file({name: t.contiguous() for name, t in tensors.items()}, path.with_suffix(".part"))
    path.with_suffix(".part").rename(path)


def drawn(model, std):
    """The model with normal matrices; biases and LayerNorms drawn too, so that a slip in one shows."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == "temp":
                continue
            parameter.normal_(0.0, std)
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.add_(1.0)
    return model


def albef_weights(folder, recipe, with_queue):
    objectives = recipe["objectives"] if with_queue else None
    model = drawn(Albef(recipe["model"]["albef"], objectives), recipe["model"].get("init_std", 0.02))
    tensors = model.state_dict()
    tensors = {name: t for name, t in tensors.items() if not name.split(".")[0].endswith("_m")}
    write(folder / "weights.safetensors", tensors)


def random_batch(sizes, batch, tokens):
    """Every text of full length: no padding that one side could save."""
    side, text = sizes["vision"]["image_size"], sizes["text"]
    ids = torch.randint(SPECIAL, text["vocab_size"], (batch, tokens))
    ids[:, 0] = CLS
    return {
        "image": torch.randn(batch, 3, side, side),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
    }


def with_draws(batch, vocab_size, probability):
    """The batch with masks and negatives, for the comparison of both sides' losses."""
    ids = batch["input_ids"]
    count = len(ids)
    masked = (torch.rand(ids.shape) < probability) & (ids != PAD) & (ids != CLS)
    masked[0, 1] = True
    labels = torch.where(masked, ids, -100)
    random = torch.randint(SPECIAL, vocab_size, ids.shape)
    replaced = torch.where(torch.rand(ids.shape) < 0.8, MASK, random)
    shift = torch.randint(1, count, (2, count))
    others = (torch.arange(count)[None] + shift) % count
    return batch | {
        "masked_input_ids": torch.where(masked, replaced, ids),
        "labels": labels,
        "negative_images": others[0],
        "negative_texts": others[1],
    }


def write_batches(folder, batches):
    tensors = {f"{i}.{name}": t for i, batch in enumerate(batches) for name, t in batch.items()}
    write(folder / "batches.safetensors", tensors)


def real_batches(folder, binary, recipe_path, changes, count):
    """Of the recipe's data, as fitup reads it."""
    write_json(folder / "batches.json", {"recipe": str(recipe_path), "set": changes, "batches": count})
    done = subprocess.run([binary, "batches", folder], stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    tensors = load_file(folder / "pairs.safetensors")
    names = ("image", "input_ids", "attention_mask")
    return [{name: tensors[f"{i}.{name}"] for name in names} for i in range(count)]


def vision_weights(folder, vision):
    write(folder / "weights.safetensors", drawn(vision_transformer(vision), 0.02).state_dict())


def mixed_texts(count, vocab_size):
    """Ids and mask of texts of 5 to 30 tokens, padded to 30."""
    least, most = TEXT_LENGTHS
    lengths = torch.randint(least, most + 1, (count,))
    mask = (torch.arange(most)[None] < lengths[:, None]).long()
    ids = torch.randint(SPECIAL, vocab_size, (count, most))
    ids[:, 0] = CLS
    return ids * mask, mask


def unit_rows(count, dim, seed):
    rows = np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return torch.from_numpy(rows)


def write_photos(folder, count, seed=0):
    """JPEG files of 500 x 375 pixels with the look of photos: soft shapes at all scales, edges, grain."""
    from PIL import Image

    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    width, height = 500, 375
    y, x = np.mgrid[0:height, 0:width]
    for number in range(count):
        pixels = np.zeros((height, width, 3), dtype=np.float32)
        for cells in (3, 6, 12, 25, 50, 100):
            # Natural images have about equal energy in every octave.
            coarse = rng.normal(0, 255 / cells**0.5, (cells, cells, 3)).astype(np.float32)
            layers = [Image.fromarray(coarse[..., c]).resize((width, height), Image.BICUBIC) for c in range(3)]
            pixels += np.stack([np.asarray(layer) for layer in layers], axis=-1)
        for _ in range(6):
            centre = rng.uniform(0, 1, 2) * (width, height)
            inside = np.hypot(x - centre[0], y - centre[1]) < rng.uniform(20, 120)
            pixels[inside] = 0.5 * pixels[inside] + rng.uniform(0, 255, 3)
        pixels += 110 + rng.normal(0, 4, pixels.shape)
        data = io.BytesIO()
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(data, "JPEG", quality=90)
        (folder / f"{number:03}.jpg").write_bytes(data.getvalue())
