"""Trained models as files for other runtimes: picture in, answer out, and the proof that the answer is right."""
