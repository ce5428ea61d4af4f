"""A timeline of one person in one window."""


def result_with(*boxes: tuple[float, list[float]], scores: dict | None = None, width=80, height=48) -> dict:
    """With boxes at these seconds; without any, nobody is seen."""
    frames = [{"time": seconds, "box": box, "landmarks": [[1.0, 1.0]] * 5} for seconds, box in boxes]
    window = {"start": 0.0, "end": 1.0, "face_coverage": 1.0, "scores": scores, "frames": frames}
    person = {"track": 1, "start": 0.0, "end": 1.0, "windows": [window]}
    return {"duration": 1.0, "fps": 25.0, "width": width, "height": height, "people": [person] if boxes else []}
