"""Labelled clips to a data-set folder with its report, card and contact sheets."""
