"""Opening, dividing, joining and publishing built data sets."""
