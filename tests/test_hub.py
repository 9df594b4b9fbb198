"""What is on this machine and what is on the hub: asked once, answered in one line."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import huggingface_hub
import pytest

import hub
from hub import local_or_hub

REPOSITORIES = {
    "/api/models/owner/model": "owner/model",
    "/api/models/bert": "bert",
    "/api/datasets/owner/data": "owner/data",
}
Serve = Callable[..., list[str]]


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Forgets that tests are offline, for a hub at a port of this machine, with an empty cache, and in an empty directory."""

    def connect(port: int) -> None:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "tables")
    monkeypatch.chdir(tmp_path)
    return connect


@pytest.fixture
def serve(online: Callable[[int], None]) -> Iterator[Serve]:
    """Starts a hub that has two models and a data set, or answers everything with one status; returns what it is asked."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int = 200) -> list[str]:
        asked: list[str] = []

        class Hub(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.startswith(("/api/models", "/api/datasets")):  # the client asks for more, of no use here
                    asked.append(self.path.partition("?")[0])
                name = REPOSITORIES.get(self.path.partition("?")[0].partition("/revision/")[0])
                revision = self.path.partition("?")[0].partition("/revision/")[2]
                found = status if name and revision in ("", "main") else 404
                self.send_response(found)
                if found == 404:
                    self.send_header("X-Error-Code", "RevisionNotFound" if name else "RepoNotFound")
                self.end_headers()
                self.wfile.write(json.dumps({"id": name}).encode())

            def log_message(self, *_: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Hub))
        threading.Thread(target=servers[0].serve_forever, daemon=True).start()
        online(servers[0].server_port)
        return asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def unreachable(online: Callable[[int], None]) -> None:
    """A hub at a port where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    online(port)


def cached(folder: str) -> None:
    """Something of a repository, as if it had been downloaded."""
    file = Path(huggingface_hub.constants.HF_HUB_CACHE) / folder / "snapshots" / "0" / "config.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")


def line_of(path: str, *arguments: str) -> str:
    with pytest.raises(FileNotFoundError) as error:
        local_or_hub(path, "teacher", *arguments)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    return str(error.value)


def test_what_is_on_this_machine_is_a_path(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve()
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "owner" / "model").mkdir(parents=True)
    (tmp_path / "file").touch()
    for path in ("owner/model", str(tmp_path / "owner"), "./owner", "file"):
        assert local_or_hub(path, "teacher") == str(Path(path))
    assert local_or_hub("~/owner/model", "teacher") == str(tmp_path / "owner" / "model")
    assert asked == []


@pytest.mark.parametrize(
    "path", ["/no/such", "./nothing", "../nothing", "~/nothing", "a/b/c", "runs/nothing", "nowhere/", "two words", "a--b"]
)
def test_what_can_only_be_a_path_is_not_asked_for(serve: Serve, tmp_path: Path, path: str) -> None:
    asked = serve()
    (tmp_path / "runs").mkdir()
    assert line_of(path) == f"{path}: no such file or directory, where a teacher is expected"
    assert asked == []


def test_an_id_that_the_hub_has_is_an_id(serve: Serve) -> None:
    asked = serve()
    assert local_or_hub("owner/model", "model") == "owner/model"
    assert local_or_hub("bert", "model") == "bert"
    assert local_or_hub("owner/model", "model", revision="main") == "owner/model"
    assert local_or_hub("owner/data", "data set", "dataset") == "owner/data"
    assert asked == [
        *("/api/models/owner/model", "/api/models/bert", "/api/models/owner/model/revision/main", "/api/datasets/owner/data")
    ]


def test_an_id_that_the_hub_does_not_have_is_one_line_that_names_both_places(serve: Serve) -> None:
    serve()
    line = line_of("owner/typo")
    assert line.startswith(
        "owner/typo: neither a teacher on this machine (no such file or directory) nor on the hub: http://"
    )
    assert line.endswith("has none of this name, or it is private")
    assert line_of("owner/data").endswith("has none of this name, or it is private")  # as a model
    assert line_of("owner/model", "model", "v9").endswith("has it, but no revision v9")


@pytest.mark.usefixtures("unreachable")
def test_a_hub_out_of_reach_is_one_line_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    begin = time.monotonic()
    line = line_of("owner/model")
    assert time.monotonic() - begin < hub.TIMEOUT
    assert line.startswith(
        "owner/model: neither a teacher on this machine (no such file or directory) nor on the hub: http://"
    )
    assert "cannot be reached" in line
    assert line.endswith("and the cache has none")
    assert capfd.readouterr() == ("", "")


def test_a_hub_that_is_ill_is_one_that_is_out_of_reach(serve: Serve) -> None:
    serve(503)
    assert "503" in line_of("owner/model")


def test_a_hub_that_does_not_answer_is_waited_for_a_few_seconds(
    online: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        online(silent.getsockname()[1])
        begin = time.monotonic()
        line = line_of("owner/model")
    assert 0.2 < time.monotonic() - begin < 3
    assert "cannot be reached" in line


@pytest.mark.usefixtures("unreachable")
def test_what_the_cache_has_is_used_where_the_hub_is_out_of_reach_and_nothing_else_waits_for_it() -> None:
    cached("models--owner--model")
    with pytest.warns(UserWarning, match="owner/model: .* cannot be reached .*; what the cache has is used"):
        assert local_or_hub("owner/model", "model") == "owner/model"
    assert huggingface_hub.is_offline_mode()
    assert datasets.config.HF_HUB_OFFLINE
    assert line_of("owner/other").endswith("HF_HUB_OFFLINE is set, and the cache has none")


def test_offline_the_cache_decides_and_nobody_is_asked(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert line_of("owner/model").endswith("HF_HUB_OFFLINE is set, and the cache has none")
    cached("models--owner--model")
    assert local_or_hub("owner/model", "model") == "owner/model"
    with pytest.raises(FileNotFoundError, match="HF_HUB_OFFLINE is set"):
        local_or_hub("owner/model", "data set", "dataset")
    (Path(datasets.config.HF_DATASETS_CACHE) / "owner___my_data").mkdir(parents=True)
    assert local_or_hub("owner/MyData", "data set", "dataset") == "owner/MyData"
    assert asked == []
