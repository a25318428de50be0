"""Scores: each metric is reset, updated batch by batch, merged across processes and computed at the end.

Every score is a quotient of sums over the whole set, never a mean of batch means, hence batch size and number of
processes do not change it.
"""
