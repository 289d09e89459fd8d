"""The original ALBEF in PyTorch: the same layers, in the order of the authors' code.

Written anew, with timm's Vision Transformer and a BERT whose parameters carry the official names.
What the original computes although nothing needs it stays: padding through every layer, vocabulary
logits of every token, three fusion passes that project the image's keys and values each time, a
concatenated copy of the queue, the momentum update parameter by parameter inside `forward`.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn

PAD, CLS, MASK = 0, 2, 4


def vision_transformer(sizes, fused=False):
    """timm's, which gives all tokens; `fused`: scaled dot-product attention in one operator."""
    model = VisionTransformer(
        img_size=sizes["image_size"],
        patch_size=sizes["patch_size"],
        embed_dim=sizes["width"],
        depth=sizes["depth"],
        num_heads=sizes["heads"],
        mlp_ratio=sizes.get("mlp_ratio", 4),
        num_classes=0,
        global_pool="",
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    for block in model.blocks:
        block.attn.fused_attn = fused
    return model


class SelfAttention(nn.Module):
    """Queries of the text; keys and values of the text or the image. `[batch, seq, width]`."""

    def __init__(self, text, source_width, fused):
        super().__init__()
        width = text["hidden_size"]
        self.heads = text["num_attention_heads"]
        self.fused = fused
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source_width, width)
        self.value = nn.Linear(source_width, width)
        self.dropout = nn.Dropout(text.get("attention_probs_dropout_prob", 0.1))

    def split(self, x):
        batch, seq, width = x.shape
        return x.view(batch, seq, self.heads, width // self.heads).transpose(1, 2)

    def forward(self, x, source, mask):
        q, k, v = self.split(self.query(x)), self.split(self.key(source)), self.split(self.value(source))
        if self.fused:
            rate = self.dropout.p if self.training else 0.0
            context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=rate)
        else:
            scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
            context = self.dropout(F.softmax(scores + mask, dim=-1)) @ v
        return context.transpose(1, 2).reshape(x.shape)


class Dense(nn.Module):
    """Linear layer, dropout, residual, LayerNorm."""

    def __init__(self, text, source_width):
        super().__init__()
        self.dense = nn.Linear(source_width, text["hidden_size"])
        self.LayerNorm = nn.LayerNorm(text["hidden_size"], eps=text.get("layer_norm_eps", 1e-12))
        self.dropout = nn.Dropout(text.get("hidden_dropout_prob", 0.1))

    def forward(self, x, residual):
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class Attention(nn.Module):
    def __init__(self, text, source_width, fused):
        super().__init__()
        setattr(self, "self", SelfAttention(text, source_width, fused))
        self.output = Dense(text, text["hidden_size"])

    def forward(self, x, source, mask):
        return self.output(getattr(self, "self")(x, source, mask), x)


class Intermediate(nn.Module):
    def __init__(self, text):
        super().__init__()
        self.dense = nn.Linear(text["hidden_size"], text["intermediate_size"])

    def forward(self, x):
        return F.gelu(self.dense(x))


class BertLayer(nn.Module):
    def __init__(self, text, fusion, fused):
        super().__init__()
        self.attention = Attention(text, text["hidden_size"], fused)
        if fusion:
            self.crossattention = Attention(text, text["encoder_width"], fused)
        self.intermediate = Intermediate(text)
        self.output = Dense(text, text["intermediate_size"])

    def forward(self, x, mask, image, image_mask):
        x = self.attention(x, x, mask)
        if image is not None:
            x = self.crossattention(x, image, image_mask)
        return self.output(self.intermediate(x), x)


class Embeddings(nn.Module):
    def __init__(self, text):
        super().__init__()
        width = text["hidden_size"]
        self.word_embeddings = nn.Embedding(text["vocab_size"], width, padding_idx=PAD)
        self.position_embeddings = nn.Embedding(text["max_position_embeddings"], width)
        self.token_type_embeddings = nn.Embedding(text.get("type_vocab_size", 2), width)
        self.LayerNorm = nn.LayerNorm(width, eps=text.get("layer_norm_eps", 1e-12))
        self.dropout = nn.Dropout(text.get("hidden_dropout_prob", 0.1))

    def forward(self, ids):
        places = torch.arange(ids.shape[1], device=ids.device)[None]
        segments = torch.zeros_like(ids)
        x = self.word_embeddings(ids) + self.token_type_embeddings(segments)
        return self.dropout(self.LayerNorm(x + self.position_embeddings(places)))


class Encoder(nn.Module):
    def __init__(self, text, fused):
        super().__init__()
        layers = range(text["num_hidden_layers"])
        self.layer = nn.ModuleList(BertLayer(text, i >= text["fusion_layer"], fused) for i in layers)
        self.fusion_layer = text["fusion_layer"]


class Bert(nn.Module):
    def __init__(self, text, fused):
        super().__init__()
        self.embeddings = Embeddings(text)
        self.encoder = Encoder(text, fused)

    def text(self, ids, atts):
        """`ids`, `atts`: `[batch, seq]`; the lower layers."""
        x, mask = self.embeddings(ids), additive(atts, -1e4)
        for layer in self.encoder.layer[: self.encoder.fusion_layer]:
            x = layer(x, mask, None, None)
        return x

    def fusion(self, x, atts, image, image_atts):
        """`x`: of `text`; `image`: `[batch, tokens, width]`; the upper layers."""
        mask, image_mask = additive(atts, -1e4), additive(image_atts, -1e9)
        for layer in self.encoder.layer[self.encoder.fusion_layer :]:
            x = layer(x, mask, image, image_mask)
        return x

    def forward(self, ids, atts, image, image_atts):
        return self.fusion(self.text(ids, atts), atts, image, image_atts)


def additive(atts, masked):
    return ((1.0 - atts.float()) * masked)[:, None, None, :]


class Transform(nn.Module):
    def __init__(self, text):
        super().__init__()
        self.dense = nn.Linear(text["hidden_size"], text["hidden_size"])
        self.LayerNorm = nn.LayerNorm(text["hidden_size"], eps=text.get("layer_norm_eps", 1e-12))

    def forward(self, x):
        return self.LayerNorm(F.gelu(self.dense(x)))


class Predictions(nn.Module):
    """The masked-word head; its matrix is the word embeddings'."""

    def __init__(self, text):
        super().__init__()
        self.transform = Transform(text)
        self.bias = nn.Parameter(torch.zeros(text["vocab_size"]))

    def forward(self, x, words):
        return F.linear(self.transform(x), words, self.bias)


class TextEncoder(nn.Module):
    def __init__(self, text, fused):
        super().__init__()
        self.bert = Bert(text, fused)
        self.cls = nn.ModuleDict({"predictions": Predictions(text)})

    def logits(self, ids, atts, image, image_atts):
        """Vocabulary logits of every token, `[batch, seq, vocabulary]`."""
        x = self.bert(ids, atts, image, image_atts)
        return self.cls["predictions"](x, self.bert.embeddings.word_embeddings.weight)


class Albef(nn.Module):
    """Pre-training: `forward` gives the three losses, moves the momentum model and fills the queue."""

    def __init__(self, sizes, objectives=None, mask_probability=0.15, fused=False):
        super().__init__()
        vision, text = sizes["vision"], sizes["text"]
        self.vocab_size = text["vocab_size"]
        self.mask_probability = mask_probability
        self.visual_encoder = vision_transformer(vision, fused)
        self.text_encoder = TextEncoder(text, fused)
        self.vision_proj = nn.Linear(vision["width"], sizes["embed_dim"])
        self.text_proj = nn.Linear(text["hidden_size"], sizes["embed_dim"])
        self.itm_head = nn.Linear(text["hidden_size"], 2)
        self.temp = nn.Parameter(torch.tensor(sizes.get("temp", 0.07)))
        self.objectives = objectives
        if objectives is None:
            return
        self.visual_encoder_m = vision_transformer(vision, fused)
        self.text_encoder_m = TextEncoder(text, fused)
        self.vision_proj_m = nn.Linear(vision["width"], sizes["embed_dim"])
        self.text_proj_m = nn.Linear(text["hidden_size"], sizes["embed_dim"])
        size = objectives["queue_size"]
        self.register_buffer("image_queue", F.normalize(torch.randn(sizes["embed_dim"], size), dim=0))
        self.register_buffer("text_queue", F.normalize(torch.randn(sizes["embed_dim"], size), dim=0))
        self.queue_ptr = 0

    def pairs(self):
        """The trained modules with their momentum copies."""
        names = ["visual_encoder", "text_encoder", "vision_proj", "text_proj"]
        return [(getattr(self, name), getattr(self, name + "_m")) for name in names]

    @torch.no_grad()
    def start_momentum(self):
        for model, copy in self.pairs():
            copy.load_state_dict(model.state_dict())
            copy.requires_grad_(False)

    @torch.no_grad()
    def update_momentum(self):
        momentum = self.objectives["momentum"]
        for model, copy in self.pairs():
            for now, slow in zip(model.parameters(), copy.parameters()):
                slow.data = slow.data * momentum + now.data * (1.0 - momentum)

    @torch.no_grad()
    def enqueue(self, image, text):
        batch, at = image.shape[0], self.queue_ptr
        self.image_queue[:, at : at + batch] = image.T
        self.text_queue[:, at : at + batch] = text.T
        self.queue_ptr = (at + batch) % self.image_queue.shape[1]

    def mask(self, ids):
        """Replaced ids, and labels with -100 where nothing is masked."""
        ids, labels = ids.clone(), ids.clone()
        masked = torch.bernoulli(torch.full(ids.shape, self.mask_probability)).bool()
        masked &= (ids != PAD) & (ids != CLS)
        labels[~masked] = -100
        replaced = torch.bernoulli(torch.full(ids.shape, 0.8)).bool() & masked
        ids[replaced] = MASK
        random = torch.bernoulli(torch.full(ids.shape, 0.5)).bool() & masked & ~replaced
        ids[random] = torch.randint(self.vocab_size, ids.shape)[random]
        return ids, labels

    def negatives(self, sim_i2t, sim_t2i):
        """For each text an image, for each image a text: drawn one by one, as the original does."""
        batch = sim_i2t.shape[0]
        with torch.no_grad():
            weights_i2t = F.softmax(sim_i2t[:, :batch] + 1e-4, dim=1)
            weights_t2i = F.softmax(sim_t2i[:, :batch] + 1e-4, dim=1)
            weights_i2t.fill_diagonal_(0)
            weights_t2i.fill_diagonal_(0)
        images = [torch.multinomial(weights_t2i[b], 1).item() for b in range(batch)]
        texts = [torch.multinomial(weights_i2t[b], 1).item() for b in range(batch)]
        return images, texts

    def forward(self, image, ids, atts, alpha, draws=None):
        """`draws`: masked ids, labels, negative images and texts given instead of drawn."""
        least, greatest = self.objectives.get("temp_range", [0.001, 0.5])
        with torch.no_grad():
            self.temp.clamp_(least, greatest)

        image_embeds = self.visual_encoder(image)
        image_atts = torch.ones(image_embeds.shape[:-1], dtype=torch.long)
        image_feat = F.normalize(self.vision_proj(image_embeds[:, 0, :]), dim=-1)
        text_embeds = self.text_encoder.bert.text(ids, atts)
        text_feat = F.normalize(self.text_proj(text_embeds[:, 0, :]), dim=-1)

        with torch.no_grad():
            self.update_momentum()
            image_embeds_m = self.visual_encoder_m(image)
            image_feat_m = F.normalize(self.vision_proj_m(image_embeds_m[:, 0, :]), dim=-1)
            image_feat_all = torch.cat([image_feat_m.t(), self.image_queue.clone().detach()], dim=1)
            text_m = self.text_encoder_m.bert.text(ids, atts)
            text_feat_m = F.normalize(self.text_proj_m(text_m[:, 0, :]), dim=-1)
            text_feat_all = torch.cat([text_feat_m.t(), self.text_queue.clone().detach()], dim=1)
            sim_i2t_m = image_feat_m @ text_feat_all / self.temp
            sim_t2i_m = text_feat_m @ image_feat_all / self.temp
            hard = torch.zeros(sim_i2t_m.shape)
            hard.fill_diagonal_(1)
            targets_i2t = alpha * F.softmax(sim_i2t_m, dim=1) + (1 - alpha) * hard
            targets_t2i = alpha * F.softmax(sim_t2i_m, dim=1) + (1 - alpha) * hard

        sim_i2t = image_feat @ text_feat_all / self.temp
        sim_t2i = text_feat @ image_feat_all / self.temp
        loss_i2t = -torch.sum(F.log_softmax(sim_i2t, dim=1) * targets_i2t, dim=1).mean()
        loss_t2i = -torch.sum(F.log_softmax(sim_t2i, dim=1) * targets_t2i, dim=1).mean()
        itc = (loss_i2t + loss_t2i) / 2
        self.enqueue(image_feat_m, text_feat_m)

        positive = self.text_encoder.bert.fusion(text_embeds, atts, image_embeds, image_atts)
        if draws is None:
            neg_images, neg_texts = self.negatives(sim_i2t, sim_t2i)
        else:
            neg_images, neg_texts = draws["negative_images"].tolist(), draws["negative_texts"].tolist()
        image_embeds_neg = torch.stack([image_embeds[i] for i in neg_images])
        text_embeds_neg = torch.stack([text_embeds[i] for i in neg_texts])
        text_atts_neg = torch.stack([atts[i] for i in neg_texts])
        negative = self.text_encoder.bert.fusion(
            torch.cat([text_embeds, text_embeds_neg]),
            torch.cat([atts, text_atts_neg]),
            torch.cat([image_embeds_neg, image_embeds]),
            torch.cat([image_atts, image_atts]),
        )
        fused = torch.cat([positive[:, 0, :], negative[:, 0, :]])
        batch = image.shape[0]
        labels = torch.cat([torch.ones(batch, dtype=torch.long), torch.zeros(2 * batch, dtype=torch.long)])
        itm = F.cross_entropy(self.itm_head(fused), labels)

        masked_ids, labels = self.mask(ids) if draws is None else (draws["masked_input_ids"], draws["labels"])
        with torch.no_grad():
            logits_m = self.text_encoder_m.logits(masked_ids, atts, image_embeds_m, image_atts)
        scores = self.text_encoder.logits(masked_ids, atts, image_embeds, image_atts)
        hard = F.cross_entropy(scores.view(-1, self.vocab_size), labels.view(-1))
        soft = -torch.sum(F.log_softmax(scores, dim=-1) * F.softmax(logits_m, dim=-1), dim=-1)
        mlm = (1 - alpha) * hard + alpha * soft[labels != -100].mean()
        return itc, itm, mlm


def parameter_groups(model, weight_decay):
    """No decay of biases and 1-D parameters, as the authors' `add_weight_decay`."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    spared = [p for name, p in trained if p.dim() == 1 or name.endswith(".bias")]
    decayed = [p for name, p in trained if not (p.dim() == 1 or name.endswith(".bias"))]
    return [{"params": spared, "weight_decay": 0.0}, {"params": decayed, "weight_decay": weight_decay}]
