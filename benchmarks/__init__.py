"""Measures ckptool beside cp, torch and picklescan: `python -m benchmarks.run`, or `make bench`."""
