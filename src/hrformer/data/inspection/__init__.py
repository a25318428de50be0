"""Looking at a data set before training on it: what would break a run, what the labels are like, augmented samples."""
