"""Outputs in a bucket."""
