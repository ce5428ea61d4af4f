"""How drawn people act: who they are, how a clip is played and recorded, and what its frames then show.

An expression reaches the picture through facial action units alone. Everything else is drawn from random streams that
never see the label: who the subject is (per subject), the recording session with its light, background, clothes, noise
and compression (per subject and take), and the performance with its timing, intensity, head movement, blinks and
speech (per slot; the clips of a subject are dealt to numbered slots at random).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mtcae_dfer.configuration_mtcae import EXPRESSIONS
from mtcae_dfer.hub_dataset.clips import EXPRESSIONS as EXPRESSIONS_WITH_CONTEMPT
from mtcae_dfer.hub_dataset.clips import OptionError
from mtcae_dfer.hub_dataset.synthetic.anatomy import (
    ACTION_UNITS,
    FaceGeometry,
    FaceIdentity,
    FacePose,
    build_face,
    draw_identity,
    face_boxes,
    place_in_frame,
)
from mtcae_dfer.hub_dataset.synthetic.drawing import Scene, paint_frames

# Action units of each emotion after EMFACS (Friesen and Ekman 1983, "EMFACS-7: Emotional Facial Action Coding System",
# unpublished manuscript; Ekman, Friesen and Hager 2002, "Facial Action Coding System: Investigator's Guide").
# Contempt's dimpler works on one side of the mouth only.
EXPRESSION_ACTION_UNITS: dict[str, tuple[int, ...]] = {
    "neutral": (),
    "happiness": (6, 12),
    "sadness": (1, 4, 15),
    "anger": (4, 5, 7, 23),
    "fear": (1, 2, 4, 5, 20, 26),
    "disgust": (9, 15, 16),
    "surprise": (1, 2, 5, 26),
    "contempt": (14,),
}

# Angle of each emotion on the circumplex of affect in degrees, set by this project after the order of Russell (1980,
# "A circumplex model of affect", Journal of Personality and Social Psychology 39): pleasure 0, excitement 45,
# arousal 90, distress 135, displeasure 180, depression 225. Neutral is the circle's centre.
CIRCUMPLEX_ANGLES: dict[str, float] = {
    "happiness": 15.0,
    "sadness": 205.0,
    "anger": 105.0,
    "fear": 120.0,
    "disgust": 145.0,
    "surprise": 70.0,
    "contempt": 165.0,
}

_IDENTITY, _SCENE, _PERFORMANCE, _SLOTS = range(4)  # numbers of the independent random streams
_GOLDEN_RATIO = 0.6180339887498949


@dataclass(frozen=True)
class SyntheticCorpusConfig:
    """What corpus to draw. The same configuration gives the same files on the same machine."""

    subjects: int = field(default=72, metadata={"help": "Number of drawn people, 1 to 999."})
    takes: int = field(default=2, metadata={"help": "Clips of each expression by each subject, 1 to 99."})
    expressions: tuple[str, ...] = field(default=EXPRESSIONS, metadata={"help": "Class names, without repeats."})
    frame_size: int = field(default=224, metadata={"help": "Width and height of the frames in pixels; even, >= 64."})
    frame_rate: int = field(default=25, metadata={"help": "Frames per second, 1 to 120."})
    min_frames: int = field(default=36, metadata={"help": "Shortest clip in frames, >= 2."})
    max_frames: int = field(default=40, metadata={"help": "Longest clip in frames, >= min_frames."})
    min_intensity: float = field(default=0.6, metadata={"help": "Weakest expression at its apex, 0 to 1."})
    max_intensity: float = field(
        default=1.0, metadata={"help": "Strongest expression at its apex, min_intensity to 1."}
    )
    min_face_width: float = field(default=0.46, metadata={"help": "Narrowest face, as a share of the frame, >= 0.2."})
    max_face_width: float = field(default=0.58, metadata={"help": "Widest face, as a share of the frame, <= 0.7."})
    # Recordings in a laboratory are framed about as tightly; larger values make a corpus that is harder to learn.
    position_reach: float = field(
        default=0.05,
        metadata={"help": "Farthest that a clip's face is off the middle, as a share of the frame, <= 0.2."},
    )
    speech_share: float = field(default=0.35, metadata={"help": "Share of clips in which the mouth talks, 0 to 1."})
    seed: int = field(default=0, metadata={"help": "Seed of every random stream, >= 0."})

    def __post_init__(self) -> None:
        object.__setattr__(self, "expressions", tuple(self.expressions))
        whole = ("subjects", "takes", "frame_size", "frame_rate", "min_frames", "max_frames", "seed")
        rules = [(name, type(getattr(self, name)) is int, "a whole number") for name in whole]
        if all(holds for _, holds, _ in rules):
            known = set(self.expressions) <= set(EXPRESSIONS_WITH_CONTEMPT)
            unique = len(set(self.expressions)) == len(self.expressions) > 0
            rules = [
                ("subjects", 1 <= self.subjects <= 999, "between 1 and 999"),
                ("takes", 1 <= self.takes <= 99, "between 1 and 99"),
                ("expressions", known and unique, f"different names out of {', '.join(EXPRESSIONS_WITH_CONTEMPT)}"),
                ("frame_size", self.frame_size >= 64 and self.frame_size % 2 == 0, "an even number of at least 64"),
                ("frame_rate", 1 <= self.frame_rate <= 120, "between 1 and 120"),
                ("min_frames", self.min_frames >= 2, "at least 2"),
                ("max_frames", self.max_frames >= self.min_frames, f"at least min_frames ({self.min_frames})"),
                ("min_intensity", 0.0 <= self.min_intensity <= 1.0, "between 0 and 1"),
                ("max_intensity", self.min_intensity <= self.max_intensity <= 1.0, "between min_intensity and 1"),
                ("min_face_width", 0.2 <= self.min_face_width <= 0.7, "between 0.2 and 0.7"),
                ("position_reach", 0.0 <= self.position_reach <= 0.2, "between 0 and 0.2"),
                ("max_face_width", self.min_face_width <= self.max_face_width <= 0.7, "between min_face_width and 0.7"),
                ("speech_share", 0.0 <= self.speech_share <= 1.0, "between 0 and 1"),
                ("seed", self.seed >= 0, "at least 0"),
            ]
        for name, holds, rule in rules:
            if not holds:
                raise OptionError(name, getattr(self, name), f"must be {rule}")


@dataclass(frozen=True, eq=False)
class ClipTruth:
    """What was drawn in one clip. Boxes and points are divided by the frame's width and height, float32."""

    path: str  # relative to the corpus's videos folder, with forward slashes
    expression: str
    subject: str  # "S01", "S02", ...
    take: int
    action_units: np.ndarray  # (F, len(ACTION_UNITS)) visible intensities 0..1, speech and blinks included
    expression_strength: np.ndarray  # (F,) onset, apex and offset of the expression, 0..1
    speech_opening: np.ndarray  # (F,) how far speech opens the mouth, 0..1
    valence: np.ndarray  # (F,) -1..1
    arousal: np.ndarray  # (F,) -1..1
    face_boxes: np.ndarray  # (F, 4) x1, y1, x2, y2
    face_landmarks: np.ndarray  # (F, 5, 2) viewer's left eye, right eye, nose tip, left and right corner of the mouth


@dataclass(frozen=True, eq=False)
class DrawnClip:
    """Frames (F, H, W, 3), uint8 RGB, and what they show."""

    frames: np.ndarray
    truth: ClipTruth
    scene: Scene


@dataclass(frozen=True, eq=False)
class Performance:
    """How a clip is acted, apart from which expression it is. Arrays run over the clip's F frames."""

    strength: np.ndarray  # (F,) onset, apex and offset, 0..1, before the intensity
    intensity: float  # strength of the expression at its apex
    unit_gain: np.ndarray  # (A,) how much more or less each action unit joins in
    unit_lag: np.ndarray  # (A,) delay of each action unit in frames
    blink: np.ndarray  # (F,) closure of the lids
    speech: np.ndarray  # (F,) opening of the talking mouth
    pose: FacePose
    gaze: np.ndarray  # (F, 2) shift of the irises
    dimple_side: int  # side on which action unit 14 works, -1 or 1


# ---------------------------------------------------------------------------------------------------------------
# Random streams: none of these functions knows the expression


def subject_identity(config: SyntheticCorpusConfig, subject: int) -> FaceIdentity:
    """The person with this number (from 1); skin tones are spread evenly over the subjects."""
    random = np.random.default_rng([config.seed, subject, _IDENTITY])
    start = np.random.default_rng([config.seed, _IDENTITY]).random()
    return draw_identity(random, tone=float((start + subject * _GOLDEN_RATIO) % 1.0))


def take_scene(config: SyntheticCorpusConfig, subject: int, take: int) -> Scene:
    """The session in which a subject's take is recorded: the same for all its expressions."""
    random = np.random.default_rng([config.seed, subject, _SCENE, take])
    uniform = random.uniform
    base = uniform(40, 205) + uniform(-30, 30, 3)
    warmth = uniform(-0.06, 0.06)
    return Scene(
        light_azimuth=uniform(-0.85, 0.85),
        light_elevation=uniform(-0.1, 0.7),
        light_strength=uniform(0.30, 0.65),
        exposure=uniform(0.88, 1.06),
        light_tint=(1.0 + warmth, 1.0, 1.0 - warmth),
        background_from=tuple(np.clip(base, 0, 255)),
        background_to=tuple(np.clip(base + uniform(-60, 60) + uniform(-20, 20, 3), 0, 255)),
        background_angle=uniform(0, 2 * np.pi),
        background_shapes=int(random.integers(0, 8)),
        background_blur=uniform(0.01, 0.05),
        shirt_colour=tuple(uniform(25, 225, 3)),
        noise=uniform(1.0, 4.5),
        compression=int(random.integers(20, 30)),
        paint_seed=int(random.integers(2**31)),
    )


def draw_performance(config: SyntheticCorpusConfig, subject: int, slot: int) -> Performance:
    """How the subject acts in the clip that lies in this slot."""
    random = np.random.default_rng([config.seed, subject, _PERFORMANCE, slot])
    frame_count = int(random.integers(config.min_frames, config.max_frames + 1))
    seconds = np.arange(frame_count) / config.frame_rate
    talks = random.random() < config.speech_share
    # Onset, apex and offset, with smooth flanks.
    position = np.linspace(0.0, 1.0, frame_count)
    onset_start, onset_length = random.uniform(-0.02, 0.14), random.uniform(0.10, 0.26)
    offset_start, offset_length = random.uniform(0.72, 0.98), random.uniform(0.12, 0.30)
    onset = _smooth_step((position - onset_start) / onset_length)
    intensity = random.uniform(config.min_intensity, config.max_intensity)
    unit_gain = random.uniform(0.8, 1.1, len(ACTION_UNITS))
    unit_lag = random.uniform(0.0, 2.5, len(ACTION_UNITS))
    # A blink about every three seconds, a quarter of a second long.
    blink = np.zeros_like(seconds)
    time = random.exponential(2.0)
    while time < seconds[-1]:
        blink = np.maximum(blink, np.clip(1.25 - np.abs(seconds - time) / 0.11, 0.0, 1.0))
        time += 0.5 + random.exponential(2.5)
    # A stretch of syllables.
    rate, phase = random.uniform(2.5, 4.5), random.uniform(0, 1)
    syllables = 0.5 - 0.5 * np.cos(2 * np.pi * (rate * seconds + phase))
    loudness = random.uniform(0.25, 0.6) * (0.75 + drift(random, seconds, 0.25))
    start, length = random.uniform(0.0, 0.4) * seconds[-1], random.uniform(0.5, 1.0) * seconds[-1]
    talking = _smooth_step((seconds - start) / 0.12) * (1.0 - _smooth_step((seconds - start - length) / 0.12))
    return Performance(
        strength=onset * (1.0 - _smooth_step((position - offset_start) / offset_length)),
        intensity=intensity,
        unit_gain=unit_gain,
        unit_lag=unit_lag,
        blink=blink,
        speech=np.clip(syllables * loudness * talking, 0.0, 1.0) * talks,
        pose=_draw_pose(config, random, seconds),
        gaze=np.stack([drift(random, seconds, 0.03) for _ in range(2)], axis=-1) * (1.0, 0.4),
        dimple_side=int(random.choice((-1, 1))),
    )


def clip_slot(config: SyntheticCorpusConfig, subject: int, expression: str, take: int) -> int:
    """The slot that a clip was dealt. This shuffle is the only random draw that uses the label, and shows nothing."""
    deal = np.random.default_rng([config.seed, subject, _SLOTS]).permutation(len(config.expressions) * config.takes)
    return int(deal[config.expressions.index(expression) * config.takes + take - 1])


def _smooth_step(position: np.ndarray) -> np.ndarray:
    position = np.clip(position, 0.0, 1.0)
    return position * position * (3.0 - 2.0 * position)


def drift(
    random: np.random.Generator, time: np.ndarray, reach: float, rates: tuple[float, float] = (0.12, 0.75)
) -> np.ndarray:
    """A slow smooth movement (F,) within -reach..reach: three waves of the given rates, in cycles per unit of time."""
    cycles, phases = random.uniform(*rates, 3), random.uniform(0, 2 * np.pi, 3)
    shares = random.dirichlet((1.0, 1.0, 1.0))
    waves = np.sin(2 * np.pi * cycles[:, None] * time + phases[:, None])  # (3, F)
    return reach * (shares[:, None] * waves).sum(axis=0)


def _draw_pose(config: SyntheticCorpusConfig, random: np.random.Generator, seconds: np.ndarray) -> FacePose:
    """Head position, size and turn through the clip; the face stays inside the frame."""
    half_width = 0.5 * random.uniform(config.min_face_width, config.max_face_width)
    room_x = min(0.5 - 1.12 * half_width - 0.03, config.position_reach)
    low, high = 0.98 * half_width + 0.03, 1.0 - 1.66 * half_width - 0.03  # of the point between the eyes
    middle, room_y = 0.5 * (low + high), min(0.5 * (high - low), 0.8 * config.position_reach)
    return FacePose(
        centre_x=0.5 + random.uniform(-room_x, room_x) + drift(random, seconds, 0.03),
        centre_y=middle + random.uniform(-room_y, room_y) + drift(random, seconds, 0.02),
        half_width=half_width * (1.0 + drift(random, seconds, 0.025)),
        roll=random.uniform(-0.06, 0.06) + drift(random, seconds, 0.05),
        yaw=random.uniform(-0.14, 0.14) + drift(random, seconds, 0.08),
        pitch=random.uniform(-0.08, 0.08) + drift(random, seconds, 0.05),
    )


# ---------------------------------------------------------------------------------------------------------------
# One clip


def draw_clip(config: SyntheticCorpusConfig, subject: int, expression: str, take: int) -> DrawnClip:
    """Draws one clip before compression. `subject` and `take` count from 1, as in the file names.

    Raises:
        ValueError: the subject, expression or take is not one of the configuration's.
    """
    truth, geometry, performance = _act(config, subject, expression, take)
    scene = take_scene(config, subject, take)
    identity = subject_identity(config, subject)
    frames = paint_frames(identity, geometry, performance.pose, scene, config.frame_size)
    return DrawnClip(frames, truth, scene)


def clip_truth(config: SyntheticCorpusConfig, subject: int, expression: str, take: int) -> ClipTruth:
    """What `draw_clip` shows, without drawing it."""
    return _act(config, subject, expression, take)[0]


def _act(
    config: SyntheticCorpusConfig, subject: int, expression: str, take: int
) -> tuple[ClipTruth, FaceGeometry, Performance]:
    if not 1 <= subject <= config.subjects:
        raise ValueError(f"subject is {subject!r}, but the corpus has subjects 1 to {config.subjects}.")
    if expression not in config.expressions:
        raise ValueError(f"expression is {expression!r}, but the corpus has {', '.join(config.expressions)}.")
    if not 1 <= take <= config.takes:
        raise ValueError(f"take is {take!r}, but the corpus has takes 1 to {config.takes}.")
    performance = draw_performance(config, subject, clip_slot(config, subject, expression, take))
    units = action_unit_track(performance, expression)
    geometry = build_face(
        subject_identity(config, subject), units, performance.pose, performance.gaze, performance.dimple_side
    )
    strength = performance.intensity * performance.strength * (expression != "neutral")
    angle = np.deg2rad(CIRCUMPLEX_ANGLES.get(expression, 0.0))
    truth = ClipTruth(
        path=clip_path(subject, expression, take),
        expression=expression,
        subject=subject_name(subject),
        take=take,
        action_units=units.astype(np.float32),
        expression_strength=strength.astype(np.float32),
        speech_opening=performance.speech.astype(np.float32),
        valence=(np.cos(angle) * strength).astype(np.float32),
        arousal=(np.sin(angle) * strength).astype(np.float32),
        face_boxes=face_boxes(geometry, performance.pose).astype(np.float32),
        face_landmarks=place_in_frame(geometry.landmarks, performance.pose).astype(np.float32),
    )
    return truth, geometry, performance


def action_unit_track(performance: Performance, expression: str) -> np.ndarray:
    """Visible intensities (F, A): the expression's units, joined by blinks (45) and speech (25 and 26)."""
    frames = np.arange(len(performance.strength), dtype=np.float64)
    track = np.zeros((len(frames), len(ACTION_UNITS)))
    for unit in EXPRESSION_ACTION_UNITS[expression]:
        column = ACTION_UNITS.index(unit)
        delayed = np.interp(frames - performance.unit_lag[column], frames, performance.strength)
        track[:, column] = np.clip(performance.intensity * performance.unit_gain[column] * delayed, 0.0, 1.0)
    for unit, movement in ((45, performance.blink), (25, 1.2 * performance.speech), (26, 0.6 * performance.speech)):
        column = ACTION_UNITS.index(unit)
        track[:, column] = 1.0 - (1.0 - track[:, column]) * (1.0 - np.clip(movement, 0.0, 1.0))
    return track


def subject_name(subject: int) -> str:
    return f"S{subject:02d}"


def clip_path(subject: int, expression: str, take: int) -> str:
    """Path of a clip relative to the corpus's videos folder."""
    return f"{expression}/{subject_name(subject)}_{expression}_T{take}.mp4"
