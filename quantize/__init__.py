"""Steps that narrow weights: F16, BF16, FP8."""
