"""Windows of labelled frames, views of test clips, mixup and cutmix: against what is plain from frames and numbers."""

from pathlib import Path

import pytest
import torch

from mtcae_dfer.face_geometry import flip_horizontally
from mtcae_dfer.hub_dataset.loading.load import load_multitask_dataset
from mtcae_dfer.training import run
from mtcae_dfer.training.data.augmentation import AugmentationConfig
from mtcae_dfer.training.data.blending import Blend, blend_clips, paste_rectangle
from mtcae_dfer.training.data.clip_dataset import ClipDataset
from mtcae_dfer.training.data.sampling import FrameWindow
from mtcae_dfer.training.evaluation import predictions as evaluation
from mtcae_dfer.training.evaluation.predictions import ClipViews, predict_views
from mtcae_dfer.training.evaluation.report import load_report
from mtcae_dfer.training.losses import TrainingLoss
from tests.support.runs import words_of
from tests.support.tiny_models import FRAMES, random_clips, random_labels, tiny_model

WINDOW = FrameWindow(num_frames=4, stride=3)  # 10 labelled frames from its first to its last


def test_windows_spread_from_the_first_to_the_last_frame() -> None:
    assert WINDOW.spread(16) == [3, 6, 9, 12]
    assert WINDOW.spread(16, windows=3) == [0, 3, 6, 9, 3, 6, 9, 12, 6, 9, 12, 15]
    drawn = [WINDOW.draw(16, torch.Generator().manual_seed(seed)) for seed in range(60)]
    assert {positions[0] for positions in drawn} == set(range(7))
    assert all(positions == list(range(positions[0], positions[0] + 10, 3)) for positions in drawn)


def test_frames_of_a_window_keep_their_own_labels(small_dataset: Path) -> None:
    rows = load_multitask_dataset(str(small_dataset))["train"]
    unchanged = AugmentationConfig(1.0, 1.0, 0.0, 0.0, 0.0)
    whole = ClipDataset(rows, (32, 32))[1]
    drawn = ClipDataset(rows, (32, 32), unchanged, seed=5, window=WINDOW)
    starts = set()
    for epoch in range(8):
        drawn.set_epoch(epoch)
        clip = drawn[1]
        position = int(((whole["frames"] - clip["frames"][0]).flatten(1) == 0).all(dim=1).nonzero()[0])
        positions = list(range(position, position + 10, 3))
        starts.add(position)
        for name in ("frames", "face_boxes", "face_landmarks", "face_found"):
            assert torch.equal(clip[name], whole[name][positions]), name
    assert len(starts) > 2
    tested = ClipDataset(rows, (32, 32), window=WINDOW, segments=2)[1]
    assert torch.equal(tested["frames"], whole["frames"][[0, 3, 6, 9, 6, 9, 12, 15]])


class NoProcessor:
    """Takes frames as they are."""

    def __getattr__(self, name: str) -> None:
        return None

    def rescale_and_normalize(self, frames: torch.Tensor, *unused) -> torch.Tensor:
        return frames


def test_views_join_scores_of_all_and_faces_of_each_segment() -> None:
    model, frames = tiny_model(), torch.cat([random_clips(seed=1), random_clips(seed=3)], dim=1)
    labels = {name: torch.cat([value, value], dim=1) if value.ndim > 1 else value
              for name, value in random_labels().items()}  # fmt: skip
    views = ClipViews(segments=2, flip=True)
    with torch.no_grad():
        loss, joined = predict_views(model, NoProcessor(), {"frames": frames, **labels}, model.tasks, views)
        parts = [model(pixel_values=frames[:, start : start + FRAMES], **random_labels()) for start in (0, FRAMES)]
        mirrored = [model(pixel_values=frames[:, start : start + FRAMES].flip(-1)) for start in (0, FRAMES)]
    scores = [output.logits for output in [*parts, *mirrored]]
    assert torch.allclose(joined["expression"], sum(scores) / 4, atol=1e-6)
    assert torch.allclose(loss, (parts[0].loss + parts[1].loss) / 2)
    boxes, points = flip_horizontally(mirrored[1].face_boxes, mirrored[1].face_landmarks)
    assert torch.allclose(joined["face_box"][:, FRAMES:], (parts[1].face_boxes + boxes) / 2, atol=1e-6)
    assert torch.allclose(joined["face_landmarks"][:, FRAMES:], (parts[1].face_landmarks + points) / 2, atol=1e-6)


def test_mixup_and_cutmix_give_every_clip_the_stated_share_of_its_partner() -> None:
    clips = torch.arange(5.0).view(5, 1, 1, 1, 1).expand(5, 2, 3, 20, 30)
    shares = []
    for seed in range(20):
        for alphas in ((0.8, 0.0), (0.0, 1.0)):
            torch.manual_seed(seed)
            blended, blend = blend_clips(clips, *alphas)
            means = blended.mean(dim=(1, 2, 3, 4))
            expected = torch.lerp(torch.arange(5.0), blend.partners.float(), blend.share)
            assert torch.allclose(means, expected, atol=1e-5) and 0 <= blend.share <= 0.5 + 1e-2
            shares.append(blend.share)
    assert len(set(shares)) > 30
    assert blend_clips(clips, 0.0, 0.0) == (clips, None)
    pasted, share = paste_rectangle(torch.zeros(1, 2, 3, 20, 30), torch.ones(1, 2, 3, 20, 30), 0.25)
    assert share == 0.25 and pasted[0, 0, 0].any(dim=1).sum() == 10 and pasted[0, 0, 0].any(dim=0).sum() == 15


def test_blended_expressions_count_by_their_shares_and_faces_stay() -> None:
    model, labels = tiny_model(), random_labels()
    outputs = model(pixel_values=random_clips(), **labels)
    loss = TrainingLoss(model.tasks)
    own, swapped = labels["labels"], labels["labels"].flip(0)
    _, losses = loss(outputs, own, Blend(torch.tensor([1, 0]), 0.3))
    each = [torch.nn.functional.cross_entropy(outputs.logits, target) for target in (own, swapped)]
    assert torch.allclose(losses["expression"], 0.7 * each[0] + 0.3 * each[1])
    assert losses["face_box"] is outputs.task_losses["face_box"]


def test_a_run_with_windows_blends_and_views_reports_all_frames_of_its_views(
    small_dataset: Path, tmp_path: Path, monkeypatch
) -> None:
    from mtcae_dfer.training.arguments import parse_run_arguments

    tiny = parse_run_arguments([]).model.model_config
    encoder = tiny["encoder_config"] | {"num_frames": 4, "tubelet_size": 4, "hidden_size": 48, "num_hidden_layers": 1}
    options = {
        "model_config": tiny | {"encoder_config": encoder, "decoder_hidden_size": 48},
        **{"frame_stride": 3, "test_segments": 2, "test_flip": True, "mixup_alpha": 0.8, "cutmix_alpha": 1.0},
        **{"num_train_epochs": 1, "per_device_train_batch_size": 2},
    }
    asked = []
    monkeypatch.setattr(
        run, "predict_split", lambda *words: asked.append(words[4:]) or evaluation.predict_split(*words)
    )
    assert run.main(words_of(small_dataset, tmp_path / "run", options)) == 0
    assert asked[-1] == (ClipViews(2, True),) and set(asked[:-1]) == {()}
    test = load_report(tmp_path / "run" / "report.json")["test"]
    assert test["clips"] == 2 and test["frames_with_face"] == 2 * 2 * 4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--frame_stride", "2"], "a window of 31: build the data set with --num-frames 31 or more"),
        (["--test_segments", "2"], "needs --frame_stride"),
        (["--mixup_alpha", "-1"], "must be at least 0"),
        (["--cutmix_alpha", "1", "--per_device_train_batch_size", "1"], "needs batches"),
    ],
)
def test_impossible_windows_and_blends_are_refused(
    small_dataset: Path, tmp_path: Path, capsys, words: list[str], told: str
) -> None:
    assert run.main(["--dataset", str(small_dataset), "--output_dir", str(tmp_path / "run"), *words]) == 2
    assert told in capsys.readouterr().err
