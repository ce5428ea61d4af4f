"""`mtcae demo`: the page."""

import argparse

from .model_options import add_model_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options; the parsed namespace's `run(namespace)` returns the exit status."""
    add_model_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=int, default=7860, help="default: 7860")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serves the page until it is interrupted."""
    from mtcae_dfer.inference.page import serve_page

    serve_page(options.model, options.device, server_name=options.host, server_port=options.port)
    return 0
