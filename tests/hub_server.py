"""A stand-in for the Hugging Face Hub on this machine: the part of its web interface that pushing and loading use."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

WRITER, READER = "hf_writer", "hf_reader"  # tokens: the first may write for "me", the second may only read
_UNKNOWN = "Invalid credentials in Authorization header"


@dataclass
class Repository:
    """One repository: its commits, oldest first, each a whole tree."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Id and files of the newest commit, or of a named one."""
        if revision == "main":
            return list(self.commits.items())[-1] if self.commits else None
        return (revision, self.commits[revision]) if revision in self.commits else None


class Refused(Exception):
    """An answer other than the wanted one, with the Hub's own names for it."""

    def __init__(self, status: int, code: str = "", message: str = "", body: Any = None) -> None:
        super().__init__(status)
        self.status, self.body = status, body or {"error": message}
        self.headers = {"X-Error-Code": code, "X-Error-Message": message}


class HubServer:
    """Serves ``repositories``, which tests may change; ``requests`` lists what was asked, such as ``HEAD /me/x``."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self._blobs: dict[str, bytes] = {}
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def close(self) -> None:
        if self._thread.is_alive():
            self._http.shutdown()
            self._thread.join()
            self._http.server_close()

    def add(self, name: str, files: Mapping[str, bytes], message: str = "") -> str:
        """Commit these files over the newest ones; id of the commit."""
        repository = self.repositories.setdefault(name, Repository())
        newest = repository.at("main")
        oid = hashlib.sha1(f"{name} {len(repository.commits)}".encode()).hexdigest()
        repository.commits[oid] = (newest[1] if newest else {}) | dict(files)
        repository.messages.append(message)
        return oid

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[bytes, dict[str, str]]:
        """Content and headers, or Refused."""
        if method == "HEAD" and path == "/":
            return b"", {}
        if token not in ("", WRITER, READER):
            raise Refused(401, message=_UNKNOWN)
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body)["content"])
        if path == "/api/repos/create":
            return self._create(json.loads(body), token)
        if found := re.fullmatch(r"/lfs/(\w+)", path):
            assert hashlib.sha256(body).hexdigest() == found[1]
            self._blobs[found[1]] = body
            return b"", {}
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(self._readable(found[1], token), found[2], found[3])
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/main)?", path):
            private = self._readable(found[1], token).private
            return _json({"id": found[1], "private": private, "xetEnabled": False})
        if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            upload = [
                one | {"actions": {"upload": {"href": f"{self.url}/lfs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return _json({"transfer": "basic", "objects": upload})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path):
            self._readable(found[1], token)
            if token != WRITER or not found[1].startswith("me/"):
                raise Refused(403, message="you may not write here")
            return self._preupload(body) if found[2] == "preupload" else self._commit(found[1], body)
        raise Refused(404)

    def _readable(self, name: str, token: str) -> Repository:
        repository = self.repositories.get(name)
        if repository is None or (repository.private and token != WRITER):
            raise Refused(404 if token else 401, "RepoNotFound", "Repository not found")
        if repository.gated:
            raise Refused(403, "GatedRepo", "Access to it is restricted")
        return repository

    def _validate(self, text: str) -> tuple[bytes, dict[str, str]]:
        try:
            fields = yaml.safe_load(text.split("---\n")[1])
            assert isinstance(fields, dict)
        except yaml.YAMLError as error:
            raise Refused(400, body={"errors": [{"message": str(error)}]}) from error
        return _json({"warnings": [], "errors": []})

    def _create(self, asked: dict[str, Any], token: str) -> tuple[bytes, dict[str, str]]:
        name = f"{asked['organization']}/{asked['name']}"
        if token != WRITER or asked["organization"] != "me":
            raise Refused(403, message=f"You don't have the rights to create a model under {asked['organization']}")
        if name in self.repositories:
            raise Refused(409, message="You already created this model repo", body={"url": f"{self.url}/{name}"})
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.repositories[name] = Repository(private=private)
        return _json({"url": f"{self.url}/{name}"})

    def _preupload(self, body: bytes) -> tuple[bytes, dict[str, str]]:
        names = [one["path"] for one in json.loads(body)["files"]]
        modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in names}
        return _json({"files": [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]})

    def _commit(self, name: str, body: bytes) -> tuple[bytes, dict[str, str]]:
        files, message = {}, ""
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "lfsFile":
                files[value["path"]] = self._blobs[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        oid = self.add(name, files, message)
        return _json({"success": True, "commitOid": oid, "commitUrl": f"{self.url}/{name}/commit/{oid}"})

    def _file(self, repository: Repository, revision: str, name: str) -> tuple[bytes, dict[str, str]]:
        found = repository.at(revision)
        if found is None:
            raise Refused(404, "RevisionNotFound", "Invalid rev id")
        oid, files = found
        if name not in files:
            raise Refused(404, "EntryNotFound", "Entry not found")
        return files[name], {"ETag": f'"{hashlib.sha256(files[name]).hexdigest()}"', "X-Repo-Commit": oid}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                server.requests.append(f"{self.command} {path}")
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                status, headers = 200, {}
                try:
                    content, headers = server.answer(self.command, path, token, self._body())
                except Refused as refused:
                    status, headers = refused.status, refused.headers
                    content = json.dumps(refused.body).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_HEAD = do_POST = do_PUT = do_GET

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)

            def log_message(self, format: str, *args: Any) -> None:
                """Keep the test output clean."""

        return Handler


def _json(content: Any) -> tuple[bytes, dict[str, str]]:
    return json.dumps(content).encode(), {"Content-Type": "application/json"}
