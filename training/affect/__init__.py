"""Valence, arousal and action units: tasks, features and sequences."""
