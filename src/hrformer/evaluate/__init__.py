"""Evaluation to the published protocols: a model and a data set in, scores out."""
