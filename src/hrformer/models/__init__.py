"""Trunk, heads, named variants, checkpoints."""
