"""A small cascade for real people, from stills and motion to weights (`__main__.py` tells the story)."""
