"""What a finished model is good for: ``python deploy.py pack EXPORT FILE``, ``unpack FILE DIRECTORY``, ``latency EXPORT``.

``pack`` compresses an exported model into one file, ``unpack`` gives the directory back, bit for bit, or says that the file is
damaged. ``latency`` times the model as it is and with the linear layers sparse that are faster so on this machine.
"""

import argparse
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError

from arguments import OneLineParser, command_line, one_line_errors
from cpu import multiply_with_onednn
from deployment import WEIGHTS_FILE, compare_latency, load_model, pack, unpack


def pack_command(options: argparse.Namespace) -> None:
    """Compress and print both sizes."""
    left_out = pack(options.export, options.file)
    if left_out:
        print(f"not carried: {', '.join(left_out)}", file=sys.stderr)
    dense, packed = (options.export / WEIGHTS_FILE).stat().st_size, options.file.stat().st_size
    print(f"{options.file}: {packed:,} bytes, {packed / dense:.4f} of the {dense:,} of {WEIGHTS_FILE}")


def unpack_command(options: argparse.Namespace) -> None:
    """Decompress and say where."""
    if not unpack(options.file, options.directory):
        print(f"{options.file} has no checksum, as it is of version 1 of the format: pack the model again", file=sys.stderr)
    print(f"{options.directory}: an ordinary Hugging Face model")


def latency_command(options: argparse.Namespace) -> None:
    """Time both models in turn and print how they compare."""
    threads = torch.get_num_threads() if options.threads is None else options.threads
    if min(options.batch, options.length, options.repetitions, threads) < 1:
        raise ValueError("batch, length, repetitions and threads must be at least 1")
    from lightning_modules import check_fit  # seconds, for this command alone

    torch.set_num_threads(threads)
    multiply_with_onednn()
    model = load_model(options.export)
    check_fit(model.config, str(options.export), tokens=0, length=options.length)
    found = compare_latency(model, options.batch, options.length, options.repetitions)
    print(f"{found.sparse_layers} of {found.linear_layers} linear layers are sparse; {threads} threads")
    print(f"{options.batch} × {options.length} tokens, median of {options.repetitions}, interleaved:")
    print(
        f"dense {found.dense_ms:.1f} ms ({found.library}), sparse {found.sparse_ms:.1f} ms, {found.speedup:.2f} times as fast"
    )
    print(f"largest difference of the outputs: {found.difference:.1e}")


def main(arguments: list[str] | None = None) -> None:
    """Run the subcommand of ``arguments`` (the command line by default)."""
    parser = OneLineParser(description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("pack", help="compress an exported model into one file")
    command.add_argument("export", type=Path, help="directory of an exported model")
    command.add_argument("file", type=Path, help="file to write; one that exists is replaced")
    command.set_defaults(run=pack_command)
    command = commands.add_parser("unpack", help="give the directory of a compressed model back")
    command.add_argument("file", type=Path, help="file that pack wrote")
    command.add_argument("directory", type=Path, help="new directory for the model")
    command.set_defaults(run=unpack_command)
    command = commands.add_parser("latency", help="time an exported model dense and sparse")
    command.add_argument("export", type=Path, help="directory of an exported model")
    command.add_argument("--batch", type=int, default=1, help="sequences (default 1)")
    command.add_argument("--length", type=int, default=128, help="tokens a sequence (default 128)")
    command.add_argument("--threads", type=int, help="default: as torch finds them")
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
