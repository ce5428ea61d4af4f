"""`benchmarks/gpu.py` rehearsed on the CPU with tiny sizes: every part runs to its table, and none costs the others."""

import re
from pathlib import Path

import gpu
import pytest


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> gpu.Settings:
    videos = tmp_path_factory.mktemp("gpu") / "drawn"
    return gpu.Settings(device="cpu", size="tiny", batch=2, repeats=1, clips=1, compiles=False, videos=videos)


@pytest.mark.parametrize("part", gpu.PARTS)
def test_every_part_ends_with_a_table_of_figures(part: str, settings: gpu.Settings, tmp_path: Path) -> None:
    assert gpu.measure([part], settings, minutes=9, folder=tmp_path) == 0
    text = (tmp_path / f"gpu_{part}_cpu_tiny.md").read_text(encoding="utf-8")
    figures = [float(figure) for figure in re.findall(r"\| (\d+\.\d+) ", text)]
    figures += [float(figure) for figure in re.findall(r"(\d+\.\d+) seconds of video a second", text)]
    assert figures and all(figure > 0 for figure in figures)


def test_a_part_that_fails_costs_no_other(monkeypatch, settings: gpu.Settings, tmp_path: Path, capsys) -> None:
    def fail(settings: gpu.Settings) -> list[str]:
        raise RuntimeError("no kernel image")

    def leave_out(settings: gpu.Settings) -> list[str]:
        raise gpu.PartLeftOut("two GPUs are needed, and there is 1")

    parts = {"first": ("First", fail), "second": ("Second", leave_out), "third": ("Third", lambda settings: ["| 1 |"])}
    monkeypatch.setattr(gpu, "PARTS", parts)
    assert gpu.measure(list(parts), settings, minutes=9, folder=tmp_path) == 1
    told = capsys.readouterr()
    assert "no kernel image" in told.err and "second: left out, two GPUs are needed" in told.out
    assert [file.name for file in tmp_path.iterdir()] == ["gpu_third_cpu_tiny.md"]


def test_no_part_begins_when_the_time_is_over(settings: gpu.Settings, tmp_path: Path, capsys) -> None:
    assert gpu.measure(["steps", "clips"], settings, minutes=0, folder=tmp_path) == 0
    assert capsys.readouterr().out.count("left out, 0 minutes are over") == 2
    assert list(tmp_path.iterdir()) == []
