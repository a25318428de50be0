"""Files of other programs: one small module per format."""
