"""Weights on disk: where they come from, what is in a file, and how it fits a model."""
