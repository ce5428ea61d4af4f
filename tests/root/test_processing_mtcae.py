"""From a video of any kind to pixel values, and from a model's output to pixels of the source and names."""

import io
import json
import logging
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from transformers.utils import ModelOutput
from transformers.video_utils import VideoMetadata

from mtcae_dfer import MTCAEVideoProcessor, people_tracking
from mtcae_dfer.face_detection import FaceDetections, FaceDetector
from mtcae_dfer.face_geometry import boxes_from_pixels, map_to_crop
from mtcae_dfer.processing_mtcae import ClipMetadata
from mtcae_dfer.video_reading import VideoReadingError, read_clip, uniform_frame_indices
from tests.support import video_files as files

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT.parent / "shared" / "samples"
EXPRESSIONS = ("neutral", "happiness", "sadness", "anger", "fear", "disgust", "surprise")
NAN = float("nan")


@pytest.fixture(scope="module")
def processor() -> MTCAEVideoProcessor:
    return MTCAEVideoProcessor()


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """uint8 (T=20, H=60, W=90, 3)."""
    return np.stack(files.noisy_frames(20, 60, 90))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, frames: np.ndarray) -> Path:
    """A lossless file of these frames."""
    return files.write_lossless_video(tmp_path_factory.mktemp("videos") / "clip.mkv", list(frames))


# Kinds of input


def every_kind(path: Path, frames: np.ndarray) -> dict[str, object]:
    """The same clip in every form that is accepted."""
    channels_first = np.ascontiguousarray(frames.transpose(0, 3, 1, 2))
    return {
        "str": str(path),
        "Path": path,
        "bytes": path.read_bytes(),
        "file object": io.BytesIO(path.read_bytes()),
        "THWC numpy": frames,
        "TCHW numpy": channels_first,
        "THWC torch": torch.from_numpy(frames),
        "TCHW torch": torch.from_numpy(channels_first),
        "floats in [0, 1]": frames.astype(np.float32) / 255,
        "list of PIL pictures": [Image.fromarray(frame) for frame in frames],
        "list of HWC arrays": list(frames),
        "tuple of CHW tensors": tuple(torch.from_numpy(channels_first)),
        "with transparency": np.concatenate([frames, np.full_like(frames[..., :1], 77)], axis=-1),
    }


def test_a_clip_has_the_same_pixel_values_in_every_form(
    processor: MTCAEVideoProcessor, path: Path, frames: np.ndarray
) -> None:
    kinds = every_kind(path, frames)
    expected = processor(kinds["str"])["pixel_values"]
    assert expected.shape == (1, 16, 3, 224, 224)
    assert expected.dtype == torch.float32
    for kind, video in kinds.items():
        assert torch.equal(processor(video)["pixel_values"], expected), kind
        assert torch.equal(processor([video])["pixel_values"], expected), f"[{kind}]"


def test_videos_of_different_kinds_and_sizes_make_one_batch(
    processor: MTCAEVideoProcessor, path: Path, frames: np.ndarray
) -> None:
    videos = [*every_kind(path, frames).values(), frames[:3, :40, :40]]
    pixel_values = processor(videos)["pixel_values"]
    assert pixel_values.shape == (len(videos), 16, 3, 224, 224)
    for index, video in enumerate(videos):
        assert torch.equal(pixel_values[index], processor(video)["pixel_values"][0])


def test_a_batch_array_holds_one_video_per_row(processor: MTCAEVideoProcessor, frames: np.ndarray) -> None:
    batch = processor(np.stack([frames, frames[::-1]]))["pixel_values"]
    assert torch.equal(batch[0], processor(frames)["pixel_values"][0])
    assert torch.equal(batch[1], processor(frames[::-1].copy())["pixel_values"][0])


def test_a_compressed_file_and_its_decoded_frames_give_the_same_pixel_values(
    processor: MTCAEVideoProcessor, tmp_path: Path
) -> None:
    path = files.write_video(tmp_path / "clip.mp4", files.noisy_frames(40, 90, 121), codec="mpeg4")
    with av.open(str(path)) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert torch.equal(processor(path)["pixel_values"], processor(np.stack(decoded))["pixel_values"])


def test_pixel_values_are_the_sampled_squashed_and_normalised_frames(
    processor: MTCAEVideoProcessor, path: Path, frames: np.ndarray
) -> None:
    # Indices of 16 frames out of 20, written down; torch's own resize in float32 instead of torchvision's in uint8.
    chosen = frames[[0, 1, 3, 4, 5, 6, 8, 9, 10, 11, 13, 14, 15, 16, 18, 19]]
    values = torch.from_numpy(chosen).permute(0, 3, 1, 2).float()
    values = torch.nn.functional.interpolate(values, (224, 224), mode="bilinear", antialias=True) / 255
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (values - mean[:, None, None]) / deviation[:, None, None]
    # One step of uint8 is 1 / 255 / 0.224 = 0.018.
    assert (processor(path)["pixel_values"][0] - expected).abs().max() < 0.018


def test_gray_video_is_repeated_in_three_channels(processor: MTCAEVideoProcessor, frames: np.ndarray) -> None:
    gray = frames[..., :1]
    expected = processor(np.repeat(gray, 3, axis=-1))["pixel_values"]
    assert torch.equal(processor(gray)["pixel_values"], expected)
    assert torch.equal(processor([Image.fromarray(frame[..., 0]) for frame in gray])["pixel_values"], expected)


def test_input_data_format_settles_an_ambiguous_shape(processor: MTCAEVideoProcessor, frames: np.ndarray) -> None:
    narrow = frames[:, :3]  # (T, 3, W, 3)
    with pytest.raises(ValueError, match="give input_data_format="):
        processor(narrow)
    last = processor(narrow, input_data_format="channels_last", return_metadata=True)["video_metadata"][0]
    first = processor(narrow, input_data_format="channels_first", return_metadata=True)["video_metadata"][0]
    assert (last.width, last.height, first.width, first.height) == (90, 3, 3, 90)


@pytest.mark.parametrize(
    ("video", "error", "message"),
    [
        ([], ValueError, "the list of videos is empty"),
        (7, TypeError, "a video is a path, bytes, a file object, an array or a list of frames"),
        ([None], TypeError, "a video is a path"),
        (np.zeros((0, 8, 8, 3), np.uint8), ValueError, "without frames"),
        (np.zeros((8, 8, 3), np.uint8), ValueError, r"has 4 axes, \(T, H, W, C\) or \(T, C, H, W\)"),
        (np.zeros((5, 8, 8, 2), np.uint8), ValueError, "no axis has 1, 3 or 4 channels"),
        (np.full((5, 8, 8, 3), 300), ValueError, "uint8, or floating point in"),
        (np.full((5, 8, 8, 3), 200.0), ValueError, "from 200 to 200"),
        (np.full((5, 8, 8, 3), NAN), ValueError, "from nan to nan"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)], ValueError, "must have one size"),
    ],
)
def test_arrays_that_are_no_video_are_refused(
    processor: MTCAEVideoProcessor, video: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        processor(video)


def test_an_unreadable_file_in_a_batch_is_named(processor: MTCAEVideoProcessor, path: Path, tmp_path: Path) -> None:
    bad = files.write_text_as_video(tmp_path / "bad.mp4")
    with pytest.raises(VideoReadingError, match=f"'{bad}' cannot be opened as a video"):
        processor([path, bad])


def test_a_cut_off_file_is_used_with_a_warning(
    processor: MTCAEVideoProcessor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = files.write_video(tmp_path / "a.mp4", files.noisy_frames(40), container_options={"movflags": "faststart"})
    with caplog.at_level(logging.WARNING):
        batch = processor(files.cut_off(path, 0.5), return_metadata=True)
    assert batch["pixel_values"].shape == (1, 16, 3, 224, 224)
    assert "frames could be read; sampled from those" in batch["video_metadata"][0].warning
    assert batch["video_metadata"][0].warning in caplog.text


# Sampling and options


@pytest.mark.parametrize("frame_count", [1, 2, 15, 16, 17, 100])
def test_any_number_of_frames_becomes_sixteen(processor: MTCAEVideoProcessor, frame_count: int) -> None:
    video = np.stack(list(files.numbered_frames(frame_count, 48, 80)))
    batch = processor(video, return_metadata=True, do_normalize=False, do_rescale=False)
    numbers = [files.read_number(frame) for frame in batch["pixel_values"][0]]
    assert numbers == uniform_frame_indices(frame_count, 16) == batch["video_metadata"][0].frame_indices


def test_the_stock_pipelines_call_samples_uniformly(processor: MTCAEVideoProcessor, path: Path) -> None:
    batch = processor(str(path), num_frames=8, do_sample_frames=True, return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 8, 3, 224, 224)
    assert list(batch) == ["pixel_values"]
    assert batch.to(torch.bfloat16)["pixel_values"].dtype == torch.bfloat16
    metadata = VideoMetadata(total_num_frames=20)
    assert processor.sample_frames(metadata, num_frames=8).tolist() == uniform_frame_indices(20, 8)
    assert processor.sample_frames(metadata).tolist() == uniform_frame_indices(20, 16)


def test_without_sampling_all_frames_are_used(processor: MTCAEVideoProcessor, path: Path, frames: np.ndarray) -> None:
    from_file = processor(path, do_sample_frames=False, return_metadata=True)
    assert from_file["pixel_values"].shape == (1, 20, 3, 224, 224)
    assert from_file["video_metadata"][0].frame_indices == list(range(20))
    assert torch.equal(processor(frames, do_sample_frames=False)["pixel_values"], from_file["pixel_values"])
    with pytest.raises(ValueError, match="clips of different shapes"):
        processor([frames, frames[:5]], do_sample_frames=False)


def test_size_and_steps_can_be_changed_by_call(processor: MTCAEVideoProcessor, frames: np.ndarray) -> None:
    raw = processor(frames[:16], size={"height": 60, "width": 90}, do_rescale=False, do_normalize=False)
    assert torch.equal(raw["pixel_values"][0], torch.from_numpy(frames[:16]).permute(0, 3, 1, 2).float())
    native = processor(frames[:16], do_resize=False, do_rescale=False, do_normalize=False)
    assert torch.equal(native["pixel_values"], raw["pixel_values"])
    as_numpy = processor(frames, return_tensors="np")["pixel_values"]
    assert isinstance(as_numpy, np.ndarray) and as_numpy.shape == (1, 16, 3, 224, 224)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"frames": 3}, TypeError, "has no argument frames"),
        ({"fps": 5}, ValueError, "spread over the whole clip by num_frames"),
        ({"resample": 3}, ValueError, "resized bilinearly everywhere"),
        ({"size": {"shortest_edge": 224}}, ValueError, "give 'height' and 'width'"),
        ({"face_crop_margin": -0.5}, ValueError, "must not be negative"),
        ({"crop_boxes": [(0, 0, 1, 1)] * 2}, ValueError, "crop_boxes has 2 entries for 1 videos"),
        ({"crop_boxes": [(0.5, 0, 0.2, 1)]}, ValueError, "has no area"),
        ({"crop_boxes": [(0.5, 0, 0.2)]}, ValueError, "a crop box is"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    processor: MTCAEVideoProcessor, frames: np.ndarray, options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        processor(frames, **options)


# Metadata


def test_metadata_says_where_the_frames_come_from(
    processor: MTCAEVideoProcessor, path: Path, frames: np.ndarray
) -> None:
    chosen = uniform_frame_indices(20, 16)
    from_file, from_array = processor([path, frames], return_metadata=True)["video_metadata"]
    assert from_file.timestamps == pytest.approx([index / 25 for index in chosen], abs=1e-3)
    assert from_file == ClipMetadata(str(path), 90, 60, from_file.timestamps, chosen, (0.0, 0.0, 1.0, 1.0), None)
    assert from_array == ClipMetadata("<array>", 90, 60, None, chosen, (0.0, 0.0, 1.0, 1.0), None)
    timed = processor(frames, return_metadata=True, video_metadata={"fps": 10.0, "total_num_frames": 20})
    assert timed["video_metadata"][0].timestamps == [index / 10 for index in chosen]


# Crop to the face


def cropped(frames: np.ndarray, left: int, top: int, side: int) -> np.ndarray:
    return frames[:, top : top + side, left : left + side]


@pytest.mark.parametrize(
    ("crop_box", "left", "top", "side"),
    [
        ((10 / 90, 10 / 60, 40 / 90, 40 / 60), 10, 10, 30),  # a square stays as it is
        ((30 / 90, 20 / 60, 60 / 90, 30 / 60), 30, 10, 30),  # a wide box grows upwards and downwards
        ((80 / 90, 40 / 60, 100 / 90, 70 / 60), 60, 30, 30),  # what leaves the frame is moved inside
        ((-5 / 90, -5 / 60, 15 / 90, 15 / 60), 0, 0, 20),
        ((0.0, 0.0, 1.0, 1.0), 15, 0, 60),  # what is larger than the frame becomes its largest square
    ],
)
def test_a_given_box_is_cropped_to_a_square_inside_the_frame(
    processor: MTCAEVideoProcessor,
    path: Path,
    frames: np.ndarray,
    crop_box: tuple[float, ...],
    left: int,
    top: int,
    side: int,
) -> None:
    expected = processor(cropped(frames, left, top, side))["pixel_values"]
    for video in (path, frames):
        batch = processor(video, crop_boxes=[crop_box], return_metadata=True)
        assert torch.equal(batch["pixel_values"], expected)
        (metadata,) = batch["video_metadata"]
        corners = (left / 90, top / 60, (left + side) / 90, (top + side) / 60)
        assert metadata.crop_box == pytest.approx(corners, abs=1e-9)
        assert (metadata.width, metadata.height) == (90, 60)
        again = processor(video, crop_boxes=[metadata.crop_box])["pixel_values"]
        assert torch.equal(again, expected)


def test_videos_of_a_batch_have_their_own_crops(
    processor: MTCAEVideoProcessor, frames: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    boxes = [(10 / 90, 10 / 60, 40 / 90, 40 / 60), None, (NAN,) * 4]
    with caplog.at_level(logging.WARNING):
        batch = processor([frames] * 3, crop_boxes=boxes, return_metadata=True)
    whole = processor(frames)["pixel_values"][0]
    assert torch.equal(batch["pixel_values"][0], processor(cropped(frames, 10, 10, 30))["pixel_values"][0])
    assert torch.equal(batch["pixel_values"][1], whole) and torch.equal(batch["pixel_values"][2], whole)
    assert [metadata.warning is None for metadata in batch["video_metadata"]] == [True, True, False]
    assert "the crop box is NaN, so the whole frame is used" in caplog.text


class FoundFaces:
    """Stands for MTCNN: faces, in pixels of the frames of 90 × 60, at fixed places in some frames of the clip."""

    def __init__(self, *faces: dict[int, tuple[float, ...]]) -> None:
        self.faces = faces

    def detect_all(self, frames: torch.Tensor) -> list[FaceDetections]:
        assert frames.dtype == torch.uint8 and frames.shape[1:] == (3, 60, 90)
        return [self.in_frame([face[t] for face in self.faces if t in face]) for t in range(len(frames))]

    def in_frame(self, found: list[tuple[float, ...]]) -> FaceDetections:
        boxes = torch.tensor(found).reshape(-1, 4) / torch.tensor([90.0, 60, 90, 60])
        count = len(found)
        nowhere = torch.full((count, 5, 2), NAN)
        return FaceDetections(boxes, nowhere, torch.ones(count), torch.ones(count).bool(), torch.full((count,), count))


def find_instead(monkeypatch: pytest.MonkeyPatch, *faces: dict[int, tuple[float, ...]]) -> None:
    monkeypatch.setattr(people_tracking, "_detector", lambda *arguments: FoundFaces(*faces))


def test_one_square_of_the_median_face_serves_the_clip(
    processor: MTCAEVideoProcessor, path: Path, frames: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In pixels, of two frames out of three (30, 20, 50, 40), of the third (31, 21, 51, 41): the median's square of 20
    # with a quarter on every side is one of 30 around (40, 30).
    places = {t: (31, 21, 51, 41) if t % 3 == 0 else (30, 20, 50, 40) for t in range(16)}
    find_instead(monkeypatch, places)
    batch = processor(path, do_face_crop=True, face_crop_margin=0.25, return_metadata=True)
    assert torch.equal(batch["pixel_values"], processor(cropped(frames, 25, 15, 30))["pixel_values"])
    assert batch["person_found"].tolist() == [True]
    (metadata,) = batch["video_metadata"]
    assert metadata.face_found and metadata.other_people == 0
    assert metadata.person_boxes[1] == pytest.approx((30 / 90, 20 / 60, 50 / 90, 40 / 60))
    tight = processor(path, do_face_crop=True, face_crop_margin=0.0)
    assert torch.equal(tight["pixel_values"], processor(cropped(frames, 30, 20, 20))["pixel_values"])
    raised = processor(path, do_face_crop=True, face_crop_margin=0.0, face_crop_rise=0.1)
    assert torch.equal(raised["pixel_values"], processor(cropped(frames, 30, 18, 20))["pixel_values"])


def test_the_crop_follows_a_head_that_walks_through_the_picture(
    processor: MTCAEVideoProcessor, path: Path, frames: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {t: (4 + 4 * t, 20, 24 + 4 * t, 40) for t in range(16)}
    find_instead(monkeypatch, places)
    batch = processor(path, do_face_crop=True, face_crop_margin=0.0, return_metadata=True)
    (metadata,) = batch["video_metadata"]
    for t in range(2, 14):
        corners = (places[t][0] / 90, 20 / 60, places[t][2] / 90, 40 / 60)
        assert metadata.crop_box[t] == pytest.approx(corners)
    again = processor(path, crop_boxes=[metadata.crop_box])["pixel_values"]
    assert torch.equal(again, batch["pixel_values"])
    # A box that fills what the model sees is the face, wherever the crop was.
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 16, 4)
    (result,) = processor.post_process_multi_task(ModelOutput(face_boxes=whole), metadata=[metadata])
    expected = torch.tensor([places[t] for t in range(2, 14)], dtype=torch.float32)
    torch.testing.assert_close(result["face_boxes"][2:14], expected)


def test_the_answer_is_for_whoever_is_largest_for_longest(
    processor: MTCAEVideoProcessor, path: Path, frames: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 16 frames of 14 pixels outweigh 8 of 20; of these two, the larger face comes first in every frame.
    large = {t: (60, 30, 80, 50) for t in range(8)}
    small = {t: (10, 10, 24, 24) for t in range(16)}
    find_instead(monkeypatch, large, small)
    batch = processor(path, do_face_crop=True, face_crop_margin=0.0, return_metadata=True)
    assert torch.equal(batch["pixel_values"], processor(cropped(frames, 10, 10, 14))["pixel_values"])
    (metadata,) = batch["video_metadata"]
    assert metadata.other_people == 1
    outputs = ModelOutput(logits=torch.tensor([[0.0, 1.0]]))
    (result,) = processor.post_process_multi_task(outputs, metadata=[metadata], id2label={0: "a", 1: "b"})
    assert result["other_people"] == 1 and result["face_found"] is True
    torch.testing.assert_close(result["person_boxes"], torch.tensor([[10.0, 10, 24, 24]] * 16))
    assert list(result["expression"]) == ["b", "a"]


def test_without_a_face_the_whole_frame_is_used_and_nothing_is_told_of_anybody(
    processor: MTCAEVideoProcessor, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    find_instead(monkeypatch)
    with caplog.at_level(logging.WARNING):
        batch = processor(path, do_face_crop=True, return_metadata=True)
    assert torch.equal(batch["pixel_values"], processor(path)["pixel_values"])
    (metadata,) = batch["video_metadata"]
    assert metadata.warning == f"'{path}': no face found, so the whole frame is used"
    assert metadata.crop_box == (0.0, 0.0, 1.0, 1.0)
    assert metadata.warning in caplog.text
    assert batch["person_found"].tolist() == [False] and metadata.face_found is False
    outputs = ModelOutput(logits=torch.tensor([[0.0, 9.0]]), face_boxes=torch.zeros(1, 16, 4))
    (result,) = processor.post_process_multi_task(outputs, metadata=[metadata], id2label={0: "a", 1: "b"})
    assert result["face_found"] is False and result["expression"] is None and result["face_boxes"] is None


def test_nobody_is_looked_for_in_a_whole_frame(processor: MTCAEVideoProcessor, path: Path) -> None:
    batch = processor(path, return_metadata=True)
    (metadata,) = batch["video_metadata"]
    assert "person_found" not in batch
    assert (metadata.face_found, metadata.person_boxes, metadata.other_people) == (None, None, None)


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="real sample clips are not here")
def test_a_real_clip_is_cropped_to_its_face(processor: MTCAEVideoProcessor) -> None:
    pytest.importorskip("facenet_pytorch")
    clip = SAMPLES / "1001_DFA_HAP_XX.flv"
    batch = processor(clip, do_face_crop=True, face_crop_margin=0.25, return_metadata=True)
    (metadata,) = batch["video_metadata"]
    assert metadata.warning is None
    x1, y1, x2, y2 = metadata.crop_box
    assert (x2 - x1) * 480 == pytest.approx((y2 - y1) * 360)
    faces = FaceDetector().detect(read_clip(clip).frames)
    boxes = faces.boxes[faces.face_found]
    assert len(boxes) == 16
    assert (boxes[:, :2] >= torch.tensor([x1, y1]) - 0.01).all()
    assert (boxes[:, 2:] <= torch.tensor([x2, y2]) + 0.01).all()


# Back to the source


def made_up_outputs() -> ModelOutput:
    """Two videos of two frames, in numbers that are easy to follow."""
    logits = torch.log(
        torch.tensor([[0.1, 0.4, 0.05, 0.2, 0.15, 0.06, 0.04], [0.7, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05]])
    )
    boxes = torch.tensor([[[0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 1.0, 1.0]], [[0.5, 0.5, 0.6, 0.6], [NAN] * 4]])
    landmarks = torch.full((2, 2, 5, 2), 0.5)
    landmarks[0, 0, 2] = torch.tensor([0.25, 0.75])
    return ModelOutput(logits=logits, face_boxes=boxes, face_landmarks=landmarks)


def test_predictions_are_named_and_placed_in_source_pixels(processor: MTCAEVideoProcessor) -> None:
    names = dict(enumerate(EXPRESSIONS))
    first, second = processor.post_process_multi_task(
        made_up_outputs(), target_sizes=[(480, 640), (100, 200)], id2label=names
    )
    assert list(first["expression"]) == ["happiness", "anger", "fear", "neutral", "disgust", "sadness", "surprise"]
    assert list(first["expression"].values()) == pytest.approx([0.4, 0.2, 0.15, 0.1, 0.06, 0.05, 0.04])
    assert first["face_boxes"].tolist() == [[160, 240, 480, 480], [0, 0, 640, 480]]
    assert first["face_landmarks"][0].tolist() == [[320, 240], [320, 240], [160, 360], [320, 240], [320, 240]]
    assert first["timestamps"] is None
    torch.testing.assert_close(second["face_boxes"], torch.tensor([[100.0, 50, 120, 60], [NAN] * 4]), equal_nan=True)
    assert list(second["expression"])[0] == "neutral"


def test_metadata_undoes_the_crop_and_gives_the_times(processor: MTCAEVideoProcessor) -> None:
    # The model saw the square from (160, 120) to (400, 360) of a frame of 640 × 480.
    crop = ClipMetadata("a", 640, 480, [0.0, 0.4], [0, 10], (0.25, 0.25, 0.625, 0.75), None)
    whole = ClipMetadata("b", 200, 100, None, [0, 1], (0.0, 0.0, 1.0, 1.0), None)
    first, second = processor.post_process_multi_task(
        made_up_outputs(), metadata=[crop, whole], id2label={str(k): v for k, v in enumerate(EXPRESSIONS)}, top_k=2
    )
    assert list(first["expression"]) == ["happiness", "anger"]
    assert first["face_boxes"].tolist() == [[220, 240, 340, 360], [160, 120, 400, 360]]
    assert first["face_landmarks"][0, 2].tolist() == [220, 300]
    assert first["timestamps"] == [0.0, 0.4]
    assert second["face_landmarks"][0, 0].tolist() == [100, 50]
    assert second["timestamps"] is None


def test_a_box_comes_back_to_where_it_was_before_the_crop(processor: MTCAEVideoProcessor, frames: np.ndarray) -> None:
    batch = processor(frames, crop_boxes=[(0.2, 0.2, 0.5, 0.7)], return_metadata=True)
    pixels = torch.tensor([20.0, 15.0, 40.0, 41.0]).expand(16, 4)
    boxes, landmarks = map_to_crop(
        boxes_from_pixels(pixels, 90, 60), torch.zeros(16, 5, 2), batch["video_metadata"][0].crop_box
    )
    outputs = ModelOutput(face_boxes=boxes[None], face_landmarks=landmarks[None])
    (result,) = processor.post_process_multi_task(outputs, metadata=batch["video_metadata"])
    torch.testing.assert_close(result["face_boxes"], pixels)
    assert result["expression"] is None


def test_what_a_model_does_not_predict_is_none(processor: MTCAEVideoProcessor) -> None:
    outputs = made_up_outputs()
    names = dict(enumerate(EXPRESSIONS))
    for result in processor.post_process_multi_task(ModelOutput(logits=outputs.logits.bfloat16()), id2label=names):
        assert result["face_boxes"] is None and result["face_landmarks"] is None
        assert sum(result["expression"].values()) == pytest.approx(1)
    sizes = [(10, 10)] * 2
    for result in processor.post_process_multi_task(ModelOutput(face_landmarks=outputs.face_landmarks), sizes):
        assert result["expression"] is None and result["face_boxes"] is None
        assert result["face_landmarks"].shape == (2, 5, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_sizes": [(4, 4)] * 2}, "give their names as id2label=model.config.id2label"),
        ({"target_sizes": [(4, 4)] * 2, "id2label": {0: "a"}}, r"names the classes \[0\], but there are 7 logits"),
        ({"id2label": dict(enumerate(EXPRESSIONS))}, "give target_sizes"),
        ({"id2label": dict(enumerate(EXPRESSIONS)), "target_sizes": [(4, 4)]}, "has 1 entries for 2 videos"),
    ],
)
def test_post_processing_asks_for_what_it_needs(processor: MTCAEVideoProcessor, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        processor.post_process_multi_task(made_up_outputs(), **arguments)


# Saving and loading


def test_a_processor_is_saved_and_loaded(tmp_path: Path, path: Path) -> None:
    processor = MTCAEVideoProcessor(size={"height": 64, "width": 64}, num_frames=8, do_face_crop=True)
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "video_preprocessor_config.json").read_text())
    assert saved["auto_map"] == {"AutoVideoProcessor": "processing_mtcae.MTCAEVideoProcessor"}
    assert saved["video_processor_type"] == "MTCAEVideoProcessor"
    loaded = MTCAEVideoProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    options = {"do_face_crop": False}
    assert torch.equal(loaded(path, **options)["pixel_values"], processor(path, **options)["pixel_values"])
    assert loaded(path, **options)["pixel_values"].shape == (1, 8, 3, 64, 64)


def test_the_repositorys_root_holds_a_processor_that_crops_to_the_face() -> None:
    processor = MTCAEVideoProcessor.from_pretrained(ROOT)
    written = json.loads((ROOT / "video_preprocessor_config.json").read_text())
    assert written == json.loads(processor.to_json_string())
    assert processor.do_face_crop and processor.num_frames == 16


def test_a_saved_folder_holds_the_code_of_a_processor_alone(tmp_path: Path) -> None:
    MTCAEVideoProcessor(num_frames=4).save_pretrained(tmp_path)
    for module in ("processing_mtcae.py", "video_reading.py", "face_geometry.py", "face_detection.py"):
        assert (tmp_path / module).is_file(), f"{module} was not copied"
