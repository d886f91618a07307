"""Converts a checkpoint the usual way, all of it in memory: `python -m benchmarks.usual SRC DST`."""

import sys

import torch
from safetensors.torch import save_file

checkpoint = torch.load(sys.argv[1], map_location="cpu", weights_only=True)
save_file(checkpoint["state_dict"], sys.argv[2], metadata={"format": "pt"})
