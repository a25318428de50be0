"""Building blocks: attention, feed-forward, residual blocks, fusion."""
