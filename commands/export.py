"""`mtcae export`: a trained model as one graph."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options; the parsed namespace's `run(namespace)` returns the exit status."""
    parser.add_argument("model", metavar="FOLDER", help="model folder or Hub id")
    parser.add_argument("output", metavar="OUT", help="folder to write; must not exist yet")
    parser.add_argument("--format", choices=("onnx", "torch-export"), default="onnx", help="default: onnx")
    parser.add_argument("--dtype", choices=("fp32", "fp16", "int8"), default="fp32", help="of the weights (fp32)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Exports and says what was written and how far it is from the PyTorch model."""
    from mtcae_dfer.release.export import export_model

    description = export_model(options.model, options.output, options.format, options.dtype)
    print(f"{options.output}: {description.format}, {description.dtype}, any number of clips at once")
    for name, difference in description.largest_difference.items():
        print(f"  {name:<16} differs from PyTorch by at most {difference:.1e} on random clips")
    return 0
