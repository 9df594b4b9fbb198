"""An exported model on the Hugging Face hub."""

from pathlib import Path

from deployment.compressed import CARRIED, WEIGHTS_FILE
from run_record import CARD_FILE


def files_to_push(directory: Path) -> dict[str, int]:
    """Name → bytes of what is sent: weights, masks, config, tokenizer and card, and nothing else that lies there.

    Raises:
        ValueError: no exported model there.
    """
    if not (directory / WEIGHTS_FILE).is_file():
        raise ValueError(f"{directory}: no {WEIGHTS_FILE} there; expected the directory of an exported model")
    suffixes = (*CARRIED, ".safetensors")
    files = (path for path in sorted(directory.iterdir()) if path.is_file() and not path.name.startswith("."))
    return {path.name: path.stat().st_size for path in files if path.suffix in suffixes}


def check_repository(repository: str) -> None:
    """Raise ValueError where ``repository`` is no id of a repository on the hub."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ValueError(f"{repository!r} is no repository of the hub; expected OWNER/NAME") from error


def push(directory: Path, repository: str, private: bool = True) -> str:
    """Send a model to the hub, as whoever is logged in there; the repository is made if it is not there.

    Args:
        directory: of the exported model.
        repository: OWNER/NAME.
        private: of a new repository. One that is there and public is then refused, rather than to publish by accident.

    Returns:
        Address of the commit.

    Raises:
        ValueError: no model there, no such name, or a public repository where a private one is asked for.
        OSError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    check_repository(repository)
    files = files_to_push(directory)
    hub = HfApi()
    try:
        hub.create_repo(repository, private=private, exist_ok=True)
        if private and not hub.model_info(repository, expand=["private"]).private:
            raise ValueError(f"{repository} is public already; say that it need not be private, or take another name")
        commit = hub.upload_folder(
            folder_path=directory,
            repo_id=repository,
            allow_patterns=list(files),
            commit_message=f"{directory.resolve().name}, with its {CARD_FILE}",
        )
    except HfHubHTTPError as error:
        raise OSError(f"{repository} was not pushed: {' '.join(str(error).split())[:200]}") from error
    return str(commit.commit_url)
