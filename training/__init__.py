"""Training, evaluation, prediction and the command line."""
