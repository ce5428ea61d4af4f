"""Labels of s-Aff-Wild2 and of the drawn corpus, feature files, and features by trained encoders."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CONFIG_MAPPING, ResNetConfig, ResNetModel, ViTConfig, ViTMAEConfig, ViTMAEModel, ViTModel

from mtcae_dfer.commands.command_line import main as mtcae
from mtcae_dfer.configuration_mtl_er import AFFECT_ACTION_UNITS, AFFECT_EXPRESSIONS
from mtcae_dfer.hub_dataset.affect_labels import labels_from_truth
from mtcae_dfer.hub_dataset.clips import DatasetError
from mtcae_dfer.hub_dataset.corpora.s_aff_wild2 import read_s_aff_wild2
from mtcae_dfer.hub_dataset.synthetic.corpus import load_ground_truth
from mtcae_dfer.training.affect.extract_features import FrameEncoder, clip_positions, list_videos
from mtcae_dfer.training.affect.frame_features import (
    FeatureError,
    FrameFeatures,
    join_features,
    read_features,
    take_frames,
    write_features,
)
from mtcae_dfer.training.affect.sequences import attach_labels, pad_videos
from tests.support.affect_labels import some_labels
from tests.support.tiny_models import FRAMES, SIDE, tiny_model
from tests.support.video_encoders import CHECKPOINTS, IN_RASTER_ORDER, TOKEN_GRIDS, VIDEO_ENCODERS

HEADER = "image,valence,arousal,expression," + ",".join(f"AU{unit}" for unit in AFFECT_ACTION_UNITS)
ROW = "0.5,-0.25,4,0,1,0,0,1,0,1,0,0,-1,0,1"


def write_labels(folder: Path, *rows: str, header: str = HEADER) -> Path:
    file = folder / "labels.txt"
    file.write_text("\n".join([header, *rows] if header else rows) + "\n")
    return file


@pytest.mark.parametrize("header", [HEADER, ""])
def test_a_label_file_is_read_by_video_and_frame(tmp_path: Path, header: str) -> None:
    rows = (f"b/00003.jpg,{ROW}", f"a/00001.jpg,{ROW}", "b/00001.jpg,-5,-5,-1" + ",-1" * 12)
    labels = read_s_aff_wild2(write_labels(tmp_path, *rows, header=header))
    assert sorted(labels) == ["a", "b"] and labels["b"].frame_indices.tolist() == [0, 2]
    np.testing.assert_allclose(labels["b"].valence, [-5, 0.5])
    assert labels["b"].expression.tolist() == [-1, 4]
    assert labels["b"].action_units[1].tolist() == [0, 1, 0, 0, 1, 0, 1, 0, 0, -1, 0, 1]
    np.testing.assert_allclose(labels["b"].as_table()[1], [float(value) for value in ROW.split(",")])


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("a/00001.jpg,1.5" + ROW[3:], "frame 0: valence is 1.5, but must be in [-1, 1]"),
        ("a/00001.jpg,nan" + ROW[3:], "valence is nan"),
        ("a/00001.jpg,0.5,0,9" + ",0" * 12, "expression is 9, but must be 0 to 7"),
        ("a/00001.jpg,0.5,0,1,2" + ",0" * 11, "action_units is 2, but must be 0 or 1"),
        ("a/00001.jpg,0.5,0,1.5" + ",0" * 12, "must be whole numbers"),
        ("a/00001.jpg,0.5,0,1", "line 2: 3 columns after the image, but there must be 15"),
        ("a/00001.jpg,x" + ROW[3:], "every label must be a number"),
        (f"picture.jpg,{ROW}", "line 2: 'picture.jpg' is no image name"),
        (f"a/00001.jpg,{ROW}\na/00001.jpg,{ROW}", "frame numbers that repeat"),
    ],
)
def test_wrong_rows_are_named(tmp_path: Path, row: str, told: str) -> None:
    with pytest.raises(DatasetError) as error:
        read_s_aff_wild2(write_labels(tmp_path, row))
    assert told in str(error.value)


def test_a_file_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no labels"):
        read_s_aff_wild2(write_labels(tmp_path))
    with pytest.raises(DatasetError, match="cannot be read"):
        read_s_aff_wild2(tmp_path / "nothing.txt")


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(DatasetError, match="3 labels of valence for 2 frames"):
        some_labels(2, valence=np.zeros(3, np.float32))


def test_drawn_labels_say_what_was_drawn(small_corpus: Path) -> None:
    for truth in load_ground_truth(small_corpus).values():
        labels = labels_from_truth(truth)
        for frame in range(len(truth.valence)):
            strength = truth.expression_strength[frame]
            expected = truth.expression if strength >= 0.3 else "neutral" if strength < 0.1 else None
            found = labels.expression[frame]
            assert (AFFECT_EXPRESSIONS[found] if found >= 0 else None) == expected
        assert (labels.action_units[:, AFFECT_ACTION_UNITS.index(10)] == -1).all()  # is never drawn
        assert set(np.unique(labels.action_units[:, AFFECT_ACTION_UNITS.index(12)])) <= {0, 1}


@pytest.mark.parametrize("suffix", [".parquet", ".safetensors"])
def test_feature_files_give_back_what_was_written(tmp_path: Path, suffix: str) -> None:
    random = np.random.default_rng(0)
    videos = [
        FrameFeatures(np.array([0, 2, 3]), random.normal(size=(3, 5)).astype(np.float32), "a b/clip.mp4"),
        FrameFeatures(np.array([7]), random.normal(size=(1, 5)).astype(np.float32), "two"),
    ]
    found = read_features(write_features(tmp_path / f"features{suffix}", videos, "an encoder"))
    assert sorted(found) == ["a b/clip.mp4", "two"]
    for video in videos:
        np.testing.assert_array_equal(found[video.name].vectors, video.vectors)
        np.testing.assert_array_equal(found[video.name].frame_indices, video.frame_indices)


def features_of(frames: int, size: int = 2, start: int = 0) -> FrameFeatures:
    vectors = np.arange(frames * size, dtype=np.float32).reshape(frames, size)
    return FrameFeatures(np.arange(start, start + frames), vectors, "a")


def test_several_features_are_concatenated_per_frame() -> None:
    joined = join_features([{"a": features_of(3)}, {"a": features_of(3, size=1)}], ["one", "two"])["a"]
    np.testing.assert_array_equal(joined.vectors, [[0, 1, 0], [2, 3, 1], [4, 5, 2]])


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            lambda: join_features([{"a": features_of(3)}, {"a": features_of(4)}], ["one", "two"]),
            "3 frames in one, but 4",
        ),
        (lambda: join_features([{"a": features_of(3)}, {}], ["one", "two"]), "two lacks the video a"),
        (lambda: take_frames(features_of(3), np.arange(5)), "features of 3 frames and labels of 5; frame 3"),
        (lambda: attach_labels({}, {"a": some_labels(2)}, False), "a has labels, but no features"),
        (
            lambda: FrameFeatures(np.arange(2), np.array([[0.0], [np.nan]]), "a"),
            "frame 1: a feature is no finite number",
        ),
        (lambda: FrameFeatures(np.arange(0), np.zeros((0, 3)), "a"), "has no frames"),
        (lambda: FrameFeatures(np.arange(2), np.zeros((3, 3)), "a"), "for 2 frames"),
        (lambda: FrameFeatures(np.array([1, 1]), np.zeros((2, 3)), "a"), "repeat or go back"),
        (lambda: read_features(Path("features.txt")), "ends in .parquet or .safetensors"),
        (lambda: read_features(Path("nothing.parquet")), "no readable feature file"),
    ],
)
def test_features_that_do_not_fit_are_refused(call, told: str) -> None:
    with pytest.raises(FeatureError) as error:
        call()
    assert told in str(error.value)


def test_labelled_frames_alone_are_taken_and_normalised_per_video() -> None:
    labels = {"a": some_labels(2, frame_indices=np.array([1, 3]))}
    (plain,) = attach_labels({"a.mp4": features_of(4)}, labels, normalise=False)
    np.testing.assert_array_equal(plain.features, [[2, 3], [6, 7]])
    (normal,) = attach_labels({"a.mp4": features_of(4)}, labels, normalise=True)
    np.testing.assert_allclose(normal.features, [[-1, -1], [1, 1]])


def test_padding_carries_missing_labels() -> None:
    videos = [
        {"features": torch.ones(n, 2), "valence": torch.zeros(n), "expression": torch.zeros(n, dtype=torch.long)}
        for n in (1, 3)
    ]
    batch = pad_videos(videos)
    assert batch["valence"][0].tolist() == [0, -5, -5] and batch["expression"][0].tolist() == [0, -1, -1]
    assert batch["attention_mask"].tolist() == [[True, False, False], [True] * 3]


def test_clips_cover_every_frame() -> None:
    assert [clip.tolist() for clip in clip_positions(5, 4)] == [[0, 1, 2, 3], [1, 2, 3, 4]]
    assert [clip.tolist() for clip in clip_positions(2, 4)] == [[0, 1, 1, 1]]


def some_frames(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_video_encoder_pools_tokens_per_tubelet_and_repeats_them(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path / "model")
    encoder, frames = FrameEncoder(str(tmp_path / "model")), some_frames(FRAMES)
    vectors = torch.from_numpy(encoder.encode(frames))
    pixels = encoder._pixels(frames)[None]
    with torch.no_grad():
        tokens = model.encoder(pixels).last_hidden_state[0]
    tubelets, rows, columns = model.config.token_grid
    for frame in range(FRAMES):
        tubelet = frame // (FRAMES // tubelets)
        expected = tokens[tubelet * rows * columns : (tubelet + 1) * rows * columns].mean(dim=0)
        torch.testing.assert_close(vectors[frame], expected, rtol=1e-4, atol=1e-4)
    assert encoder.size == (SIDE, SIDE) and encoder.encode(some_frames(FRAMES + 1)).shape[0] == FRAMES + 1


@torch.no_grad()
@pytest.mark.parametrize("model_type", VIDEO_ENCODERS)
def test_frames_of_every_video_encoder_get_the_mean_of_their_tokens(model_type: str, tmp_path: Path) -> None:
    model = CHECKPOINTS[model_type][0](CONFIG_MAPPING[model_type](**VIDEO_ENCODERS[model_type])).eval()
    model.save_pretrained(tmp_path)
    encoder = FrameEncoder(str(tmp_path))
    assert encoder.size == (64, 64)
    frames = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    vectors = torch.from_numpy(encoder.encode(frames))
    in_order = IN_RASTER_ORDER.get(model_type, lambda tokens: tokens)
    tokens = in_order(model(**{model.main_input_name: encoder._pixels(frames)[None]}).last_hidden_state)[0]
    tubelets = TOKEN_GRIDS[model_type][0]
    expected = tokens.reshape(tubelets, 16, -1).mean(dim=1).repeat_interleave(4 // tubelets, dim=0)
    torch.testing.assert_close(vectors, expected, rtol=1e-4, atol=1e-4)


def test_numbered_images_behind_a_link_are_found(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "video 1"
    elsewhere.mkdir(parents=True)
    Image.new("RGB", (20, 10)).save(elsewhere / "00001.jpg")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "source", target_is_directory=True)
    assert list(list_videos(tmp_path / "source")) == ["linked/video 1"]


def save_image_models(folder: Path) -> dict[str, Path]:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vit = {**sizes, "image_size": 32, "patch_size": 8}
    ViTModel(ViTConfig(**vit)).save_pretrained(folder / "vit")
    ViTMAEModel(ViTMAEConfig(**vit)).save_pretrained(folder / "mae")
    ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])).save_pretrained(folder / "resnet")
    return {name: folder / name for name in ("vit", "mae", "resnet")}


def test_any_image_model_gives_one_vector_a_frame(tmp_path: Path) -> None:
    for name, folder in save_image_models(tmp_path).items():
        encoder = FrameEncoder(str(folder), image_size=32, batch_size=2)
        first, second = encoder.encode(some_frames(3)), encoder.encode(some_frames(3))
        assert first.shape == (3, 16)
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5, err_msg=name)  # no random masks
    backbone = FrameEncoder(str(tmp_path / "resnet"), image_size=32, as_backbone=True)
    assert backbone.encode(some_frames(2)).shape == (2, 16)


def test_the_command_extracts_videos_and_folders_of_images(small_corpus: Path, tmp_path: Path) -> None:
    encoder = save_image_models(tmp_path)["resnet"]
    source = tmp_path / "source"
    (source / "wild" / "video 1").mkdir(parents=True)
    for number in (1, 4):
        Image.new("RGB", (20, 10), (number, 0, 0)).save(source / "wild" / "video 1" / f"{number:05d}.jpg")
    clip = sorted((small_corpus / "videos").rglob("*.mp4"))[0]
    (source / "clip.mp4").write_bytes(clip.read_bytes())
    words = ["--videos", str(source), "--encoder", str(encoder), "--image_size", "32"]
    assert mtcae(["extract-features", *words, "--output", str(tmp_path / "f.parquet")]) == 0
    found = read_features(tmp_path / "f.parquet")
    assert found["wild/video 1"].frame_indices.tolist() == [0, 3]
    assert 18 <= len(found["clip.mp4"]) <= 20


@pytest.mark.parametrize(
    ("videos", "encoder", "output", "told"),
    [
        ("nothing", "resnet", "f.parquet", "does not exist"),
        (".", "nothing", "f.parquet", "holds no model that can be read"),
        ("resnet", "resnet", "f.parquet", "holds no videos"),
    ],
)
def test_wrong_options_are_one_line(tmp_path: Path, capsys, videos: str, encoder: str, output: str, told: str) -> None:
    save_image_models(tmp_path)
    words = ["--videos", str(tmp_path / videos), "--encoder", str(tmp_path / encoder)]
    assert mtcae(["extract-features", *words, "--output", str(tmp_path / output)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("mtcae: error:") and told in error
