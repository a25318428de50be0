"""Files in, batches out: readers of data sets, transforms that move picture and labels together, and the loader."""
