"""Side-by-side measurements: speed and memory of our models, of baselines, and of other implementations."""
