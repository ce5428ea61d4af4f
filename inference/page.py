"""`mtcae demo`: a page for trying a model. A clip or a recording in, faces and expressions over time out.

Without a model it takes the one of this repository, which was trained on stills of real faces (docs/real_people.md).
"""

from __future__ import annotations

import base64
import html
import io
import os
import shutil
import signal
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from PIL import Image

from mtcae_dfer.hub_dataset.files import write_json
from mtcae_dfer.inference.annotated_video import Look, write_overlay
from mtcae_dfer.inference.faces import face_pictures
from mtcae_dfer.inference.models import PUBLISHED_MODEL, load_model, trained_on
from mtcae_dfer.inference.timeline_files import draw_timeline
from mtcae_dfer.pipeline_mtcae import FacialExpressionTimelinePipeline
from mtcae_dfer.video_reading import VideoReadingError, probe_video

if TYPE_CHECKING:
    import gradio

KEPT_SECONDS = 3600.0  # how long the files of an answer can be downloaded
EVERY_PERSON, ONE_PERSON = "every person", "one person"
EXAMPLE_EXPRESSIONS = ("happiness", "surprise", "anger")
TITLE = (
    "# Facial expressions over time\nFace boxes → five landmarks → expression, by a cascade of decoders (MTCAE-DFER)."
)
CHOOSE_A_CLIP = "Choose or record a clip first."
NO_FACE = "No face was found in this clip, so there is no expression to tell."
OVERLAY_LOOK = Look(least_side=480, letters=1 / 24)  # the page shows it small
CHART_WIDTHS = {"wide": 10.0, "narrow": 4.2}  # inches, for pages and for telephones
STYLE = """
.people { display: flex; flex-wrap: wrap; gap: 0.75rem; list-style: none; padding: 0; margin: 0; }
.people li, .person { display: flex; align-items: center; gap: 0.6rem; margin: 0; }
.people img, .person img { width: 3.5rem; height: 3.5rem; border-radius: 0.5rem; object-fit: cover; }
#timeline img { width: 100%; border-radius: 0.5rem; }
"""

# Gradio gives its videos no names that a screen reader could read.
NAME_THE_VIDEOS = """() => {
    const names = {clip: "the clip", overlay: "the clip with boxes, points and expressions"};
    const name = () => Object.entries(names).forEach(([id, text]) =>
        document.querySelectorAll(`#${id} video`).forEach((video) => video.setAttribute("aria-label", text)));
    new MutationObserver(name).observe(document.body, {childList: true, subtree: true});
    name();
}"""


@dataclass(frozen=True)
class Limits:
    """What a visitor may upload."""

    megabytes: float = 200.0  # size of a file
    seconds: float = 300.0  # duration of a clip


class UploadError(ValueError):
    """A clip is not analysed. The message is one line for the visitor."""


@dataclass
class Answer:
    """What is known of one clip: its timeline, everybody's face by the number of the track, the files made of it."""

    timeline: dict[str, Any]
    faces: dict[int, Image.Image] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)  # "overlay", "wide", "narrow" and "json"


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


def summarise(answer: Answer, note: str) -> str:
    """What is said above the results, as HTML: everybody's face, name and strongest expression."""
    scores = people_with_scores(answer.timeline)
    rows = []
    for person in answer.timeline["people"]:
        name = person_name(person)
        if name in scores:
            best = max(scores[name], key=scores[name].__getitem__)
            told = f"<strong>{name}</strong>: {html.escape(best)} ({scores[name][best]:.0%})"
            rows.append(f"<li>{picture_of(answer.faces.get(person['track']), name)}<span>{told}</span></li>")
    found = f'<ul class="people">{"".join(rows)}</ul>' if rows else f"<p><strong>{NO_FACE}</strong></p>"
    warning = answer.timeline.get("warning")
    told = f"<p>{html.escape(warning)}</p>" if warning else ""
    return f"<p><em>{html.escape(note)}</em></p>{told}{found}"


def picture_of(face: Image.Image | None, name: str) -> str:
    """A face as an HTML picture that says whose it is; nothing where there is none."""
    if face is None:
        return ""
    stream = io.BytesIO()
    face.save(stream, "JPEG")
    return f'<img alt="face of {name}" src="data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}">'


def chart_of(answer: Answer) -> str:
    """The chart as HTML, in the layout that fits the visitor's screen, with its content in words."""
    said = "; ".join(
        f"{name}: {', '.join(f'{expression} {score:.0%}' for expression, score in scores.items())}"
        for name, scores in people_with_scores(answer.timeline).items()
    )
    wide, narrow = (base64.b64encode(answer.files[name].read_bytes()).decode() for name in ("wide", "narrow"))
    return (
        f'<picture><source media="(max-width: 640px)" srcset="data:image/png;base64,{narrow}">'
        f'<img alt="Expressions over time. Means: {html.escape(said or NO_FACE)}" src="data:image/png;base64,{wide}">'
        "</picture>"
    )


class Demonstration:
    """A model with the files that it makes for one visitor after the other."""

    def __init__(self, model: str, limits: Limits, device: str = "cpu") -> None:
        loaded, processor = load_model(model, device)
        self.pipeline = FacialExpressionTimelinePipeline(model=loaded, video_processor=processor, device=device)
        self.note = trained_on(model)
        self.limits = limits

    def analyse(self, video: str | None, people: str, folder: Path) -> Answer:
        """Analyses one clip; the files made of it are in `folder`.

        Raises:
            UploadError: the clip is not taken or cannot be read.
        """
        path = check_upload(video, self.limits)
        mode = "single" if people == ONE_PERSON else "all"
        try:
            timeline = cast(dict[str, Any], self.pipeline(str(path), people=mode))
            # The visitor knows the clip's name, and nothing of the folder that it was uploaded to.
            timeline["warning"] = timeline["warning"] and timeline["warning"].replace(str(path), path.name)
            answer = Answer(timeline)
            answer.faces = face_pictures(str(path), answer.timeline)
        except VideoReadingError as error:
            raise UploadError(f"The clip cannot be read: {error}") from error
        except FloatingPointError as error:
            raise UploadError(f"There is no answer: {error}") from error
        names = {"overlay": "overlay.mp4", "wide": "wide.png", "narrow": "narrow.png", "json": "result.json"}
        answer.files = {kind: folder / name for kind, name in names.items()}
        write_overlay(str(path), answer.timeline, answer.files["overlay"], progress=False, look=OVERLAY_LOOK)
        for layout, width in CHART_WIDTHS.items():
            draw_timeline(answer.timeline, answer.files[layout], answer.faces, width)
        write_json(answer.files["json"], answer.timeline)
        return answer


def make_examples(folder: Path) -> list[str]:
    """Draws a clip of each of a few expressions; nobody real is shown."""
    from mtcae_dfer.hub_dataset.synthetic.acting import SyntheticCorpusConfig
    from mtcae_dfer.hub_dataset.synthetic.corpus import make_synthetic_corpus

    config = SyntheticCorpusConfig(subjects=1, takes=1, expressions=EXAMPLE_EXPRESSIONS, seed=7)
    corpus = make_synthetic_corpus(folder / "examples", config, workers=1, progress=False)
    return [str(path) for path in sorted((corpus / "videos").rglob("*.mp4"))]


def serve_page(model: str | None = None, device: str = "cpu", **address: Any) -> None:
    """Serves the page until it is interrupted or told to end; what was made of visitors' clips goes with it.

    Args:
        model: model folder or Hub id; None = the model of this repository.
        device: where the model runs.
        address: Gradio's `server_name` and `server_port`.

    Raises:
        ImportError: gradio is not installed.
        ModelError: no such model.
        OSError: the port is taken.
    """
    # As by Ctrl-C: whoever runs a server ends it by SIGTERM, at which Python would leave all files where they are.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ended = threading.Event()
    with tempfile.TemporaryDirectory(prefix="mtcae-demo-", ignore_cleanup_errors=True) as folder:
        page = make_app(Path(folder), model, device=device)
        # No exceptions from here on: one that arises inside of Gradio may be lost there.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        page.launch(prevent_thread_lock=True, **address)
        ended.wait()
        page.close()


def make_app(
    folder: Path, model: str | None = None, limits: Limits | None = None, device: str = "cpu"
) -> gradio.Blocks:
    """Builds the page. What it knows of a visitor's clip belongs to that visitor; clips are analysed one by one.

    Args:
        folder: for the drawn examples and the files of answers; the caller removes it.
        model: model folder or Hub id; None = the model of this repository.
        limits: on what visitors upload.
        device: where the model runs.

    Raises:
        ImportError: gradio is not installed.
        ModelError: no such model.
    """
    gr = import_gradio()
    demonstration = Demonstration(model or str(PUBLISHED_MODEL), limits or Limits(), device)
    with gr.Blocks(title="MTCAE-DFER", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.HTML(f"<style>{STYLE}</style>")
        gr.Markdown(f"{TITLE}\n\n*{demonstration.note}*", elem_id="note")
        found = gr.State({})  # name of a person -> (scores, face as HTML)
        with gr.Row():
            with gr.Column():
                video = gr.Video(label="Clip", sources=["upload", "webcam"], elem_id="clip", height=380)
                people = gr.Radio([EVERY_PERSON, ONE_PERSON], value=EVERY_PERSON, label="Analyse", elem_id="people")
                start = gr.Button("Analyse", variant="primary", elem_id="analyse")
            with gr.Column():
                message = gr.HTML(elem_id="message")
                overlay = gr.Video(label="Boxes, points and expressions", elem_id="overlay", height=320)
                person = gr.Dropdown([], label="Person", interactive=True, elem_id="person")
                face = gr.HTML(elem_id="face", elem_classes="person")
                bars = gr.Label(label="Expression", elem_id="scores")
        chart = gr.HTML(elem_id="timeline")
        download = gr.DownloadButton("Download the result (JSON)", elem_id="json", interactive=False)
        examples = make_examples(folder)
        labels = [f"drawn {Path(example).parent.name}" for example in examples]
        gr.Examples(examples, video, label="Drawn examples", elem_id="examples", example_labels=labels)

        def analyse(clip: str | None, mode: str) -> dict[Any, Any]:
            try:
                answer = demonstration.analyse(clip, mode, answer_folder(folder))
            except UploadError as error:
                told = f"<p><strong>{html.escape(str(error))}</strong></p>"
                empty = {overlay: None, found: {}, person: gr.Dropdown(choices=[], value=None), face: "", bars: None}
                return {message: told, **empty, chart: "", download: gr.DownloadButton(value=None, interactive=False)}
            faces = {
                person_name(each): picture_of(answer.faces.get(each["track"]), person_name(each))
                for each in answer.timeline["people"]
            }
            known = {name: (scores, faces[name]) for name, scores in people_with_scores(answer.timeline).items()}
            names = list(known)
            return {
                message: summarise(answer, demonstration.note),
                overlay: str(answer.files["overlay"]),
                found: known,
                person: gr.Dropdown(choices=names, value=names[0] if names else None),
                face: known[names[0]][1] if names else "",
                bars: known[names[0]][0] if names else None,
                chart: chart_of(answer),
                download: gr.DownloadButton(value=str(answer.files["json"]), interactive=True),
            }

        def choose(known: dict[str, Any], name: str) -> tuple[Any, str]:
            return known.get(name, (None, ""))

        outputs = [message, overlay, found, person, face, bars, chart, download]
        start.click(analyse, [video, people], outputs, concurrency_limit=1)
        person.input(choose, [found, person], [bars, face])
        page.load(None, js=NAME_THE_VIDEOS)
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
