"""An exported model on the Hugging Face hub."""

from pathlib import Path

from arguments import one_line
from deployment.compressed import CARRIED, WEIGHTS_FILE, refuse_links_out_of_model
from run_record import CARD_FILE

REMEDIES = {401: "log in first: hf auth login", 403: "take a name of your own, or a token that may write there"}
"""What to do, by the status that the hub answers with."""


def files_to_push(directory: Path) -> dict[str, int]:
    """Name → bytes of what is sent: files of the kinds that a model's weights, masks, config, tokenizer and card have.

    Raises:
        ValueError: no exported model there, or a link that leads out of it.
    """
    if not (directory / WEIGHTS_FILE).is_file():
        raise ValueError(f"{directory}: no {WEIGHTS_FILE} there; expected the directory of an exported model")
    refuse_links_out_of_model(directory)
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
        OSError: the hub cannot be reached, or refuses; one line.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # of the HTTP library that it is built on

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
    except (HTTPError, OSError, RuntimeError) as error:  # RuntimeError is of the uploads of large files
        raise OSError(f"{repository} was not pushed: {reason(error, hub.endpoint)}") from error
    return str(commit.commit_url)


def reason(error: Exception, endpoint: str) -> str:
    """Why a push failed, in one line: what the hub said and what to do, or that it was not reached."""
    response = getattr(error, "response", None)
    if response is None:
        return f"{endpoint} was not reached, or not to the end ({one_line(error)[:200] or type(error).__name__})"
    said = one_line(ValueError(getattr(error, "server_message", None) or error))[:200]
    remedy = REMEDIES.get(response.status_code)
    return f"{response.status_code}, {said}" + (f"; {remedy}" if remedy else "")
