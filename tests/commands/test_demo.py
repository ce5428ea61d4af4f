"""`mtcae demo`: an address that cannot be listened on is one line, before a model is loaded."""

import socket

import pytest

from mtcae_dfer.commands.command_line import main


@pytest.fixture(autouse=True)
def no_page(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What would be served."""
    served: list[dict] = []
    serve = "mtcae_dfer.inference.page.serve_page"
    monkeypatch.setattr(serve, lambda model, device, **address: served.append(address))
    return served


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--port", "99999999"), "--port 99999999: must lie between 1 and 65535"),
        (("--port", "-1"), "--port -1: must lie between 1 and 65535"),
        (("--port", "0"), "--port 0: must lie between 1 and 65535"),
        (("--host", "999.1.1.1"), "--host 999.1.1.1: is no address ("),
        (("--host", "192.0.2.1"), "--host 192.0.2.1 --port 7860: cannot be listened on ("),  # kept for documentation
    ],
)
def test_a_wrong_address_is_one_line(capsys: pytest.CaptureFixture, no_page, words, told: str) -> None:
    assert main(["demo", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"mtcae: error: {told}") and no_page == []


def test_a_port_that_is_taken_is_told_and_a_free_one_is_served(capsys: pytest.CaptureFixture, no_page) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["demo", "--port", str(port)]) == 2
        assert f"--port {port}: cannot be listened on (" in capsys.readouterr().err
    assert main(["demo", "--port", str(port)]) == 0
    assert no_page == [{"server_name": "127.0.0.1", "server_port": port}]
