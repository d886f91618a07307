"""Steps that take out what inference does not need: EMA, training state, near-zero weights, surplus rank."""
