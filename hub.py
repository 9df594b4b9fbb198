"""What is a path on this machine and what is an id on the Hugging Face hub: asked once, quickly, before a library tries."""

import queue
import threading
from pathlib import Path

import datasets
import huggingface_hub
from datasets.naming import camelcase_to_snakecase
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import validate_repo_id
from pytorch_lightning.utilities import rank_zero_warn

TIMEOUT = 5.0  # seconds


def local_or_hub(path: str, what: str, repository: str = "model", revision: str | None = None) -> str:
    """The path of something on this machine, with ``~`` expanded; or an id that the hub, or its cache, has.

    Libraries take whatever is not there for an id, and where the hub cannot be reached they try for a minute. So the hub is
    asked once, for at most ``TIMEOUT`` seconds, and with ``HF_HUB_OFFLINE`` not at all. If it does not answer, and the cache
    has something of this id, the process stays offline from here on, as with ``HF_HUB_OFFLINE``.

    Args:
        path: as the user gave it.
        what: what it should be, for the error: ``tokenizer``, ``teacher``.
        repository: kind of repository on the hub, ``model`` (tokenizers, too) or ``dataset``.
        revision: branch, tag or commit on the hub.

    Raises:
        FileNotFoundError: neither; one line. A path is no id if it is absolute, begins with ``.`` or ``~``, has more than one
            ``/``, or begins with a directory that is there.
    """
    local = Path(path).expanduser()
    if local.exists():
        return str(local)
    if _is_local(path):
        raise FileNotFoundError(f"{path}: no such file or directory, where a {what} is expected")
    problem = _ask_hub(path, repository, revision)
    if problem is None:
        return path
    if isinstance(problem, RepositoryNotFoundError):
        reason = f"{huggingface_hub.constants.ENDPOINT} has none of this name, or it is private"
    elif isinstance(problem, RevisionNotFoundError):
        reason = f"{huggingface_hub.constants.ENDPOINT} has it, but no revision {revision}"
    elif _in_cache(path, repository):
        if not isinstance(problem, OfflineModeIsEnabled):
            rank_zero_warn(f"{path}: {_unreached(problem)}; what the cache has is used, and nothing more is asked for")
            huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
        return path
    else:
        reason = f"{_unreached(problem)}, and the cache has none"
    raise FileNotFoundError(f"{path}: neither a {what} on this machine (no such file or directory) nor on the hub: {reason}")


def _is_local(path: str) -> bool:
    first, slash, _ = path.partition("/")
    if path.startswith(("/", ".", "~")) or path.count("/") > 1 or (slash and Path(first).is_dir()):
        return True
    try:
        validate_repo_id(path)
    except HFValidationError:
        return True
    return False


def _in_cache(path: str, repository: str) -> bool:
    """Whether something of a repository was downloaded once; data sets are kept in tables, too."""
    folder = Path(huggingface_hub.constants.HF_HUB_CACHE) / repo_folder_name(repo_id=path, repo_type=repository)
    *owner, name = path.split("/")
    tables = Path(datasets.config.HF_DATASETS_CACHE) / "___".join([*owner, camelcase_to_snakecase(name)])
    return any(folder.glob("snapshots/*/*")) or (repository == "dataset" and tables.is_dir())


def _ask_hub(path: str, repository: str, revision: str | None) -> Exception | None:
    """None if the hub has the repository, else what is in the way."""
    answers: queue.Queue[Exception | None] = queue.Queue()

    def ask() -> None:
        try:
            hub = HfApi()
            info = hub.dataset_info if repository == "dataset" else hub.model_info
            info(path, revision=revision, timeout=TIMEOUT, expand=["sha"])
        except Exception as error:  # every way of not being reached has a class of its own
            answers.put(error)
        else:
            answers.put(None)

    # A thread, because no timeout of a request covers the search for the address.
    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=TIMEOUT)
    except queue.Empty:
        return TimeoutError(f"no answer within {TIMEOUT:g} s")


def _unreached(problem: Exception) -> str:
    if isinstance(problem, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    reason = " ".join(str(problem).split())[:150] or type(problem).__name__
    return f"{huggingface_hub.constants.ENDPOINT} cannot be reached ({reason})"
