"""`mtcae demo`: the page."""

import argparse
import socket

from .model_options import add_model_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options; the parsed namespace's `run(namespace)` returns the exit status."""
    add_model_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=int, default=7860, help="default: 7860")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serves the page until it is interrupted."""
    check_address(options.host, options.port)
    from mtcae_dfer.inference.page import serve_page

    serve_page(options.model, options.device, server_name=options.host, server_port=options.port)
    return 0


def check_address(host: str, port: int) -> None:
    """Refuses an address that cannot be listened on, before a model is loaded: Gradio finds out at last, in many lines.

    Raises:
        ValueError: one line with the option and what to do.
    """
    if not 1 <= port <= 65535:
        raise ValueError(f"--port {port}: must lie between 1 and 65535")
    try:
        family, *_, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ValueError(f"--host {host}: is no address ({error.strerror}); 127.0.0.1 is this machine alone") from error
    try:
        socket.create_server(address[:2], family=family).close()
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"--host {host} --port {port}: cannot be listened on ({reason}); choose others") from error
