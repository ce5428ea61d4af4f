"""How tests start a run of training/run.py."""

from pathlib import Path

import yaml


def words_of(dataset: Path, output: Path, options: dict) -> list[str]:
    """The command line of a run on a data set, with its options in a YAML file beside the output."""
    output.parent.mkdir(parents=True, exist_ok=True)
    file = output.parent / f"{output.name}.yaml"
    file.write_text(yaml.safe_dump(options))
    return ["--dataset", str(dataset), "--output_dir", str(output), "--config", str(file)]
