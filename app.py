"""What a Gradio Space runs: the page of `mtcae demo`, with the model named by the environment variable MTCAE_MODEL.

A Space needs the package among its requirements; without MTCAE_MODEL the page takes the model of this repository.
"""

import os

from mtcae_dfer.inference.page import serve_page

if __name__ == "__main__":
    serve_page(os.environ.get("MTCAE_MODEL"))
