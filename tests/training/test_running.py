"""What the scripts share: one command a folder, resuming with the same options and processes, errors as one line."""

import platform
import warnings
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers.modeling_layers import GradientCheckpointingLayer

from mtcae_dfer.training import running
from mtcae_dfer.training.arguments import OptimisationArguments, RunArguments, parse_run_arguments
from mtcae_dfer.training.checkpoints import CheckpointError, Progress, save_checkpoint
from mtcae_dfer.training.optimisation import computes_in_bfloat16
from mtcae_dfer.training.running import (
    checkpoint_activations,
    claim_output_dir,
    held_folder,
    run_script,
    start_or_resume,
)
from tests.support.tiny_models import tiny_model

CPU_FLAGS = Path("/proc/cpuinfo")


@pytest.fixture()
def accelerator() -> Accelerator:
    accelerator = Accelerator(cpu=True)
    accelerator.prepare(torch.nn.Linear(2, 2))
    return accelerator


def arguments_for(folder: Path, *more: str) -> RunArguments:
    return parse_run_arguments(["--output_dir", str(folder), "--resume_from_checkpoint", "latest", *more])


def resume(accelerator: Accelerator, folder: Path, stored: Progress, *more: str) -> Progress:
    save_checkpoint(accelerator, folder / "checkpoints", vars(stored), keep=1)
    return start_or_resume(accelerator, arguments_for(folder, *more), folder, Progress, lambda state: None)


def test_a_run_is_resumed_by_as_many_processes_as_began_it(accelerator: Accelerator, tmp_path: Path) -> None:
    options = arguments_for(tmp_path).to_dict()
    with pytest.raises(CheckpointError, match="made by 2 processes, and now there are 1"):
        resume(accelerator, tmp_path, Progress(epoch=3, options=options, processes=2))
    assert resume(accelerator, tmp_path, Progress(epoch=3, options=options, processes=1)).epoch == 3
    changed = resume(
        accelerator,
        tmp_path,
        Progress(epoch=3, options=options, processes=2),
        *("--resume_with_changed_options", "true"),
    )
    assert changed.processes == 1


def test_a_checkpoint_of_old_does_not_know_todays_options_and_is_resumed(
    accelerator: Accelerator, tmp_path: Path
) -> None:
    options = {name: value for name, value in arguments_for(tmp_path).to_dict().items() if name != "face_crop"}
    assert resume(accelerator, tmp_path, Progress(epoch=1, options=options)).epoch == 1
    with pytest.raises(CheckpointError, match="face_crop False -> True"):
        resume(accelerator, tmp_path, Progress(epoch=1, options=options), "--face_crop", "true")


def test_a_second_command_in_a_folder_is_refused_while_the_first_one_works(tmp_path: Path) -> None:
    with held_folder(tmp_path / "run"):
        with pytest.raises(ValueError, match="another command is writing this folder"):
            with held_folder(tmp_path / "run"):
                pass
    assert list((tmp_path / "run").iterdir()) == []
    with held_folder(tmp_path / "run"):
        pass


def test_only_what_a_run_writes_is_replaced(accelerator: Accelerator, tmp_path: Path) -> None:
    for name in ("report.json", "config.json", "mine.txt"):
        (tmp_path / name).write_text("{}")
    options = parse_run_arguments(["--overwrite_output_dir", "true"]).optimisation
    claim_output_dir(tmp_path, options, accelerator, ("checkpoints",), ("config.json",))
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (ValueError("two\nlines"), 2, "job.py: error: two lines"),
        (torch.OutOfMemoryError("CUDA out of memory"), 2, "--gradient_checkpointing true"),
        (KeyboardInterrupt(), 130, "--resume_from_checkpoint latest"),
    ],
)
def test_errors_are_one_line(tmp_path: Path, capsys, error: BaseException, status: int, told: str) -> None:
    def work(arguments: RunArguments) -> None:
        raise error

    def parse(words: object) -> RunArguments:
        return arguments_for(tmp_path / "run")

    assert run_script("job.py", parse, work, []) == status
    assert told in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_fault_of_the_program_is_no_message_for_the_user(tmp_path: Path) -> None:
    def work(arguments: RunArguments) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run_script("job.py", lambda words: arguments_for(tmp_path / "run"), work, [])


def test_activations_are_checkpointed_without_a_warning() -> None:
    model = tiny_model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoint_activations(model)
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    assert layers and all(layer.gradient_checkpointing for layer in layers)


@pytest.mark.skipif(platform.machine() != "x86_64" or not CPU_FLAGS.is_file(), reason="flags of an x86 Linux")
def test_whether_a_processor_computes_in_bfloat16_is_what_its_flags_say() -> None:
    flags = set(CPU_FLAGS.read_text().split())
    assert computes_in_bfloat16(torch.device("cpu")) == bool(flags & {"amx_bf16", "amx_tile", "avx512_bf16"})


@pytest.mark.parametrize(("bf16", "computes"), [(True, False), (True, True), (False, False)])
def test_bfloat16_on_a_processor_without_it_is_told_to_be_slow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path, bf16: bool, computes: bool
) -> None:
    AcceleratorState._reset_state()  # one process has one precision
    monkeypatch.setattr(running, "computes_in_bfloat16", lambda device: computes)
    running.make_accelerator(OptimisationArguments(output_dir=str(tmp_path), bf16=bf16))
    told = "--bf16 true: this device has no instructions for it; --bf16 false is several times as fast."
    assert (told in capsys.readouterr().out) == (bf16 and not computes)
    AcceleratorState._reset_state()
