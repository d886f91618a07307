"""A pull request on the Hub with what was made of a repository."""
