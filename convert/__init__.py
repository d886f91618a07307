"""Bytes to plans and plans to bytes: containers, the pickle machine, the streaming writer."""
