"""What a finished model is good for: ``python deploy.py pack EXPORT FILE``, ``unpack FILE DIRECTORY``, ``latency EXPORT``.

``pack`` compresses an exported model into one file, ``unpack`` gives the directory back, bit for bit. ``latency`` times the
model as it is and with the linear layers sparse that are faster so on this machine.
"""

import argparse
import statistics
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn

from arguments import OneLineParser
from deployment import WEIGHTS_FILE, interleaved_seconds, pack, sparsify_linears_, unpack


def pack_command(options: argparse.Namespace) -> None:
    """Compress and print both sizes."""
    left_out = pack(options.export, options.file)
    if left_out:
        print(f"not carried: {', '.join(left_out)}", file=sys.stderr)
    dense, packed = (options.export / WEIGHTS_FILE).stat().st_size, options.file.stat().st_size
    print(f"{options.file}: {packed:,} bytes, {packed / dense:.4f} of the {dense:,} of {WEIGHTS_FILE}")


def unpack_command(options: argparse.Namespace) -> None:
    """Decompress and say where."""
    unpack(options.file, options.directory)
    print(f"{options.directory}: an ordinary Hugging Face model")


def load(export: Path) -> nn.Module:
    """The exported model, as the class it was saved from."""
    import transformers  # two seconds, for this command alone

    transformers.utils.logging.disable_progress_bar()
    config = transformers.AutoConfig.from_pretrained(export)
    model_class = getattr(transformers, (config.architectures or ["AutoModel"])[0], transformers.AutoModel)
    return model_class.from_pretrained(export, dtype=torch.float32).eval()


def latency_command(options: argparse.Namespace) -> None:
    """Time both models in turn and compare what they compute."""
    from lightning_modules.encoders import check_fit  # for this command alone, like transformers

    threads = torch.get_num_threads() if options.threads is None else options.threads
    if min(options.batch, options.length, options.repetitions, threads) < 1:
        raise ValueError("batch, length, repetitions and threads must be at least 1")
    torch.set_num_threads(threads)
    dense, sparse = load(options.export), load(options.export)
    check_fit(dense.config, str(options.export), tokens=0, length=options.length)
    choices = sparsify_linears_(sparse, tokens=options.batch * options.length)
    tokens = torch.randint(dense.config.vocab_size, (options.batch, options.length))
    models = {"dense": dense, "sparse": sparse}
    with torch.inference_mode():
        outputs = {name: model(input_ids=tokens)[0] for name, model in models.items()}
        calls = {name: lambda model=model: model(input_ids=tokens) for name, model in models.items()}
        seconds = interleaved_seconds(calls, options.repetitions)
    milliseconds = {name: statistics.median(times) * 1e3 for name, times in seconds.items()}
    ratio = statistics.median(one / other for one, other in zip(*seconds.values(), strict=True))
    used = sum(choice.is_sparse for choice in choices.values())
    print(f"{used} of {len(choices)} linear layers are sparse; {torch.get_num_threads()} threads")
    print(f"{options.batch} × {options.length} tokens, median of {options.repetitions}, interleaved:")
    print(f"dense {milliseconds['dense']:.1f} ms, sparse {milliseconds['sparse']:.1f} ms, {ratio:.2f} times as fast")
    print(f"largest difference of the outputs: {(outputs['dense'] - outputs['sparse']).abs().max():.1e}")


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
    options = parser.parse_args(arguments)
    options.run(options)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, SafetensorError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
