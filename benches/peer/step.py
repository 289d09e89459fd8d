"""ALBEF's pre-training step as the authors' training loop takes it.

Peers: `eager`, `sdpa` (fused attention), `compile` (the encoders through torch.compile, with fused
attention).
"""

import numpy as np
import torch
from safetensors.torch import load_file

import recipe as recipes
from albef import Albef, parameter_groups


class AlbefStep:
    def __init__(self, workload, folder, peer):
        recipe = recipes.load(workload["recipe"], workload["set"])
        torch.manual_seed(recipe.get("seed", 0))
        fused = peer in ("sdpa", "compile")
        probability = recipe["data"].get("mask_probability", 0.15)
        model = Albef(recipe["model"]["albef"], recipe["objectives"], probability, fused)
        missing, unexpected = model.load_state_dict(load_file(folder / "weights.safetensors"), strict=False)
        momentum = {"visual_encoder_m", "text_encoder_m", "vision_proj_m", "text_proj_m"}
        missing = [name for name in missing if name.split(".")[0] not in momentum]
        assert not missing and not unexpected, (missing, unexpected)
        model.start_momentum()
        if workload["given_draws"]:
            # Dropout of one side cannot be that of the other.
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
        model.train()
        optimizer = recipe.get("optimizer", {})
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, optimizer.get("weight_decay", 0.02)),
            lr=recipe["schedule"]["lr"],
            betas=tuple(optimizer.get("betas", [0.9, 0.999])),
            eps=optimizer.get("eps", 1e-8),
        )
        self.parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        if peer == "compile":
            for encoder in (model.visual_encoder, model.visual_encoder_m):
                encoder.compile()
            for encoder in (model.text_encoder.bert, model.text_encoder_m.bert):
                encoder.text = torch.compile(encoder.text)
                encoder.fusion = torch.compile(encoder.fusion)
        self.model = model
        self.alpha = workload["alpha"]
        self.given = workload["given_draws"]
        tensors = load_file(folder / "batches.safetensors")
        self.batches = [
            {name.split(".", 1)[1]: t for name, t in tensors.items() if name.startswith(f"{i}.")}
            for i in range(workload["batches"])
        ]
        self.step = 0

    def run(self):
        batch = self.batches[self.step % len(self.batches)]
        self.optimizer.zero_grad()
        losses = self.model(
            batch["image"],
            batch["input_ids"],
            batch["attention_mask"],
            self.alpha,
            batch if self.given else None,
        )
        sum(losses).backward()
        self.optimizer.step()
        self.losses = [loss.item() for loss in losses]
        self.step += 1

    def outputs(self):
        newest = max(self.model.queue_ptr, 1) - 1
        return {
            "losses": np.array(self.losses, dtype=np.float32),
            "parameters": np.array([self.parameters], dtype=np.int64),
            "queue": self.model.image_queue[:, newest : newest + 1].numpy().copy(),
            "temp": np.array([self.model.temp.item()], dtype=np.float32),
        }
