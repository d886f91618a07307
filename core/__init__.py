"""ckptool: disarm, slim and prove model checkpoints by streaming their tensors."""

__version__ = "0.1.0"
