"""A camera's frames as they come, for `mtcae predict --webcam`."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mtcae_dfer.video_reading import VideoReadingError

FRAME_SPACING = 0.05  # seconds between two frames that are kept of a camera
MOST_WAITING = 40  # frames, two seconds: those of a machine that does not keep up are dropped, the oldest first

TimedFrame = tuple[float, np.ndarray]


@contextmanager
def camera_frames(camera: str) -> Iterator[Iterator[TimedFrame]]:
    """Opens a camera, and closes it at the end.

    Args:
        camera: its number or its path; a video file stands in for one, with all its frames and its own times.

    Yields:
        An iterator of (seconds, RGB picture uint8 (H, W, 3)).

    Raises:
        VideoReadingError: there is no such camera, or it gives no picture.
    """
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the one line below says it all
    # What is no path would be taken for an address.
    known = camera.isdecimal() or Path(camera).exists()
    capture = cv2.VideoCapture(int(camera) if camera.isdecimal() else camera) if known else cv2.VideoCapture()
    try:
        if not capture.isOpened():
            message = f"there is no camera {camera} that can be opened: connect it, or name another by number or path"
            raise VideoReadingError(message)
        yield _frames_of_file(capture) if Path(camera).is_file() else _frames_of_camera(capture, camera)
    finally:
        capture.release()


def _frames_of_file(capture: Any) -> Iterator[TimedFrame]:
    import cv2

    while True:
        got, picture = capture.read()
        if not got:
            return
        yield capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, _to_rgb(picture)


def _frames_of_camera(capture: Any, camera: str) -> Iterator[TimedFrame]:
    """The frames of the last two seconds at most, however long the reader is busy between two of them."""
    watcher = _Watcher(capture)
    watcher.thread.start()
    try:
        first = True
        while True:
            with watcher.changed:
                watcher.changed.wait_for(lambda: watcher.waiting or watcher.stopped)
                if not watcher.waiting:
                    break
                frame = watcher.waiting.popleft()  # the oldest one
            first = False
            yield frame
        if first:
            raise VideoReadingError(f"camera {camera} gives no picture: is another program using it?")
    finally:
        watcher.stopped = True
        watcher.thread.join()


class _Watcher:
    """Reads a camera in a thread of its own: a camera does not wait."""

    def __init__(self, capture: Any) -> None:
        self.capture = capture
        self.waiting: deque[TimedFrame] = deque(maxlen=MOST_WAITING)
        self.changed = threading.Condition()
        self.stopped = False
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        kept = -FRAME_SPACING
        while not self.stopped and self.capture.grab():
            seconds = time.monotonic()
            if seconds - kept < FRAME_SPACING:
                continue  # not worth converting
            got, picture = self.capture.retrieve()
            if not got:
                break
            kept = seconds
            with self.changed:
                self.waiting.append((seconds, _to_rgb(picture)))
                self.changed.notify()
        with self.changed:
            self.stopped = True
            self.changed.notify()


def _to_rgb(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(picture[..., ::-1])  # (H, W, 3), blue first -> red first
