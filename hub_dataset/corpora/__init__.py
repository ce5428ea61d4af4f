"""One reader a corpus: a folder in, clips out."""
