"""All entry points under one name, for those who have installed the package: ``trifecta fit --config cpu_bench``.

``trifecta fit`` (``validate``, ``test``, ``predict``) is ``python train.py fit``; ``trifecta sweep``, ``report`` and ``deploy``
are the scripts of these names. Configs are found by name: those of ``configs/`` come with the package.
"""

from importlib import import_module

from arguments import VERSION, command_line

COMMANDS = {
    "fit": "pretrain or finetune a model (also validate, test, predict)",
    "sweep": "many fits as one protocol",
    "report": "tables and plots of finished runs",
    "deploy": "a finished model in use: pack it, time it",
}


def usage() -> str:
    """What there is, a line each."""
    lines = (f"  trifecta {name:<7} {what}" for name, what in COMMANDS.items())
    return "\n".join([f"trifecta {VERSION}: sparse BERT pretraining", "", *lines, "", "Each takes --help."])


def run(arguments: list[str] | None = None) -> None:
    """What the first argument names, with the others; only that is imported."""
    arguments = command_line(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
    elif arguments[0] in ("sweep", "report", "deploy"):
        import_module(arguments[0]).run(arguments[1:])
    else:
        import_module("train").run()  # which reads the command line itself, as a process that it starts on another GPU does


if __name__ == "__main__":
    run()
