"""The one door: the command `mtcae`."""
