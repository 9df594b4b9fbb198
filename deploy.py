"""What a finished model is good for: ``python deploy.py COMMAND``, of which ``--help`` tells more.

============================  =============================================================================
``pack EXPORT FILE``          compress an exported model into one file
``unpack FILE DIRECTORY``     give the directory back, bit for bit, or say that the file is damaged
``export EXPORT --format F``  write an ONNX or OpenVINO file, checked against torch
``push EXPORT REPOSITORY``    send the model to the hub, privately
``card EXPORT RUN …``         write its model card from the runs of several seeds
``latency EXPORT``            time it in all runtimes that are installed, and say which is fastest here
============================  =============================================================================
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError

from arguments import OneLineParser, command_line, one_line_errors
from run_record import CARD_FILE, SUMMARY, RunRecord, model_name

FORMATS = ("onnx", "openvino")
# torch and what needs it is imported by the commands, so that help and a mistake do not wait for it


def pack_command(options: argparse.Namespace) -> None:
    """Compress and print both sizes."""
    from deployment import WEIGHTS_FILE, pack

    left_out = pack(options.export, options.file)
    if left_out:
        print(f"not carried: {', '.join(left_out)}", file=sys.stderr)
    dense, packed = (options.export / WEIGHTS_FILE).stat().st_size, options.file.stat().st_size
    print(f"{options.file}: {packed:,} bytes, {packed / dense:.4f} of the {dense:,} of {WEIGHTS_FILE}")


def unpack_command(options: argparse.Namespace) -> None:
    """Decompress and say where."""
    from deployment import unpack

    if not unpack(options.file, options.directory):
        print(f"{options.file} has no checksum, as it is of version 1 of the format: pack the model again", file=sys.stderr)
    print(f"{options.directory}: an ordinary Hugging Face model")


def export_command(options: argparse.Namespace) -> None:
    """Write the file of another runtime and print how it compares with torch."""
    import torch

    from datamodules import prose
    from deployment import TOLERANCE, agreement, constants, export, kept_zeros, load, session

    if options.sentences < 1:
        raise ValueError("sentences must be at least 1")
    beside = options.export.with_name(f"{options.export.stem}_{options.format}")  # of a packed file
    directory = options.out or (options.export / options.format if options.export.is_dir() else beside)
    model, tokenizer = load(options.export)
    file = export(model, directory, options.format, options.int8)
    print(f"{file}: {sum(each.stat().st_size for each in directory.iterdir()):,} bytes with what lies beside it")
    if not options.int8:
        print(
            f"zeros: {kept_zeros(model, constants(file, options.format)):,} in matrices of the model, all of them in the file"
        )
    if tokenizer is None:
        raise ValueError(f"{options.export} has no tokenizer, so that the file cannot be compared on sentences")
    found = agreement(model, session(file, options.format, torch.get_num_threads()), tokenizer, prose(options.sentences))
    print(
        f"{found.sentences} sentences: largest difference from torch {found.difference:.1e}, the same answer in {found.same:.2%}"
    )
    if not options.int8 and found.difference > TOLERANCE:
        raise ValueError(f"{file} is off by more than {TOLERANCE:g}: do not use it")


def push_command(options: argparse.Namespace) -> None:
    """Send an export to the hub, or say what would be sent."""
    from deployment import check_repository, files_to_push, push

    if options.dry_run:
        check_repository(options.repository)
        for name, size in files_to_push(options.export).items():
            print(f"would be sent: {name}, {size:,} bytes")
        print(f"to the {'public' if options.public else 'private'} repository {options.repository}; nothing was sent")
        return
    print(push(options.export, options.repository, private=not options.public))


def check_seeds(records: Mapping[Path, RunRecord]) -> None:
    """Refuse to average what are not seeds of one run.

    Raises:
        ValueError: a run differs from the first by more than its seed, or has the seed of another.
    """
    (first, of_first), *_ = records.items()
    seen: dict[int | None, Path] = {}
    for run, record in records.items():
        for what in "task", "steps", "masks", "pretrained_name", "parameters":
            mine, its = getattr(record, what), getattr(of_first, what)
            if mine != its:
                raise ValueError(f"{run} is no other seed of {first}: its {what} is {mine}, not {its}")
        if (other := seen.setdefault(record.seed, run)) != run:
            raise ValueError(f"{run} has the seed of {other}, {record.seed}")


def card_command(options: argparse.Namespace) -> None:
    """Write the card anew, from the runs of several seeds."""
    from deployment import write_card

    records = [RunRecord.read(run / SUMMARY) for run in options.runs]
    check_seeds(dict(zip(options.runs, records, strict=True)))
    write_card(options.export, options.name or model_name(str(options.export)), records, options.dataset, options.license)
    print(options.export / CARD_FILE)


def latency_command(options: argparse.Namespace) -> None:
    """Time the model in all runtimes in turn and print how they compare."""
    import torch

    from cpu import multiply_with_onednn
    from deployment import compare_latency, load_model
    from lightning_modules import check_fit

    threads = options.threads or [torch.get_num_threads()]
    if min(options.batch, options.length, options.repetitions, *threads) < 1:
        raise ValueError("batch, length, repetitions and threads must be at least 1")
    if not options.tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, got {options.tolerance:g}")
    multiply_with_onednn()
    model = load_model(options.export)
    check_fit(model.config, str(options.export), tokens=0, length=options.length)
    found = compare_latency(model, options.batch, options.length, options.repetitions, threads, options.int8)
    print(
        f"{found.sparse_layers} of {found.linear_layers} linear layers are sparse in torch; dense products by {found.library}"
    )
    print(f"{options.batch} × {options.length} tokens, median of {options.repetitions}, interleaved:")
    print(f"{'':20}{'threads':>9}{'ms':>10}{'speedup':>9}{'off by':>10}")
    for each in found.timings:
        cells = f"{each.threads:>9}{each.milliseconds:>10.1f}{each.speedup:>9.2f}{each.difference:>10.1e}"
        print(f"{each.name:20}{cells}")
    best = found.fastest(options.tolerance)
    print(f"fastest on this machine, off by at most {options.tolerance:g} of the largest output: {best.name}")


def main(arguments: list[str] | None = None) -> None:
    """Run the subcommand of ``arguments`` (the command line by default)."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("pack", help="compress an exported model into one file")
    command.add_argument("export", type=Path, help="directory of an exported model")
    command.add_argument("file", type=Path, help="file to write; one that exists is replaced")
    command.set_defaults(run=pack_command)
    command = commands.add_parser("unpack", help="give the directory of a compressed model back")
    command.add_argument("file", type=Path, help="file that pack wrote")
    command.add_argument("directory", type=Path, help="new directory for the model")
    command.set_defaults(run=unpack_command)
    command = commands.add_parser("export", help="write a file for another runtime, checked against torch")
    command.add_argument("export", type=Path, help="directory of an exported model, or a packed file")
    command.add_argument("--format", choices=FORMATS, required=True, help="of the file")
    command.add_argument(
        "--out", type=Path, help="directory for it (default: one of the format's name in EXPORT, or beside it)"
    )
    command.add_argument("--int8", action="store_true", help="weights as 8-bit integers")
    command.add_argument("--sentences", type=int, default=100, help="on which it is compared with torch (default 100)")
    command.set_defaults(run=export_command)
    command = commands.add_parser("push", help="send an exported model to the hub")
    command.add_argument("export", type=Path, help="directory of an exported model")
    command.add_argument("repository", help="OWNER/NAME; made if it is not there")
    command.add_argument("--public", action="store_true", help="default: the repository must be private")
    command.add_argument("--dry-run", action="store_true", help="only print what would be sent")
    command.set_defaults(run=push_command)
    command = commands.add_parser("card", help="write the model card anew, from runs of several seeds")
    command.add_argument("export", type=Path, help="directory of an exported model")
    command.add_argument("runs", type=Path, nargs="+", help="directory of its run, then of those with other seeds")
    command.add_argument("--name", help="of the model (default: the name it has)")
    command.add_argument("--dataset", nargs="*", default=[], help="what it was trained on: ids of the hub, or names")
    command.add_argument("--license", help="identifier of the hub")
    command.set_defaults(run=card_command)
    command = commands.add_parser("latency", help="time an exported model in all runtimes that are installed")
    command.add_argument("export", type=Path, help="directory of an exported model")
    command.add_argument("--batch", type=int, default=1, help="sequences (default 1)")
    command.add_argument("--length", type=int, default=128, help="tokens a sequence (default 128)")
    command.add_argument("--threads", type=int, nargs="+", help="numbers to try (default: as torch finds them)")
    command.add_argument("--int8", action="store_true", help="8-bit weights, too, where a runtime has them")
    command.add_argument("--tolerance", type=float, default=0.02, help="share of the largest output (default 0.02)")
    command.add_argument("--repetitions", type=int, default=20, help="rounds that are timed (default 20)")
    command.set_defaults(run=latency_command)
    options = parser.parse_args(command_line(arguments))
    options.run(options)


def run(arguments: list[str] | None = None) -> None:
    """:func:`main`; the user's mistakes end with one line."""
    with one_line_errors(SafetensorError):  # of a broken file that transformers reads
        main(arguments)


if __name__ == "__main__":
    run()
