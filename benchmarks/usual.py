"""Converts a checkpoint the usual way, all of it in memory: `python -m benchmarks.usual SRC DST [half]`."""

import sys

import torch
from safetensors.torch import save_file

tensors = torch.load(sys.argv[1], map_location="cpu", weights_only=True)["state_dict"]
if sys.argv[3:] == ["half"]:
    tensors = {name: tensor.half() for name, tensor in tensors.items()}
save_file(tensors, sys.argv[2], metadata={"format": "pt"})
