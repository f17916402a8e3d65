"""A model in subquad's own form: `config.json` says what it is, and the names of parameters are those of the file."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from mixers import Conv1d, Linear, Slay, Softmax, Ssd, Weight, apply, projection, rms
from ramnet import Ramnet

MIXERS = {"softmax": Softmax, "linear": Linear, "slay": Slay, "ssd": Ssd, "ramnet": Ramnet, "conv1d": Conv1d}


class Swiglu(nn.Module):
    def __init__(self, model):
        super().__init__()
        width, hidden = model["hidden_size"], model["mlp"]["hidden"]
        self.gate, self.up = projection(width, hidden), projection(width, hidden)
        self.down = projection(hidden, width, (2 * len(model["layers"])) ** -0.5)

    def forward(self, x):
        return apply(self.down, F.silu(apply(self.gate, x)) * apply(self.up, x))


class Gelu(nn.Module):
    def __init__(self, model):
        super().__init__()
        width, hidden = model["hidden_size"], model["mlp"]["hidden"]
        self.up, self.down = projection(width, hidden), projection(hidden, width, (2 * len(model["layers"])) ** -0.5)

    def forward(self, x):
        return apply(self.down, F.gelu(apply(self.up, x)))


MLPS = {"swiglu": Swiglu, "gelu": Gelu}


class Block(nn.Module):
    def __init__(self, model, layer):
        super().__init__()
        width, self.eps, kind = model["hidden_size"], model["norm_eps"], model["mlp"]["kind"]
        self.norm1, self.mixer = Weight(torch.ones(width)), MIXERS[layer["mixer"]](model, layer)
        self.norm2, self.mlp = (None, None) if kind == "none" else (Weight(torch.ones(width)), MLPS[kind](model))

    def forward(self, h):
        h = h + self.mixer(rms(h, self.norm1.weight, self.eps))
        return h if self.mlp is None else h + self.mlp(rms(h, self.norm2.weight, self.eps))


class Model(nn.Module):
    """Logits [B, N, V] of tokens [B, N]. RMS norms, tied embeddings and the head `lm` only."""

    def __init__(self, config):
        super().__init__()
        expected = {"model_type": "subquad", "norm": "rms", "tie_embeddings": True, "head": "lm", "causal": True}
        for name, value in expected.items():
            if config[name] != value:
                raise ValueError(f"config.json: expected {name} {value}, found {config[name]}")
        vocabulary, width = config["vocab_size"], config["hidden_size"]
        self.config = config
        self.embed = Weight(0.02 * torch.randn(vocabulary, width))
        learned = config["positions"] == "learned"
        self.positions = Weight(0.02 * torch.randn(config["max_len"], width)) if learned else None
        self.layers = nn.ModuleList(Block(config, layer) for layer in config["layers"])
        self.norm = Weight(torch.ones(width))

    def forward(self, tokens):
        h = F.embedding(tokens, self.embed.weight)
        if self.positions is not None:
            h = h + self.positions.weight[: tokens.shape[1]]
        for layer in self.layers:
            h = layer(h)
        return F.linear(rms(h, self.norm.weight, self.config["norm_eps"]), self.embed.weight)

    def count(self):
        """(all numbers of the file, those that are trained)."""
        sizes = [(x.numel(), x.requires_grad) for x in self.parameters()]
        return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def read_config(folder):
    return json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))


def save(model, path, metadata):
    """Writes the weights in f16."""
    tensors = {name: x.detach().half().contiguous() for name, x in sorted(model.state_dict().items())}
    save_file(tensors, str(path), {name: str(value) for name, value in metadata.items()})


def load(folder):
    """The model of a folder, in f32."""
    model = Model(read_config(folder))
    model.load_state_dict({x: y.float() for x, y in load_file(str(Path(folder) / "model.safetensors")).items()})
    return model.eval()
