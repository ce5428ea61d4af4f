"""Corpora to clips, clips to face labels, labels to a data set that `load_dataset` opens."""
