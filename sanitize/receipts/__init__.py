"""Receipts, sums and signatures: what proves that an output is what was made."""
