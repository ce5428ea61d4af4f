"""Puts this folder on the path, so that the tests can `from video_files import write_video`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
