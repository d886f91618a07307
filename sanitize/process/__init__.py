"""The process of one file: how it is started, shut in, and given what it may read."""
