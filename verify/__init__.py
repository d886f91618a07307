"""Proof that a changed model is still the same: tensor by tensor, then by a reference denoise step."""
