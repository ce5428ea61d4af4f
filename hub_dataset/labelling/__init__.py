"""Clips to face labels, on one machine or on a Ray cluster."""
