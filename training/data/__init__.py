"""From the rows of a data set to batches."""
