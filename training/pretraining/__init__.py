"""Masked pre-training of an encoder on videos without labels."""
