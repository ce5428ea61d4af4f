"""Drawn people who act expressions, with everything known about them."""
