"""A stand-in for openai-whisper, which downloads what it loads: a model that is moved to its device."""

import torch


def load_model(name, device=None):
    return torch.nn.Linear(2, 2).to(device)
