"""`mtcae demo`: the page in a real browser, and what it says of clips that it does not take."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mtcae_dfer.inference import page as page_module
from mtcae_dfer.inference.models import DEMONSTRATION_MODEL, DEMONSTRATION_NOTE, trained_on
from mtcae_dfer.inference.page import (
    CHOOSE_A_CLIP,
    EVERY_PERSON,
    ONE_PERSON,
    Answer,
    Demonstration,
    Limits,
    UploadError,
    answer_folder,
    check_upload,
    make_app,
    people_with_scores,
    serve_page,
    summarise,
)
from mtcae_dfer.video_reading import FrameStream
from tests.support.video_files import noisy_frames, write_lossless_video, write_text_as_video, write_video

WAIT = 120.0  # seconds that the browser is given on a busy machine
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


def a_person(track: int, *scores: dict[str, float] | None) -> dict[str, Any]:
    """One person of a timeline, with a window for every dictionary of scores."""
    windows = [{"start": 0.0, "end": 1.0, "face_coverage": 1.0, "scores": each, "frames": []} for each in scores]
    return {"track": track, "start": 0.0, "end": 2.0, "windows": windows}


def test_scores_are_means_over_the_windows_with_a_face() -> None:
    people = [a_person(1, {"anger": 0.2, "fear": 0.8}, None, {"anger": 0.6, "fear": 0.4}), a_person(2, None)]
    found = people_with_scores({"people": people})
    assert list(found) == ["person 1 (0.0–2.0 s)"]
    assert found["person 1 (0.0–2.0 s)"] == pytest.approx({"anger": 0.4, "fear": 0.6})
    told = summarise(Answer({"people": people}, {1: Image.new("RGB", (8, 8))}), "What <it> was trained on.")
    assert "<strong>person 1 (0.0–2.0 s)</strong>: fear (60%)" in told and "What &lt;it&gt; was trained on." in told
    assert 'alt="face of person 1 (0.0–2.0 s)"' in told and "person 2" not in told


def test_a_clip_without_a_face_is_told() -> None:
    assert "No face was found" in summarise(Answer({"people": [a_person(1, None)]}), "")
    assert "No face was found" in summarise(Answer({"people": []}), "a note")


def test_a_damaged_clip_is_told() -> None:
    told = summarise(Answer({"people": [a_person(1, {"joy": 1.0})], "warning": "'<a>.mp4' is cut off"}), "")
    assert "&#x27;&lt;a&gt;.mp4&#x27; is cut off" in told and "joy" in told


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (Limits(megabytes=0.0001), r"has 0 MB; at most 0 MB"),
        (Limits(seconds=0.5), r"is 1 s long; at most 0 s are taken here\. Cut it\."),
    ],
)
def test_clips_beyond_the_limits_are_refused(tmp_path: Path, limits: Limits, told: str) -> None:
    clip = write_video(tmp_path / "clip.mp4", noisy_frames(30))
    with pytest.raises(UploadError, match=told):
        check_upload(clip, limits)


def test_no_clip_and_no_video_are_told(tmp_path: Path) -> None:
    with pytest.raises(UploadError, match=CHOOSE_A_CLIP):
        check_upload(None, Limits())
    (tmp_path / "empty.mp4").touch()
    for path in (write_text_as_video(tmp_path / "text.mp4"), tmp_path / "empty.mp4"):
        with pytest.raises(UploadError, match="The clip cannot be read"):
            check_upload(path, Limits())


@pytest.mark.parametrize("people", [EVERY_PERSON, ONE_PERSON])
def test_an_answer_is_files_and_a_face(small_run: Path, small_corpus: Path, tmp_path: Path, people: str) -> None:
    clip = sorted((small_corpus / "videos").rglob("*.mp4"))[0]
    answer = Demonstration(str(small_run), Limits()).analyse(str(clip), people, tmp_path)
    assert json.loads(answer.files["json"].read_text()) == json.loads(json.dumps(answer.timeline))
    assert len(people_with_scores(answer.timeline)) == 1 and list(answer.faces) == [1]
    assert set(answer.files) == {"overlay", "wide", "narrow", "json"}
    assert all(file.stat().st_size > 0 for file in answer.files.values())
    assert 0.5 > Image.open(answer.files["narrow"]).width / Image.open(answer.files["wide"]).width > 0.3
    info = FrameStream(answer.files["overlay"]).info
    assert min(info.width, info.height) == 480  # of 224: letters on a small video cannot be read


def test_what_a_model_was_trained_on_is_told_of_any_model(small_run: Path, tmp_path: Path) -> None:
    assert trained_on(str(DEMONSTRATION_MODEL)) == DEMONSTRATION_NOTE
    known = json.loads((small_run / "report.json").read_text())
    assert f"was trained on {known['dataset']['name']}: {known['data']}." in trained_on(str(small_run))
    assert "does not say what it was trained on" in trained_on(str(tmp_path))
    (tmp_path / "results.json").write_text(json.dumps({"data": "drawn faces", "dataset": {"name": "mine"}}))
    assert trained_on(str(tmp_path)).endswith("On real people its expressions mean nothing.")


def test_files_of_old_answers_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = answer_folder(tmp_path)
    assert answer_folder(tmp_path) != old and old.exists()
    begin = time.time()
    monkeypatch.setattr(time, "time", lambda: begin + 7200)
    answer_folder(tmp_path)
    assert not old.exists()


@pytest.mark.parametrize("end", [None, KeyboardInterrupt(), OSError("the port is taken")])
def test_with_the_server_its_folder_goes_however_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: BaseException | None
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    handlers: dict[int, Any] = {}
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    served: list[tuple[Path, dict]] = []

    class Page:
        def __init__(self, folder: Path, model: str, device: str) -> None:
            assert (model, device) == ("a model", "cpu")
            (answer_folder(folder) / "overlay.mp4").write_bytes(b"a visitor")
            self.folder = folder

        def launch(self, prevent_thread_lock: bool, **address: object) -> None:
            assert prevent_thread_lock
            served.append((self.folder, address))
            if end is not None:
                raise end
            handlers[signal.SIGTERM](signal.SIGTERM, None)

        def close(self) -> None:
            assert self.folder.exists()

    monkeypatch.setattr(page_module, "make_app", Page)
    if end is None:
        serve_page("a model", server_port=7860)
    else:
        with pytest.raises(type(end)):
            serve_page("a model", server_port=7860)
    ((folder, address),) = served
    assert folder.parent == tmp_path and address == {"server_port": 7860}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_told_to_end_leaves_nothing_of_its_visitors(tmp_path: Path, number: signal.Signals) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "mtcae_dfer.commands.command_line", "demo", "--port", str(port)]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([*words, "--model", str(DEMONSTRATION_MODEL)], env=environment) as process:
        try:
            end = time.monotonic() + WAIT
            while time.monotonic() < end and process.poll() is None:
                with socket.socket() as door:
                    if door.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.2)
            (folder,) = tmp_path.glob("mtcae-demo-*")
            (answer_folder(folder) / "overlay.mp4").write_bytes(b"a visitor")
            process.send_signal(number)
            assert process.wait(WAIT) in (0, 130)  # 130: interrupted while it still began
        finally:
            process.kill()
    assert list(tmp_path.glob("mtcae-demo-*")) == []


@pytest.fixture(scope="module")
def page(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page that is being served."""
    app = make_app(tmp_path_factory.mktemp("page"), str(small_run))
    app.launch(prevent_thread_lock=True, server_name="127.0.0.1", quiet=True)
    yield app.local_url
    app.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real Chromium without a window."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("chromium and chromedriver are not installed")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(word)
    options.add_argument("--window-size=1280,1500")
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def wait_for(browser: Any, condition: Callable[[], Any]) -> Any:
    """The first true answer, while the page is built up and changed."""
    from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    ignored = (NoSuchElementException, StaleElementReferenceException)
    return WebDriverWait(browser, WAIT, ignored_exceptions=ignored).until(lambda _: condition())


def upload(browser: Any, page: str, clip: Path) -> None:
    """Opens the page, chooses a clip and asks for the answer."""
    browser.get(page)
    wait_for(browser, lambda: browser.find_elements("css selector", "#clip input[type=file]"))[0].send_keys(str(clip))
    wait_for(browser, lambda: browser.find_elements("css selector", "#clip video"))
    browser.find_element("id", "analyse").click()


def text_of(browser: Any, name: str) -> str:
    """The visible text of a part of the page."""
    return browser.find_element("id", name).text


def test_a_visitor_uploads_a_clip_and_reads_the_answer(
    browser: Any, page: str, small_corpus: Path, tmp_path: Path
) -> None:
    upload(browser, page, sorted((small_corpus / "videos").rglob("*.mp4"))[0])
    wait_for(browser, lambda: "person 1" in text_of(browser, "message"))
    scores = wait_for(browser, lambda: text_of(browser, "scores"))
    assert "neutral" in scores and "happiness" in scores and "%" in scores
    assert wait_for(browser, lambda: browser.find_elements("css selector", "#overlay video"))
    chart = wait_for(browser, lambda: browser.find_element("css selector", "#timeline img"))
    wait_for(browser, lambda: browser.execute_script("return arguments[0].naturalWidth", chart) > 100)
    assert browser.save_screenshot(str(tmp_path / "page.png"))


def test_on_a_telephone_the_result_comes_before_the_examples_and_nothing_is_wider_than_the_screen(
    browser: Any, page: str, small_corpus: Path
) -> None:
    screen = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        upload(browser, page, sorted((small_corpus / "videos").rglob("*.mp4"))[0])
        wait_for(browser, lambda: "person 1" in text_of(browser, "message"))
        chart = wait_for(browser, lambda: browser.find_element("css selector", "#timeline img"))
        wait_for(browser, lambda: browser.execute_script("return arguments[0].naturalWidth", chart) > 100)
        # Letters of nine points of the narrow chart are at least eight pixels high on this screen.
        shown, drawn = (
            browser.execute_script(f"return arguments[0].{name}Width", chart) for name in ("client", "natural")
        )
        assert shown / drawn * 9 / 72 * 110 >= 8
        tops = [browser.find_element("id", name).rect["y"] for name in ("analyse", "message", "timeline", "examples")]
        assert tops == sorted(tops)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_everything_that_can_be_used_has_a_name_for_screen_readers(browser: Any, page: str, small_corpus: Path) -> None:
    upload(browser, page, sorted((small_corpus / "videos").rglob("*.mp4"))[0])
    wait_for(browser, lambda: "person 1" in text_of(browser, "message"))
    wait_for(browser, lambda: browser.find_elements("css selector", "#overlay video"))
    used = browser.find_elements("css selector", "button, input, select, textarea, a, video, img")
    nameless = [
        each.get_attribute("outerHTML")[:200] for each in used if each.is_displayed() and not each.accessible_name
    ]
    assert nameless == [] and len(used) > 10
    assert browser.find_element("css selector", "html").get_attribute("lang") == "en"


def test_two_visitors_at_once_get_each_their_own_answer(page: str, small_corpus: Path, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file

    noise = write_video(tmp_path / "noise.mp4", noisy_frames(30, 64, 64))
    clips = [sorted((small_corpus / "videos").rglob("*.mp4"))[0], noise] * 2

    def ask(clip: Path) -> str:
        return Client(page, verbose=False).predict(handle_file(str(clip)), EVERY_PERSON, api_name="/analyse")[0]

    with ThreadPoolExecutor(len(clips)) as pool:
        answers = list(pool.map(ask, clips))
    assert ["person 1" in answer for answer in answers] == [True, False, True, False]
    assert ["No face was found" in answer for answer in answers] == [False, True, False, True]


def test_a_visitor_is_told_that_there_is_no_face(browser: Any, page: str, tmp_path: Path) -> None:
    upload(browser, page, write_video(tmp_path / "noise.mp4", noisy_frames(30, 64, 64)))
    wait_for(browser, lambda: "No face was found" in text_of(browser, "message"))


def test_a_visitor_without_a_clip_is_told_to_choose_one(browser: Any, page: str) -> None:
    browser.get(page)
    wait_for(browser, lambda: browser.find_element("id", "analyse")).click()
    wait_for(browser, lambda: CHOOSE_A_CLIP in text_of(browser, "message"))


def test_the_demonstration_model_says_that_it_knows_drawn_faces_only(small_corpus: Path, tmp_path: Path) -> None:
    demonstration = Demonstration(str(DEMONSTRATION_MODEL), Limits())
    assert demonstration.note == DEMONSTRATION_NOTE
    noise = write_lossless_video(tmp_path / "noise.mkv", noisy_frames(20, 64, 64))
    answer = demonstration.analyse(str(noise), EVERY_PERSON, tmp_path)
    assert DEMONSTRATION_NOTE in summarise(answer, demonstration.note)
