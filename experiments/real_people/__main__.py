"""A small cascade for real people: stills and motion trained together ("static for dynamic", S4D, IEEE TAC 2025).

    python -m mtcae_dfer.experiments.real_people --stills FER2013 LFW --clips AVATARS --output_dir runs/real-people

    stills ──► 1. a residual network learns expressions, boxes and points
                  │ its feature map, frame by frame
    stills ─┐     ▼
    clips ──┴► 2. box → landmarks → expression: the cascade on this encoder, on stills (clips of one frame), on clips,
                  and on sequences that fade from the features of a neutral still to those of an expressive one
                  │
    stills ──► 3. scores towards rare expressions, and a temperature for them on the validation stills; then the test
                  stills, once

The data sets are built by `mtcae dataset build stills` and `mtcae dataset build ravdess`. Every stage is kept in the
output folder: the same command goes on where it was stopped.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import HfArgumentParser

from mtcae_dfer.experiments.real_people import recipe
from mtcae_dfer.experiments.real_people.cascade import make_cascade, train_cascade
from mtcae_dfer.experiments.real_people.classifier import order_of_epoch, train_classifier
from mtcae_dfer.experiments.real_people.figures import answer, figures_of, fit_temperature, take_off_prior
from mtcae_dfer.experiments.real_people.pictures import read_faces
from mtcae_dfer.experiments.real_people.recipe import RealPeopleOptions
from mtcae_dfer.hub_dataset.files import write_json, writing_in
from mtcae_dfer.hub_dataset.folds import SPLITS
from mtcae_dfer.hub_dataset.loading.protocols import find_fold, resolve_protocol
from mtcae_dfer.hub_dataset.workers import available_processors
from mtcae_dfer.processing_mtcae import MTCAEVideoProcessor
from mtcae_dfer.training.data.faces import PIXEL_MEAN, PIXEL_STD, FaceCut, FaceSet, join_faces, middle_frames
from mtcae_dfer.training.errors import tell_user

OPTIONS_FILE = "options.json"  # what decided the stages of an output folder
MEMORY_ADVICE = "give fewer data sets: their pictures are kept in memory"


def deciding_options(options: RealPeopleOptions) -> dict[str, Any]:
    """The options that decide the stages of an output folder."""
    # Folds of the clips share the first stages and have names of their own; where it runs decides no stage.
    free = ("clip_fold", "output_dir", "device", "threads")
    return {name: value for name, value in asdict(options).items() if name not in free}


def refuse_other_options(options: RealPeopleOptions, file: Path) -> None:
    """Compares what decides the stages with what an earlier call kept in `file`, where there was one.

    Raises:
        ValueError: the folder holds stages that were made with other options.
    """
    if not file.exists():
        return
    before = json.loads(file.read_text(encoding="utf-8"))
    asked = deciding_options(options)
    changed = [f"--{name} {before.get(name)} -> {value}" for name, value in asked.items() if before.get(name) != value]
    if changed:
        raise ValueError(
            f"{file.parent}: holds stages made with other options ({', '.join(changed)}): repeat those, or give "
            "another --output_dir"
        )


def run(options: RealPeopleOptions) -> dict[str, Any]:
    """All stages; returns the report, which also stands in `real_people.json`.

    Raises:
        ValueError: an option breaks its rule or needs more stills or clips than there are, another command works in the
            output folder, or it holds stages of other options.
    """
    if not 0 <= options.vote_share <= 1:
        raise ValueError(f"--vote_share {options.vote_share}: must be in [0, 1]")
    if not 0 <= options.clip_stills <= recipe.MOTION_FRAMES // 2:
        raise ValueError(f"--clip_stills {options.clip_stills}: must be in [0, {recipe.MOTION_FRAMES // 2}]")
    if options.backbone_epochs < (0 if options.start else 1):
        told = "must not be negative" if options.start else "must be at least 1 without --start"
        raise ValueError(f"--backbone_epochs {options.backbone_epochs}: {told}")
    if options.fade_batch > options.still_batch:
        raise ValueError(f"--fade_batch {options.fade_batch}: must be at most --still_batch {options.still_batch}")
    if not options.clips and (options.clip_stills or options.clip_fold is not None):
        raise ValueError("--clip_stills and --clip_fold need clips: give --clips")
    output_dir = Path(options.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    with writing_in(output_dir):
        refuse_other_options(options, output_dir / OPTIONS_FILE)
        return run_stages(options, output_dir)


def run_stages(options: RealPeopleOptions, output_dir: Path) -> dict[str, Any]:
    """What `run` does in its folder."""
    torch.set_num_threads(options.threads or available_processors())
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    started = time.perf_counter()

    def read(name: str, splits: Sequence[str]) -> FaceSet:
        faces = read_faces(name, splits, output_dir, options.vote_share)
        return replace(faces, pictures=faces.pictures.to(device))

    training = [read(name, ["train"]) for name in options.stills]
    validation = read(options.stills[0], ["validation"])
    stills, official = join_faces(training), len(training[0])
    parts = [read(name, SPLITS) for name in options.clips]
    clips = join_faces(parts) if parts else None
    test_clips, tested = None, None
    if clips is not None and options.clip_fold is not None:
        fold = find_fold(resolve_protocol(options.clips[0], options.clip_protocol), options.clip_fold)
        tested = np.isin(clips.subjects, fold.test)
        test_clips = parts[0].select(np.isin(parts[0].subjects, fold.test))
    trained = clips if clips is None or tested is None else clips.select(~tested)
    if trained is not None and options.clip_stills:
        stills = join_faces([stills, middle_frames(trained, options.clip_stills)])
    epoch = len(order_of_epoch(stills.labels, official, 0, options.seed))
    limits = {"backbone_batch": epoch, "still_batch": epoch} | ({} if trained is None else {"clip_batch": len(trained)})
    for name, limit in limits.items():
        if (batch := getattr(options, name)) > limit:
            raise ValueError(f"--{name} {batch}: there are no more than {limit} to learn from; give a smaller batch")
    write_json(output_dir / OPTIONS_FILE, deciding_options(options))  # not before it is known that they fit
    classifier = train_classifier(stills, official, validation, options)
    model = make_cascade(classifier, options.seed)
    model.to(device)  # type: ignore[arg-type]
    train_cascade(model, stills, official, clips, options, tested)
    take_off_prior(model, stills.targets[:official], recipe.PRIOR_SHARE)
    answers = answer(model, validation)
    model.config.temperature = fit_temperature(answers.scores, answers.batch.labels)
    report = {"options": asdict(options), "temperature": model.config.temperature}
    scaled = replace(answers, scores=answers.scores / model.config.temperature)
    report["validation"] = figures_of(scaled, validation.votes)
    if test_clips is not None:
        # The test stills are looked at once, by the model that is trained on all clips.
        report["test_clips"] = figures_of(answer(model, test_clips), test_clips.votes)
    else:
        test = read(options.stills[0], ["test"])
        report["test"] = figures_of(answer(model, test), test.votes)
    report["minutes"] = (time.perf_counter() - started) / 60
    folder = output_dir / f"model{options.fold_suffix}"
    model.save_pretrained(folder)
    cut = FaceCut()
    processor = MTCAEVideoProcessor(
        num_frames=recipe.MOTION_FRAMES,
        size={"height": recipe.SIZES[-1], "width": recipe.SIZES[-1]},
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
        do_face_crop=True,
        face_crop_margin=cut.margin,
        face_crop_rise=cut.rise,
    )
    processor.save_pretrained(folder)
    write_json(output_dir / f"real_people{options.fold_suffix}.json", report)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    described: Any = RealPeopleOptions
    parser = HfArgumentParser(described, prog="real_people", description=__doc__)
    (options,) = parser.parse_args_into_dataclasses(args=arguments)
    try:
        report = run(options)
    except KeyboardInterrupt:
        print("\nStopped. Go on with the same command.", file=sys.stderr)
        return 130
    except Exception as error:
        return tell_user(error, "real_people", MEMORY_ADVICE)
    figures = ("temperature", "validation", "test", "test_clips")
    print(json.dumps({name: report[name] for name in figures if name in report}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
