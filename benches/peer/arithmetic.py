"""Floating-point operations of the matrix products that each side executes, counted by hand: a
multiplication with an addition is two. What is no product (LayerNorm, softmax, AdamW) is not counted,
so the shares of the machine's rate show how much time goes elsewhere.

A side that leaves work out gets no credit for it here. fitup's counts follow its code as it is
(`crates/models/src/layers/bert.rs`, `crates/training/src/tasks/retrieval.rs`), and change with it.
"""


def linear(rows, width_in, width_out):
    return 2 * rows * width_in * width_out


def image_tokens(vision):
    return (vision["image_size"] // vision["patch_size"]) ** 2 + 1


def vision_transformer(vision, batch):
    n, w = image_tokens(vision), vision["width"]
    patches = linear(n - 1, 3 * vision["patch_size"] ** 2, w)
    hidden = vision.get("mlp_ratio", 4) * w
    block = linear(n, w, 4 * w) + 2 * linear(n, w, hidden) + 4 * n * n * w
    return batch * (patches + vision["depth"] * block)


def vision_transformer_first(vision, batch):
    """The last block has one query an image."""
    n, w = image_tokens(vision), vision["width"]
    hidden = vision.get("mlp_ratio", 4) * w
    others = vision_transformer(vision | {"depth": vision["depth"] - 1}, batch)
    return others + batch * (linear(n, w, 2 * w) + 2 * linear(1, w, w) + 2 * linear(1, w, hidden) + 4 * n * w)


def layer(text, out_rows, in_rows, self_pairs, cross_pairs=0):
    """`out_rows` read `in_rows`; `*_pairs`: query-key pairs. Without the image's keys and values."""
    w = text["hidden_size"]
    attention = linear(2 * out_rows + 2 * in_rows, w, w) + 4 * self_pairs * w
    cross = linear(2 * out_rows, w, w) + 4 * cross_pairs * w if cross_pairs else 0
    return attention + cross + 2 * linear(out_rows, w, text["intermediate_size"])


def image_keys_values(text, rows):
    """Of one fusion layer."""
    return 2 * linear(rows, text["encoder_width"], text["hidden_size"])


def padded_layers(text, texts, length, layers, image=0):
    """`layers` on `texts` padded to `length`; with `image` tokens, each has an image of its own."""
    rows = texts * length
    one = layer(text, rows, rows, rows * length, rows * image)
    return layers * (one + (image_keys_values(text, texts * image) if image else 0))


def step_original(sizes, batch, length, queue):
    """The whole step: the trained passes count three times (forward, two gradients)."""
    vision, text = sizes["vision"], sizes["text"]
    n, w = image_tokens(vision), text["hidden_size"]
    lower, upper = text["fusion_layer"], text["num_hidden_layers"] - text["fusion_layer"]
    encode = vision_transformer(vision, batch) + padded_layers(text, batch, length, lower)
    contrast = 2 * linear(batch, sizes["embed_dim"], batch + queue)
    matching = padded_layers(text, 3 * batch, length, upper, n)
    words = padded_layers(text, batch, length, lower) + padded_layers(text, batch, length, upper, n)
    words += linear(batch * length, w, w) + linear(batch * length, w, text["vocab_size"])
    return 3 * (encode + contrast + matching + words) + encode + contrast + words


def step_fitup(sizes, lengths, masked, queue):
    """The whole step without padding. `lengths`: of each text; `masked`: tokens in all."""
    vision, text = sizes["vision"], sizes["text"]
    n, w, batch = image_tokens(vision), text["hidden_size"], len(lengths)
    lower, upper = text["fusion_layer"], text["num_hidden_layers"] - text["fusion_layer"]
    rows, squares, longest = sum(lengths), sum(x * x for x in lengths), max(lengths)
    whole = layer(text, rows, rows, squares)
    first = (lower - 1) * whole + layer(text, batch, rows, rows)
    keys_values = upper * image_keys_values(text, batch * n)
    # The first self-attention of the fusion layers is the same in all pairs of a text.
    repeated = 3 * layer(text, rows, rows, squares, rows * n)
    shared = 2 * (linear(4 * rows, w, w) + 4 * squares * w)
    last = layer(text, 3 * batch, 3 * rows, 3 * rows, 3 * batch * n)
    matching = (upper - 1) * repeated + last - shared
    words = lower * whole + (upper - 1) * layer(text, rows, rows, squares, rows * n)
    words += layer(text, masked, rows, masked * longest, masked * n)
    words += linear(masked, w, w) + linear(masked, w, text["vocab_size"])
    contrast = 2 * linear(batch, sizes["embed_dim"], batch + queue)
    images = vision_transformer(vision, batch)
    trained = images + lower * whole + keys_values + matching + words + contrast
    return 3 * trained + images + first + keys_values + words + contrast


def texts_fitup(text, lengths):
    rows, squares = sum(lengths), sum(x * x for x in lengths)
    return text["num_hidden_layers"] * layer(text, rows, rows, squares)


def reranking_original(sizes, pairs, length):
    upper = sizes["text"]["num_hidden_layers"] - sizes["text"]["fusion_layer"]
    return padded_layers(sizes["text"], pairs, length, upper, image_tokens(sizes["vision"]))


def reranking_fitup(sizes, chosen_lengths):
    """`chosen_lengths`: of the texts that each image meets."""
    text, n = sizes["text"], image_tokens(sizes["vision"])
    upper = text["num_hidden_layers"] - text["fusion_layer"]
    total = 0
    for lengths in chosen_lengths:
        rows, squares, count = sum(lengths), sum(x * x for x in lengths), len(lengths)
        total += upper * image_keys_values(text, n)
        total += (upper - 1) * layer(text, rows, rows, squares, rows * n)
        # Of the last layer, the first rows alone.
        total += layer(text, count, rows, rows, count * n)
    return total
