"""Inference Endpoint: the pipeline's timeline as an answer to a request.

    {"inputs": base64 text | bytes | path, "parameters": {…}} ─► {"duration", "fps", …, "people"} or {"error": {…}}

Endpoints load this file by its path, outside of any package: it imports none of the modules beside it, and has the
pipeline that transformers loads from the folder do all work on videos.
"""

import base64
import binascii
import logging
import os
import threading
from pathlib import Path
from typing import Any

import torch
from transformers import pipeline

logger = logging.getLogger(__name__)

# Options of the pipeline that a request may set.
PARAMETERS = (
    "top_k",
    "people",
    "window_seconds",
    "hop_seconds",
    "average_windows",
    "smoothing",
    "min_seconds",
    "min_face",
    "margin",
)
LEAST_SECONDS = 0.2  # of a window, and between two: fewer would let one request keep the machine busy for hours


class RequestError(ValueError):
    """A request cannot be answered. The message is one line for the user; `code` is for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class EndpointHandler:
    """Answers requests of the Hub's inference endpoints; any number of threads may call it.

    Args:
        path: model folder or Hub id.
        max_bytes: of one video file.
        max_seconds: of one video.
        max_pixels: of one frame.
        max_frame_rate: frames per second of one video.
        video_folder: local paths in requests must lie inside it; None: paths are refused.
        concurrent: requests that are worked on at once; the others wait.
        device: where the model runs; the first accelerator by default, the CPU where there is none.
    """

    def __init__(
        self,
        path: str = "",
        max_bytes: int = 200_000_000,
        max_seconds: float = 600.0,
        max_pixels: int = 4096 * 2304,
        max_frame_rate: float = 240.0,
        video_folder: str | os.PathLike | None = None,
        concurrent: int = 2,
        device: str | None = None,
    ) -> None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        # The folder's own code is what the endpoint's owner chose to deploy.
        self.pipeline: Any = pipeline(  # type: ignore[call-overload]  # the stubs know the stock tasks alone
            "facial-expression-timeline", model=path, trust_remote_code=True, device=device
        )
        self.max_bytes, self.max_seconds = max_bytes, max_seconds
        self.max_pixels, self.max_frame_rate = max_pixels, max_frame_rate
        self.video_folder = None if video_folder is None else Path(video_folder).resolve()
        self.places = threading.BoundedSemaphore(concurrent)

    def __call__(self, data: Any) -> dict[str, Any]:
        """The timeline of the request's video, or {"error": {"code", "message"}}; raises nothing.

        Codes: bad_request, bad_parameters, too_large, too_long, unreadable_video, bad_scores, internal.
        """
        try:
            parameters = self._parameters(data)
            video = self._video(data.get("inputs"))
            with self.places:
                self._check_limits(video)
                return self.pipeline(video, **parameters)
        except RequestError as error:
            return _error(error.code, error)
        except ValueError as error:  # the parameters have been checked: it is the video
            return _error("unreadable_video", error)
        except FloatingPointError as error:
            return _error("bad_scores", error)
        except Exception:
            # The one place that catches all: a client gets an answer, and the log keeps what went wrong.
            logger.exception("a request failed")
            return _error("internal", "the request failed for a reason that is not in it; the server's log has it")

    def _parameters(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, dict):
            raise RequestError("bad_request", 'a request is an object {"inputs": video, "parameters": {}}')
        parameters = {} if data.get("parameters") is None else data["parameters"]
        if not isinstance(parameters, dict):
            raise RequestError("bad_parameters", '"parameters" must be an object')
        unknown = sorted(str(name) for name in set(parameters) - set(PARAMETERS))
        if unknown:
            known = ", ".join(PARAMETERS)
            raise RequestError("bad_parameters", f"unknown parameters {', '.join(unknown)}; known are {known}")
        try:
            self.pipeline._sanitize_parameters(**parameters)
        except (TypeError, ValueError) as error:
            raise RequestError("bad_parameters", str(error)) from error
        times = {name: parameters.get(name) for name in ("window_seconds", "hop_seconds")}
        if times["hop_seconds"] is None and times["window_seconds"] is not None:
            times["hop_seconds (by default half a window)"] = times["window_seconds"] / 2
        for name, seconds in times.items():
            if seconds is not None and seconds < LEAST_SECONDS:
                raise RequestError("bad_parameters", f"{name}={seconds}: at least {LEAST_SECONDS} here")
        return parameters

    def _video(self, inputs: Any) -> bytes | str:
        if isinstance(inputs, (bytes, bytearray)):
            content = bytes(inputs)
        elif not isinstance(inputs, str) or not inputs:
            raise RequestError("bad_request", '"inputs" must be a video: base64 text, bytes or a path')
        elif path := self._path(inputs):
            return path
        else:
            content = self._decoded(inputs)
        if len(content) > self.max_bytes:
            raise RequestError("too_large", f"the video has {len(content)} bytes; {self.max_bytes} are allowed")
        return content

    def _path(self, inputs: str) -> str | None:
        """The file that the text names inside the allowed folder, links followed; None where there is none."""
        if self.video_folder is None or len(inputs) > 4096 or "\0" in inputs:
            return None
        try:
            path = (self.video_folder / inputs).resolve()
            if not path.is_relative_to(self.video_folder) or not path.is_file():
                return None
        except (OSError, ValueError):  # too long for a name, or with characters that no name has: base64
            return None
        if path.stat().st_size > self.max_bytes:
            raise RequestError("too_large", f"the video has more than {self.max_bytes} bytes")
        return str(path)

    def _decoded(self, text: str) -> bytes:
        if text.startswith("data:"):
            text = text.partition(",")[2]
        # Four characters hold three bytes: a text beyond the limit is not decoded at all.
        if len(text) > self.max_bytes * 4 / 3 * 1.05 + 4:
            raise RequestError("too_large", f"the video has more than {self.max_bytes} bytes")
        try:
            return base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            message = '"inputs" is neither base64 nor a video that this server may read'
            raise RequestError("bad_request", message) from error

    def _check_limits(self, video: bytes | str) -> None:
        info = self.pipeline.probe(video)
        if info.duration > self.max_seconds:
            raise RequestError("too_long", f"the video takes {info.duration:.0f} s; {self.max_seconds:.0f} are allowed")
        if info.width * info.height > self.max_pixels:
            size = f"{info.width}×{info.height}"
            raise RequestError("too_large", f"frames of {size}; {self.max_pixels} pixels are allowed")
        if info.frame_rate > self.max_frame_rate:
            raise RequestError(
                "too_large", f"{info.frame_rate:.0f} frames per second; {self.max_frame_rate:.0f} are allowed"
            )


def _error(code: str, message: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": " ".join(str(message).split())}}


__all__ = ["EndpointHandler", "RequestError"]
