"""The Hugging Face hub on this machine: its HTTP API as far as a push speaks it, over a real socket.

Repositories, the check of a card, large files (git LFS, or Xet's store where hf_xet is installed) and commits.
"""

import base64
import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results

MAY_WRITE = {"hf_writer": True, "hf_reader": False}
"""Of a token."""
ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def checksum(content: bytes) -> str:
    """What the hub knows a large file by."""
    return hashlib.sha256(content).hexdigest()


def complaint_about(card: str) -> str | None:
    """What the hub has against the metadata of a card: a wrong type, a data set that is no id, results that are none."""
    found = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    try:
        data = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return "metadata is no YAML"
    if not isinstance(data, dict):
        return "there is no metadata"
    for name in ("license", "library_name", "pipeline_tag"):
        if not isinstance(data.get(name, ""), str):
            return f'"{name}" must be a string'
    for name in ("tags", "datasets", "metrics"):
        values = data.get(name, [])
        if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
            return f'"{name}" must be an array of strings'
    if wrong := [each for each in data.get("datasets", []) if not ID.fullmatch(each)]:
        return f'"datasets" with value "{wrong[0]}" is not valid'
    try:
        if "model-index" in data:
            model_index_to_eval_results(data["model-index"])
    except (KeyError, TypeError, AttributeError):
        return '"model-index" must be a list of results'
    return None


class FakeHub(ThreadingHTTPServer):
    """A hub at :attr:`url` until it is closed.

    Args:
        public: repositories that are there, and public.
    """

    def __init__(self, public: tuple[str, ...] = ()) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.private = dict.fromkeys(public, False)
        self.closed = False
        self.asked: list[str] = []
        """Method and path of every request."""
        self.large: set[str] = set()
        """Checksums of the large files that LFS has uploaded."""
        self.large_status = 200
        """What it answers to an upload by LFS."""
        self.in_store = 0
        """Bytes of large files that Xet has uploaded, compressed."""
        self.sent: dict[str, dict[str, str]] = {}
        """Repository → name → checksum of what its commits hold."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Hang up; from here on nobody answers, nor on a connection that is open."""
        self.closed = True
        self.shutdown()
        self.server_close()

    def commit(self, repository: str, lines: list[dict[str, Any]]) -> None:
        """Take the files of a commit; a large one must have been uploaded."""
        files = self.sent.setdefault(repository, {})
        for key, value in ((line["key"], line["value"]) for line in lines):
            if key == "file":
                files[value["path"]] = checksum(base64.b64decode(value["content"]))
            elif key == "lfsFile" and (value["oid"] in self.large or self.in_store):
                files[value["path"]] = value["oid"]


class Answers(BaseHTTPRequestHandler):
    """One request and its answer."""

    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing is printed."""

    def answer(self, status: int, content: object) -> None:
        """With JSON; an error is text, and in the header where the client looks for it."""
        body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if isinstance(content, str):
            self.send_header("X-Error-Message", content)
        self.end_headers()
        self.wfile.write(body)

    def handle_any(self) -> None:
        body, path = self.rfile.read(int(self.headers.get("Content-Length") or 0)), self.path.partition("?")[0]
        if self.server.closed:
            self.close_connection = True
            return
        self.server.asked.append(f"{self.command} {path}")
        may_write = MAY_WRITE.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))
        if path == "/api/validate-yaml":  # which asks nobody who they are
            self.validate(json.loads(body)["content"])
        elif path.startswith(("/large/", "/store/")):  # whose addresses are known to those who may write
            self.keep(path, body)
        elif may_write is None:
            self.answer(401, "Invalid username or password.")
        elif self.command == "GET" and (found := re.fullmatch(r"/api/models/([\w-]+/[\w-]+)", path)):
            private = self.server.private.get(found[1])
            self.answer(404, "no such model") if private is None else self.answer(200, {"id": found[1], "private": private})
        elif not may_write:
            self.answer(403, "You don't have the rights to create a model under this namespace")
        else:
            self.write(path, body)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def validate(self, card: str) -> None:
        """Say what is wrong with a card, in the form that was asked for."""
        problem = complaint_about(card)
        errors = [{"message": problem}] if problem else []
        as_text = problem and self.headers.get("Accept") == "text/plain"
        self.answer(400 if problem else 200, problem if as_text else {"errors": errors, "warnings": []})

    def keep(self, path: str, body: bytes) -> None:
        """A large file by LFS, whose address is its checksum, or the pieces of one for Xet's store."""
        if path.startswith("/large/"):
            assert path == f"/large/{checksum(body)}"
            if self.server.large_status == 200:
                self.server.large.add(checksum(body))
            self.answer(self.server.large_status, {})
        elif path.startswith("/store/v1/xorbs/"):
            self.server.in_store += len(body)
            self.answer(200, {"was_inserted": True})
        elif path == "/store/v1/shards":
            self.answer(200, {"result": 1})
        else:  # newer versions of the protocol, which fall back on this one; and pieces that are there already
            self.answer(404, "not in this store")

    def write(self, path: str, body: bytes) -> None:
        """What changes a repository."""
        hub = self.server
        if path == "/api/repos/create":
            asked = json.loads(body)
            repository = f"{asked['organization']}/{asked['name']}"
            if repository in hub.private:
                return self.answer(409, {"error": "You already created this model repo", "url": f"{hub.url}/{repository}"})
            hub.private[repository] = asked.get("visibility") == "private" or asked.get("private") is True
            return self.answer(200, {"url": f"{hub.url}/{repository}"})
        if path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(body)["files"]]
            kinds = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in names}
            files = [{"path": name, "uploadMode": kind, "shouldIgnore": False} for name, kind in kinds.items()]
            return self.answer(200, {"files": files})
        if path.endswith(".git/info/lfs/objects/batch"):
            missing = {each["oid"] for each in json.loads(body)["objects"]} - hub.large
            upload = {oid: {"actions": {"upload": {"href": f"{hub.url}/large/{oid}"}}} for oid in missing}
            objects = [each | upload.get(each["oid"], {}) for each in json.loads(body)["objects"]]
            return self.answer(200, {"transfer": "basic", "objects": objects})
        if path.endswith("/xet-write-token/main"):
            return self.answer(200, {"casUrl": f"{hub.url}/store", "accessToken": "pass", "exp": int(time.time()) + 3600})
        if found := re.fullmatch(r"/api/models/([\w-]+/[\w-]+)/commit/main", path):
            hub.commit(found[1], [json.loads(line) for line in body.splitlines()])
            return self.answer(200, {"commitUrl": f"{hub.url}/{found[1]}/commit/1", "commitOid": "1"})
        return self.answer(404, f"{self.command} {path} is no part of this hub")
