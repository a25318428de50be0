"""Tensor functions: plain references that layers call."""
