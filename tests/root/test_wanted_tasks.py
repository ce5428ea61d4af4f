"""`model(..., tasks=[…])`: the same answers for less work, whatever structure joins the tasks."""

from itertools import chain, combinations

import pytest
import torch

from mtcae_dfer import MTCAEForMultiTaskVideo
from tests.support.tiny_models import EXPRESSION_TASK, random_clips, random_labels, tiny_model

TASKS = ("face_box", "face_landmarks", "expression")
SUBSETS = list(chain.from_iterable(combinations(TASKS, count) for count in (1, 2, 3)))
STRUCTURES = ["non_fully_shared", "fully_shared", "cascaded", "mtformer", "mnc", "mtl_er"]
# By structure and wanted tasks: tasks whose decoder (stage, branch, cross-task blocks) has to run.
NEEDED = {
    "cascaded": lambda wanted: TASKS[: 1 + max(map(TASKS.index, wanted))],
    "mtl_er": lambda wanted: TASKS if "expression" in wanted else wanted,
}
OWN_PARTS = {"mtformer": "cross_layers", "mtl_er": "branches"}


def model_of(structure: str, **overrides) -> MTCAEForMultiTaskVideo:
    width = {"decoder_hidden_size": 24} if structure == "mtl_er" else {}
    return tiny_model(structure=structure, **width, **overrides)


def parts_that_run(modules: torch.nn.ModuleDict, model: MTCAEForMultiTaskVideo, tasks: tuple[str, ...]) -> set[str]:
    """Names of the parts that are called for these tasks."""
    ran: set[str] = set()
    hooks = [part.register_forward_hook(lambda *_, name=name: ran.add(name)) for name, part in modules.items()]
    model(random_clips(), tasks=tasks)
    for hook in hooks:
        hook.remove()
    return ran


@pytest.mark.parametrize("structure", STRUCTURES)
@torch.no_grad()
def test_what_is_asked_for_is_what_all_tasks_would_have_given(structure: str) -> None:
    model, clips = model_of(structure), random_clips()
    whole = model(clips).task_outputs
    for wanted in SUBSETS:
        output = model(clips, tasks=wanted)
        assert set(output.task_outputs) == set(wanted)
        for name in wanted:
            torch.testing.assert_close(output.task_outputs[name], whole[name], rtol=1e-5, atol=1e-5)
        assert (output.logits is None) == ("expression" not in wanted)
        assert (output.face_boxes is None) == ("face_box" not in wanted)


@pytest.mark.parametrize("structure", [name for name in STRUCTURES if name != "mnc"])
@torch.no_grad()
def test_no_decoder_and_no_head_runs_for_nothing(structure: str) -> None:
    model = model_of(structure)
    own = getattr(model.structure, OWN_PARTS.get(structure, "decoders"))
    for wanted in SUBSETS:
        assert parts_that_run(model.heads, model, wanted) == set(wanted)
        assert parts_that_run(own, model, wanted) == set(NEEDED.get(structure, lambda wanted: wanted)(wanted))


@torch.no_grad()
def test_a_stage_of_mnc_runs_with_those_before_it_alone() -> None:
    model = model_of("mnc")
    assert parts_that_run(model.heads, model, ("face_box",)) == {"face_box"}
    assert parts_that_run(model.heads, model, ("face_landmarks",)) == {"face_box", "face_landmarks"}
    assert parts_that_run(model.heads, model, ("expression",)) == set(TASKS)


def test_losses_of_the_tasks_that_are_asked_for_are_those_of_all_tasks() -> None:
    model, labels = model_of("cascaded"), random_labels()
    whole = model(random_clips(), **labels).task_losses
    box = model(random_clips(), face_boxes=labels["face_boxes"], face_found=labels["face_found"], tasks=["face_box"])
    assert set(box.task_losses) == {"face_box"}
    torch.testing.assert_close(box.task_losses["face_box"], whole["face_box"])


@pytest.mark.parametrize("asked", [[], ["age"], "expression"])
def test_unknown_tasks_and_labels_of_tasks_that_are_not_asked_for_are_refused(asked) -> None:
    model = tiny_model(structure="single_task", tasks=[EXPRESSION_TASK])
    with pytest.raises(ValueError, match="give a list of some of this model's tasks, expression"):
        model(random_clips(), tasks=asked)
    with pytest.raises(ValueError, match="there are labels of expression; leave tasks out"):
        model_of("cascaded")(random_clips(), labels=random_labels()["labels"], tasks=["face_box"])
