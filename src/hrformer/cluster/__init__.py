"""Prediction on many machines: lists of pictures of any size, through Ray Data, to Parquet files; an extra."""
