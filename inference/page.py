"""`mtcae demo`: a page for trying a model. A clip or a recording in, faces and expressions over time out.

Without a model it takes the demonstration model of this repository, which was trained on drawn faces and says nothing
about real people.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mtcae_dfer.hub_dataset.files import write_json
from mtcae_dfer.inference.annotated_video import write_overlay
from mtcae_dfer.inference.models import DEMONSTRATION_MODEL, DEMONSTRATION_NOTE, load_model
from mtcae_dfer.inference.timeline_files import draw_timeline
from mtcae_dfer.pipeline_mtcae import FacialExpressionTimelinePipeline
from mtcae_dfer.video_reading import VideoReadingError, probe_video

if TYPE_CHECKING:
    import gradio

KEPT_SECONDS = 3600.0  # how long the files of an answer can be downloaded
EVERY_PERSON, WHOLE_FRAME = "every person", "one person, the whole frame"
EXAMPLE_EXPRESSIONS = ("happiness", "surprise", "anger")
TITLE = (
    "# Facial expressions over time\nFace boxes → five landmarks → expression, by a cascade of decoders (MTCAE-DFER)."
)
CHOOSE_A_CLIP = "Choose or record a clip first."
NO_FACE = "**No face was found** in this clip, so there is no expression to tell."


@dataclass(frozen=True)
class Limits:
    """What a visitor may upload."""

    megabytes: float = 200.0  # size of a file
    seconds: float = 300.0  # duration of a clip


class UploadError(ValueError):
    """A clip is not analysed. The message is one line for the visitor."""


def check_upload(video: str | os.PathLike | None, limits: Limits) -> Path:
    """The clip's path, if it can be read and is within the limits.

    Raises:
        UploadError: no clip, an unreadable one, too large or too long.
    """
    if video is None:
        raise UploadError(CHOOSE_A_CLIP)
    path = Path(video)
    megabytes = path.stat().st_size / 1e6
    if megabytes > limits.megabytes:
        raise UploadError(f"The clip has {megabytes:.0f} MB; at most {limits.megabytes:.0f} MB are taken here.")
    try:
        seconds = probe_video(path).duration
    except VideoReadingError as error:
        raise UploadError(f"The clip cannot be read: {error}") from error
    if seconds > limits.seconds:
        raise UploadError(f"The clip is {seconds:.0f} s long; at most {limits.seconds:.0f} s are taken here. Cut it.")
    return path


def mean_scores(person: dict[str, Any]) -> dict[str, float] | None:
    """Mean over a person's windows, weighted alike; None where no window shows a face."""
    scores = [window["scores"] for window in person["windows"] if window["scores"] is not None]
    if not scores:
        return None
    return {name: sum(each[name] for each in scores) / len(scores) for name in scores[0]}


def person_name(person: dict[str, Any]) -> str:
    """How a person is called on the page: by the track's number and its time."""
    return f"person {person['track']} ({person['start']:.1f}–{person['end']:.1f} s)"


def people_with_scores(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Mean scores of everybody who shows a face, by the name on the page."""
    scores = {person_name(person): mean_scores(person) for person in result["people"]}
    return {name: each for name, each in scores.items() if each is not None}


def summarise(result: dict[str, Any], note: str | None) -> str:
    """What is said above the results, in Markdown."""
    people = people_with_scores(result)
    lines = [] if note is None else [f"*{note}*"]
    if not people:
        return "\n\n".join([*lines, NO_FACE])
    for name, scores in people.items():
        best = max(scores, key=scores.__getitem__)
        lines.append(f"**{name}**: {best} ({scores[best]:.0%})")
    return "\n\n".join(lines)


class Demonstration:
    """A model with the files that it makes for one visitor after the other."""

    def __init__(self, model: str, limits: Limits, device: str = "cpu") -> None:
        loaded, processor = load_model(model, device)
        self.pipeline = FacialExpressionTimelinePipeline(model=loaded, video_processor=processor, device=device)
        self.note = DEMONSTRATION_NOTE if model == str(DEMONSTRATION_MODEL) else None
        self.limits = limits

    def analyse(self, video: str | None, people: str, folder: Path) -> tuple[dict[str, Any], dict[str, Path]]:
        """Analyses one clip.

        Returns:
            The timeline, and the files made of it in `folder`: "overlay", "timeline" and "json".

        Raises:
            UploadError: the clip is not taken or cannot be read.
        """
        path = check_upload(video, self.limits)
        try:
            mode = "single" if people == WHOLE_FRAME else "all"
            result = cast(dict[str, Any], self.pipeline(str(path), people=mode))
        except VideoReadingError as error:
            raise UploadError(f"The clip cannot be read: {error}") from error
        files = {"overlay": folder / "overlay.mp4", "timeline": folder / "timeline.png", "json": folder / "result.json"}
        write_overlay(str(path), result, files["overlay"], progress=False)
        draw_timeline(result, files["timeline"])
        write_json(files["json"], result)
        return result, files


def make_examples(folder: Path) -> list[str]:
    """Draws a clip of each of a few expressions; nobody real is shown."""
    from mtcae_dfer.hub_dataset.synthetic.acting import SyntheticCorpusConfig
    from mtcae_dfer.hub_dataset.synthetic.corpus import make_synthetic_corpus

    config = SyntheticCorpusConfig(subjects=1, takes=1, expressions=EXAMPLE_EXPRESSIONS, seed=7)
    corpus = make_synthetic_corpus(folder / "examples", config, workers=1, progress=False)
    return [str(path) for path in sorted((corpus / "videos").rglob("*.mp4"))]


def make_app(model: str | None = None, limits: Limits | None = None, device: str = "cpu") -> gradio.Blocks:
    """Builds the page.

    Args:
        model: model folder or Hub id; None = the demonstration model.
        limits: on what visitors upload.
        device: where the model runs.

    Raises:
        ImportError: gradio is not installed.
        ModelError: no such model.
    """
    gr = import_gradio()
    demonstration = Demonstration(model or str(DEMONSTRATION_MODEL), limits or Limits(), device)
    work = Path(tempfile.mkdtemp(prefix="mtcae-demo-"))
    with gr.Blocks(title="MTCAE-DFER", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(TITLE + (f"\n\n*{demonstration.note}*" if demonstration.note else ""))
        scores = gr.State({})
        with gr.Row():
            with gr.Column():
                video = gr.Video(label="Clip", sources=["upload", "webcam"], elem_id="clip", height=380)
                people = gr.Radio([EVERY_PERSON, WHOLE_FRAME], value=EVERY_PERSON, label="Analyse", elem_id="people")
                start = gr.Button("Analyse", variant="primary", elem_id="analyse")
                gr.Examples(make_examples(work), video, label="Drawn examples", elem_id="examples")
            with gr.Column():
                message = gr.Markdown(elem_id="message")
                overlay = gr.Video(label="Boxes, points and expressions", elem_id="overlay", height=320)
                person = gr.Dropdown([], label="Person", interactive=True, elem_id="person")
                bars = gr.Label(label="Expression", elem_id="scores")
        chart = gr.Image(label="Expressions over time", elem_id="timeline", type="filepath")
        download = gr.DownloadButton("Download the result (JSON)", elem_id="json", interactive=False)

        def analyse(clip: str | None, mode: str) -> dict[Any, Any]:
            try:
                result, files = demonstration.analyse(clip, mode, answer_folder(work))
            except UploadError as error:
                return cleared(str(error))
            found = people_with_scores(result)
            names = list(found)
            return {
                message: summarise(result, demonstration.note),
                overlay: str(files["overlay"]),
                scores: found,
                person: gr.Dropdown(choices=names, value=names[0] if names else None),
                bars: found[names[0]] if names else None,
                chart: str(files["timeline"]),
                download: gr.DownloadButton(value=str(files["json"]), interactive=True),
            }

        def cleared(text: str) -> dict[Any, Any]:
            empty = {overlay: None, scores: {}, person: gr.Dropdown(choices=[], value=None), bars: None, chart: None}
            return {message: text, **empty, download: gr.DownloadButton(value=None, interactive=False)}

        outputs = [message, overlay, scores, person, bars, chart, download]
        start.click(analyse, [video, people], outputs, concurrency_limit=1)
        person.input(lambda found, name: found.get(name), [scores, person], bars)
    return page


def answer_folder(parent: Path) -> Path:
    """A folder for the files of one answer. Those of old answers go: nobody is downloading them any more."""
    for folder in parent.glob("answer-*"):
        if time.time() - folder.stat().st_mtime > KEPT_SECONDS:
            shutil.rmtree(folder)
    return Path(tempfile.mkdtemp(prefix="answer-", dir=parent))


def import_gradio() -> Any:
    """The optional package gradio.

    Raises:
        ImportError: it is not installed; the message tells how to install it.
    """
    try:
        import gradio
    except ImportError as error:
        raise ImportError('the page needs gradio: install it with `pip install -e ".[demo]"`') from error
    return gradio
