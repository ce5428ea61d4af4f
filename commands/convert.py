"""`mtcae convert`: released checkpoints as model folders."""

import argparse
from dataclasses import fields


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options; the parsed namespace's `run(namespace)` returns the exit status."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="PyTorch or safetensors file")
    parser.add_argument("output", metavar="OUT", help="folder to write")
    parser.add_argument("--heads", type=int, help="attention heads of the encoder (default: width / 64)")
    parser.add_argument("--image-size", type=int, help="pixels (default: 224 for VideoMAE, 160 for others)")
    parser.add_argument("--num-frames", type=int, default=16, help="frames of a clip (default: %(default)s)")
    parser.add_argument(
        "--region-size", type=int, nargs=3, metavar=("T", "H", "W"), help="LGI-Former's regions in tokens (2 5 10)"
    )
    parser.add_argument("--stage-depths", type=int, nargs="+", help="TPSBT's blocks of each stage (12 6 3)")
    parser.add_argument("--labels", nargs="+", help="names of the classes, in the checkpoint's order")
    parser.add_argument(
        "--allow-pickle", action="store_true", help="let the file run code while it is read; only if you trust it"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Converts one checkpoint and says where every key went."""
    from mtcae_dfer.release.convert import ConversionOptions, convert_checkpoint

    untold = {field.name: getattr(options, field.name) for field in fields(ConversionOptions)}
    report = convert_checkpoint(options.checkpoint, options.output, ConversionOptions(**untold), options.allow_pickle)
    for source, targets in report["placed"].items():
        print(f"{source} -> {', '.join(targets) or 'set aside'}")
    print(
        f"{report['architecture']}: all {report['num_keys']} keys have their place in a {report['model_class']}, "
        f"written to {options.output}"
    )
    return 0
