"""The machine's own rate: one large matrix product in float32 by PyTorch."""

import torch


class Product:
    def __init__(self, workload, folder, peer):
        side = workload["side"]
        torch.manual_seed(0)
        self.a, self.b = torch.randn(side, side), torch.randn(side, side)

    def run(self):
        torch.matmul(self.a, self.b)

    def outputs(self):
        return {}
