"""Augmentation and test-time preparation, one file per task. Every draw is made once and applied to all parts."""
