"""What the small drawn corpus of the fixtures holds."""

SMALL_EXPRESSIONS = ("neutral", "happiness")
