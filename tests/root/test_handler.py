"""The endpoint's handler: the pipeline's answer, an error with a code for everything else, and steady under load."""

import base64
import gc
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import torch

from mtcae_dfer import MTCAEVideoProcessor
from mtcae_dfer.handler import EndpointHandler
from mtcae_dfer.timeline_windows import TimelineOptions
from mtcae_dfer.training.model_folder import save_model_folder
from tests.support.tiny_models import FRAMES, SIDE, tiny_model
from tests.support.video_files import write_numbered_video, write_text_as_video

WHOLE_FRAME = {"people": "single"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("endpoint")
    save_model_folder(
        tiny_model(), MTCAEVideoProcessor(size={"height": SIDE, "width": SIDE}, num_frames=FRAMES), folder
    )
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_numbered_video(folder / "short 'one'.mp4", 20)
    write_numbered_video(folder / "long.mp4", 100)
    write_text_as_video(folder / "text.mp4")
    (folder / "empty.mp4").touch()
    return folder


@pytest.fixture(scope="module")
def handler(folder: Path, videos: Path) -> EndpointHandler:
    return EndpointHandler(str(folder), max_bytes=2_000_000, max_seconds=3.0, video_folder=videos, device="cpu")


def test_path_bytes_and_base64_give_the_pipelines_result(handler: EndpointHandler, videos: Path) -> None:
    content = (videos / "short 'one'.mp4").read_bytes()
    text = base64.b64encode(content).decode()
    forms = ["short 'one'.mp4", content, text, f"data:video/mp4;base64,{text}"]
    answers = [handler({"inputs": form, "parameters": WHOLE_FRAME}) for form in forms]
    assert all(answer == answers[0] for answer in answers)
    assert answers[0] == handler.pipeline(content, **WHOLE_FRAME)
    assert set(answers[0]) == {"duration", "fps", "width", "height", "people", "left_out", "warning"}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ("no object", "bad_request"),
        ({}, "bad_request"),
        ({"inputs": 5}, "bad_request"),
        ({"inputs": "§ not base64 §"}, "bad_request"),
        ({"inputs": "../../etc/passwd"}, "bad_request"),
        ({"inputs": "https://example.org/a.mp4"}, "bad_request"),
        ({"inputs": b""}, "unreadable_video"),
        ({"inputs": b"no video"}, "unreadable_video"),
        ({"inputs": "empty.mp4"}, "unreadable_video"),
        ({"inputs": "text.mp4"}, "unreadable_video"),
        ({"inputs": "long.mp4"}, "too_long"),
        ({"inputs": b"0" * 2_000_001}, "too_large"),
        ({"inputs": "A" * 3_000_000}, "too_large"),
        ({"inputs": "long.mp4", "parameters": [1]}, "bad_parameters"),
        ({"inputs": "long.mp4", "parameters": ""}, "bad_parameters"),
        ({"inputs": "long.mp4", "parameters": False}, "bad_parameters"),
        ({"inputs": "A" * 1000}, "unreadable_video"),  # base64, and too long for the name of a file
        ({"inputs": "long.mp4", "parameters": {"device": "cuda"}}, "bad_parameters"),
        ({"inputs": "long.mp4", "parameters": {"top_k": 0}}, "bad_parameters"),
        ({"inputs": "long.mp4", "parameters": {"hop_seconds": 1e-9}}, "bad_parameters"),
        ({"inputs": "long.mp4", "parameters": {"window_seconds": 0.1, "hop_seconds": 0.5}}, "bad_parameters"),
        ({"inputs": "long.mp4", "parameters": {"window_seconds": None}}, "bad_parameters"),
        ({"inputs": "long.mp4", "parameters": {"margin": "wide"}}, "bad_parameters"),
        ({"inputs": "long.mp4", "parameters": {"smoothing": [0.5]}}, "bad_parameters"),
        ({"inputs": "long.mp4", "parameters": {"top_k": True}}, "bad_parameters"),
        ({"inputs": "long.mp4", "parameters": {"people": None}}, "bad_parameters"),
        ({"inputs": "long.mp4", "parameters": {"average_windows": "no"}}, "bad_parameters"),
    ],
)
def test_a_bad_request_has_a_code_and_one_line(handler: EndpointHandler, data: object, code: str) -> None:
    answer = handler(data)
    assert answer["error"]["code"] == code
    assert "\n" not in answer["error"]["message"] and "Traceback" not in answer["error"]["message"]


def test_no_request_has_windows_closer_together_than_the_limit(handler: EndpointHandler) -> None:
    """Whether it names their distance or leaves it at half a window."""
    for parameters, seconds in (
        ({"window_seconds": 0.2}, 0.1),
        ({"window_seconds": 0.39}, 0.195),
        ({"window_seconds": 0.2, "hop_seconds": None}, 0.1),
        ({"hop_seconds": 0.19}, 0.19),
    ):
        answer = handler({"inputs": "short 'one'.mp4", "parameters": WHOLE_FRAME | parameters})
        assert answer["error"]["code"] == "bad_parameters"
        assert answer["error"]["message"].endswith(f"={seconds}: at least 0.2 here")
    for parameters in ({"window_seconds": 0.4}, {"window_seconds": 0.2, "hop_seconds": 0.2}):
        (person,) = handler({"inputs": "short 'one'.mp4", "parameters": WHOLE_FRAME | parameters})["people"]
        starts = [window["start"] for window in person["windows"]]
        assert min(late - early for early, late in pairwise(starts)) == pytest.approx(0.2)


def test_paths_are_refused_without_a_folder_for_them(folder: Path, videos: Path) -> None:
    handler = EndpointHandler(str(folder), device="cpu")
    assert handler({"inputs": str(videos / "long.mp4")})["error"]["code"] in ("bad_request", "unreadable_video")


def test_limits_of_size_and_frame_rate(handler: EndpointHandler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler, "max_pixels", 100)
    assert handler({"inputs": "short 'one'.mp4"})["error"]["code"] == "too_large"
    monkeypatch.setattr(handler, "max_pixels", 10**9)
    monkeypatch.setattr(handler, "max_frame_rate", 5.0)
    assert handler({"inputs": "short 'one'.mp4"})["error"]["code"] == "too_large"


def test_a_fault_of_the_server_is_no_traceback(handler: EndpointHandler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler.pipeline, "timeline", lambda *arguments: 1 / 0)
    answer = handler({"inputs": "short 'one'.mp4"})
    assert answer["error"]["code"] == "internal" and "division" not in answer["error"]["message"]


def test_scores_that_are_no_numbers_are_an_error_of_their_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = EndpointHandler(str(folder), device="cpu")
    torch.nn.init.constant_(handler.pipeline.model.heads["expression"].output.weight, float("nan"))
    clips = torch.zeros(1, FRAMES, 3, SIDE, SIDE)
    monkeypatch.setattr(handler.pipeline, "timeline", lambda *_: handler.pipeline.score_clips(clips, TimelineOptions()))
    monkeypatch.setattr(handler, "_check_limits", lambda video: None)
    answer = handler({"inputs": b"a video"})
    assert answer["error"]["code"] == "bad_scores" and "not numbers" in answer["error"]["message"]


def test_the_file_loads_by_its_path_as_endpoints_load_it(folder: Path) -> None:
    import importlib.util

    specification = importlib.util.spec_from_file_location("handler", Path(__file__).parents[2] / "handler.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert module.EndpointHandler(str(folder), device="cpu")({})["error"]["code"] == "bad_request"


def held_megabytes() -> float:
    """Memory that this process holds now: of its peak an earlier test may have made so much that nothing adds to it."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_two_hundred_requests_eight_at_a_time(handler: EndpointHandler, videos: Path) -> None:
    """Every third one broken; all are answered, and memory stays."""

    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                data = json.loads(body)
            except ValueError:
                data = None
            answer = json.dumps(handler(data)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments: object) -> None:
            """Keeps the test's output readable."""

    good = json.dumps({"inputs": "short 'one'.mp4", "parameters": WHOLE_FRAME}).encode()
    broken = [b"{", json.dumps({"inputs": "empty.mp4"}).encode(), json.dumps({"inputs": "long.mp4"}).encode()]
    bodies = [broken[number // 3 % 3] if number % 3 == 0 else good for number in range(200)]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def ask(body: bytes) -> dict:
        with urlopen(Request(f"http://127.0.0.1:{server.server_port}", data=body), timeout=60) as response:
            return json.loads(response.read())

    try:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, bodies[:60]))
            before = held_megabytes()
            answers += pool.map(ask, bodies[60:])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    grown = held_megabytes() - before
    assert [("error" in answer) for answer in answers] == [number % 3 == 0 for number in range(200)]
    expected = answers[1]
    assert all(answer == expected for number, answer in enumerate(answers) if number % 3)
    assert grown < 60, f"memory grew by {grown:.0f} MB over 140 requests"
