"""Using a trained model: files, long videos, the camera, the page."""
