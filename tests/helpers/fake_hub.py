"""A small Hub on this machine: the real client talks to it over HTTP, and nothing of the client is replaced.

Pushing and loading are tested without the network, an account or a mock. Model repositories are known,
those of data sets to be read, and only what the clients ask for; anything else fails the test that asked.
"""

import base64
import contextlib
import hashlib
import json
import re
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from huggingface_hub import close_session, constants, hf_api
from transformers.utils import hub as transformers_hub


LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
REPO = r"(?P<repo>[^/]+/[^/]+)"
NO_OWNER = r"(?P<repo>[^/]+)"  # as the first models of the Hub are named
MODEL = rf"/api/(?:models|datasets)/{REPO}"
REVISION = r"(?P<revision>[^/]+)"
READ, WRITE, OPEN = "read", "write", "open"  # what the token must allow; an upload address is open: it carries no token


@dataclass
class Commit:
    id: str
    message: str
    parent: str | None
    files: dict[str, bytes]


@dataclass
class Repository:
    private: bool
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: list[Commit] = field(default_factory=list)
    lfs: dict[str, bytes] = field(default_factory=dict)  # uploaded objects by SHA-256, committed or not

    def commit(self, branch: str, message: str, files: dict[str, bytes]) -> Commit:
        parent = self.branches.get(branch)
        content = [parent, message, {path: hashlib.sha256(data).hexdigest() for path, data in sorted(files.items())}]
        self.commits.append(Commit(hashlib.sha1(json.dumps(content).encode()).hexdigest(), message, parent, files))
        self.branches[branch] = self.commits[-1].id
        return self.commits[-1]

    def at(self, revision: str) -> Commit:
        wanted = self.branches.get(revision) or self.tags.get(revision) or revision
        for commit in self.commits:
            if commit.id == wanted:
                return commit
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")


@dataclass
class Request:
    user: str | None
    url: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    repo: str = ""
    revision: str = "main"
    path: str = ""

    def json(self) -> dict:
        return json.loads(self.body)


@dataclass
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Fault:
    method: str
    path: re.Pattern
    times: int
    reply: Reply | None  # None: the connection is dropped
    after_bytes: int | None = 0


class Refused(Exception):
    """An answer that the client turns into an exception."""

    def __init__(self, status: int, message: str, code: str | None = None, **body):
        super().__init__(message)
        plain = " ".join(message.encode("ascii", "replace").decode().split())
        headers = {"X-Error-Message": plain} | ({"X-Error-Code": code} if code else {})
        self.reply = Reply(status, json.dumps({"error": message} | body).encode(), headers)


def is_lfs(path: str, size: int) -> bool:
    return size > 0 and (path.endswith(LFS_SUFFIXES) or size >= 10_000_000)


def git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def etag(path: str, data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if is_lfs(path, len(data)) else git_id(data)


def describe(path: str, data: bytes) -> dict:
    """A file as the listings of the Hub describe it."""
    entry = {"type": "file", "path": path, "size": len(data), "oid": git_id(data)}
    if is_lfs(path, len(data)):
        entry["lfs"] = {"oid": etag(path, data), "size": len(data), "pointerSize": 134}
    return entry


class FakeHub:
    def __init__(self, tokens: dict[str, str] | None = None):
        self.tokens = tokens or {"hf_owner": "someone"}
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str, int]] = []  # method, path with query, status (0: no complete reply)
        self.errors: list[Exception] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()

    def __enter__(self):
        self.server = Server(self)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, kind, error, traceback):
        self.server.shutdown()
        self.thread.join()
        self.server.close_connections()
        self.server.server_close()
        if self.errors and error is None:
            raise ExceptionGroup("the fake Hub could not answer", self.errors)
        for hidden in self.errors:
            error.add_note(f"the fake Hub could not answer: {hidden!r}")

    def environment(self, home: Path, token: str | None = "hf_owner") -> dict[str, str]:
        """What a client process needs to talk to this Hub and to nothing else. Xet has a protocol of its own: off."""
        switches = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0"}
        paths = {"HF_HOME": "", "HF_HUB_CACHE": "hub", "HF_MODULES_CACHE": "modules", "HF_TOKEN_PATH": "token"}
        server = {"HF_ENDPOINT": self.url, "HF_TOKEN": token or "", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        return switches | server | {name: str(home / path) for name, path in paths.items()}

    def connect(self, monkeypatch, home: Path, token: str | None = "hf_owner") -> None:
        """Make this process a client of this Hub and of nothing else, as `environment` does for another process.

        The client reads its environment when it is imported, so its constants are set here.
        """
        values = {
            "ENDPOINT": self.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": self.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
        }
        for name, value in values.items():
            monkeypatch.setattr(constants, name, value)
        # Two clients keep the address of an earlier Hub: they would try for half a minute to reach one that is gone.
        monkeypatch.setattr(hf_api.api, "endpoint", self.url)
        monkeypatch.setattr(transformers_hub, "_hf_api", None)
        for name, value in {"HF_TOKEN": token or "", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}.items():
            monkeypatch.setenv(name, value)
        close_session()  # which may have been opened with a proxy

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        with self.lock:
            return dict(self.repositories[repo].at(revision).files)

    def fail(self, method, path_regex, status=503, times=1, body="told to fail", error_code=None, headers=None):
        """The next `times` matching requests are read whole, change nothing and get this status."""
        reply = Refused(status, body, error_code).reply
        reply.headers |= headers or {}
        with self.lock:
            self.faults.append(Fault(method, re.compile(path_regex), times, reply))

    def drop(self, method, path_regex, after_bytes: int | None = 0, times=1):
        """The connection of the next `times` matching requests breaks off after so many bytes.

        Bytes of the request's body where it has one, which then has no effect; else of the reply's body (0: not even a
        status line). None: the request is carried out and only its reply is lost.
        """
        with self.lock:
            self.faults.append(Fault(method, re.compile(path_regex), times, None, after_bytes))

    def next_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and fault.path.search(path):
                    fault.times -= 1
                    return fault

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Reply:
        """One request at a time, as if the Hub were one database."""
        url = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        try:
            with self.lock:
                for methods, pattern, access, function in ROUTES:
                    if method in methods and (match := pattern.fullmatch(url.path)):
                        parts = {name: unquote(part) for name, part in match.groupdict().items() if part}
                        request = Request(self.user(headers), self.url, query, headers, body, **parts)
                        return function(*self.subject(request, access), request)
            raise NotImplementedError(f"{method} {target}")
        except Refused as refusal:
            return refusal.reply
        except Exception as error:
            self.errors.append(error)
            return Refused(501, f"the fake Hub could not answer: {error!r}").reply  # a status that is not tried again

    def user(self, headers: dict[str, str]) -> str | None:
        token = headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in self.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.tokens.get(token)

    def subject(self, request: Request, access: str) -> tuple:
        """The hub, or the repository that the request may read or write, refused in the words of the real Hub.

        The client takes a 401 for a missing repository where the address begins with https; the code says it for http.
        """
        if not request.repo:
            return (self,)
        repository, owner = self.repositories.get(request.repo), request.repo.split("/")[0]
        if access == OPEN and repository is not None:
            return (repository,)
        if request.user is None and (repository is None or repository.private or access == WRITE):
            raise Refused(401, "Invalid username or password.", "RepoNotFound")
        if repository is None or (repository.private and request.user != owner):
            raise Refused(404, "Repository not found", "RepoNotFound")
        if access == WRITE and request.user != owner:
            raise Refused(403, f"Forbidden: you must use a write token to {request.repo}")
        return (repository,)


ROUTES: list[tuple[tuple[str, ...], re.Pattern, str, Callable]] = []


def route(methods: str, pattern: str, access: str):
    def register(function):
        ROUTES.append((tuple(methods.split()), re.compile(pattern), access, function))
        return function

    return register


def as_json(value) -> Reply:
    return Reply(200, json.dumps(value).encode(), {"Content-Type": "application/json"})


@route("GET", "/api/whoami-v2", READ)
def whoami(hub: FakeHub, request: Request) -> Reply:
    if request.user is None:
        raise Refused(401, "Invalid username or password.")
    token = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
    return as_json({"type": "user", "id": "1", "name": request.user, "fullname": "", "orgs": [], "auth": token})


@route("POST", "/api/repos/create", READ)
def create_repository(hub: FakeHub, request: Request) -> Reply:
    """Like the real one, a new repository is not empty: its first commit holds .gitattributes."""
    payload = request.json()
    if payload.get("type") not in (None, "model"):
        raise NotImplementedError(f"a repository of type {payload['type']}")
    if request.user is None:
        raise Refused(401, "Invalid username or password.")
    owner = payload.get("organization") or request.user
    repo = f"{owner}/{payload['name']}"
    if owner != request.user:
        raise Refused(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
    if repo in hub.repositories:
        raise Refused(409, "You already created this model repo", url=f"{hub.url}/{repo}")
    private = payload.get("visibility") == "private" or bool(payload.get("private"))  # older clients send a boolean
    repository = hub.repositories[repo] = Repository(private)
    attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
    repository.commit("main", "initial commit", {".gitattributes": attributes.encode()})
    return as_json({"url": f"{hub.url}/{repo}", "name": repo, "id": repo})


@route("POST", "/api/validate-yaml", READ)
def validate_card(hub: FakeHub, request: Request) -> Reply:
    header = re.match(r"---\n(.*?)\n---\n", request.json()["content"], re.DOTALL)
    if header is None:
        return as_json({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
    try:
        yaml.safe_load(header[1])
    except yaml.YAMLError as error:
        problem = {"errors": [{"message": str(error)}], "warnings": []}
        raise Refused(400, "Invalid metadata", **problem) from error
    return as_json({"errors": [], "warnings": []})


@route("POST", f"{MODEL}/preupload/{REVISION}", WRITE)
def choose_upload_modes(repository: Repository, request: Request) -> Reply:
    """Says also what is there already: the client leaves unchanged files out of the commit."""
    present, files = repository.at(request.revision).files, []
    for path, size in ((file["path"], file["size"]) for file in request.json()["files"]):
        mode = "lfs" if is_lfs(path, size) else "regular"
        oid = etag(path, present[path]) if path in present else None
        files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return as_json({"files": files})


@route("POST", rf"/{REPO}\.git/info/lfs/objects/batch", WRITE)
def plan_uploads(repository: Repository, request: Request) -> Reply:
    objects = []
    for wanted in request.json()["objects"]:
        objects.append({"oid": wanted["oid"], "size": wanted["size"]})
        if wanted["oid"] not in repository.lfs:
            upload = {"href": f"{request.url}/upload/{request.repo}/{wanted['oid']}"}
            verify = {"href": f"{request.url}/api/models/{request.repo}/lfs-verify"}
            objects[-1]["actions"] = {"upload": upload, "verify": verify}
    return as_json({"transfer": "basic", "objects": objects})


@route("PUT", f"/upload/{REPO}/(?P<path>[0-9a-f]{{64}})", OPEN)
def store_object(repository: Repository, request: Request) -> Reply:
    if hashlib.sha256(request.body).hexdigest() != request.path:
        raise Refused(400, "the content does not have the SHA-256 that was announced")
    repository.lfs[request.path] = request.body
    return Reply()


@route("POST", f"{MODEL}/lfs-verify", WRITE)
def verify_object(repository: Repository, request: Request) -> Reply:
    wanted = request.json()
    if len(repository.lfs.get(wanted["oid"], b"")) != wanted["size"]:
        raise Refused(404, "the object was not uploaded")
    return as_json({})


@route("POST", f"{MODEL}/commit/{REVISION}", WRITE)
def make_commit(repository: Repository, request: Request) -> Reply:
    if request.query.get("create_pr"):
        raise NotImplementedError("pull requests")
    if request.revision not in repository.branches:
        raise Refused(404, f"Invalid rev id: {request.revision}", "RevisionNotFound")
    head = repository.at(request.revision)
    (_, header), *operations = [json.loads(line).values() for line in request.body.splitlines()]
    if header.get("parentCommit", head.id) != head.id:
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    files = dict(head.files)
    for operation, value in operations:
        apply_operation(repository, files, operation, value)
    commit = repository.commit(request.revision, header["summary"], files)
    url = f"{request.url}/{request.repo}/commit/{commit.id}"
    return as_json({"success": True, "commitOid": commit.id, "commitUrl": url, "hookOutput": ""})


def apply_operation(repository: Repository, files: dict[str, bytes], operation: str, value: dict) -> None:
    path = value["path"]
    if operation == "file":
        files[path] = base64.b64decode(value["content"])
    elif operation == "lfsFile":
        if value["oid"] not in repository.lfs:
            raise Refused(400, f"Your push was rejected: the LFS object of {path} was never uploaded")
        files[path] = repository.lfs[value["oid"]]
    elif operation in ("deletedFile", "deletedFolder"):
        gone = [name for name in files if name == path or name.startswith(path.rstrip("/") + "/")]
        if not gone:
            raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
        for name in gone:
            del files[name]
    else:
        raise NotImplementedError(f"the operation {operation} in a commit")


@route("GET", f"{MODEL}(/revision/{REVISION})?", READ)
def model_information(repository: Repository, request: Request) -> Reply:
    commit = repository.at(request.revision)
    siblings = [{"rfilename": path, "size": len(data)} for path, data in sorted(commit.files.items())]
    identity = {"id": request.repo, "author": request.repo.split("/")[0], "sha": commit.id, "siblings": siblings}
    return as_json(identity | {"private": repository.private, "gated": False, "disabled": False, "tags": []})


@route("GET", f"{MODEL}/tree/{REVISION}(/(?P<path>.+))?", READ)
def list_tree(repository: Repository, request: Request) -> Reply:
    """The files below a folder, or what is directly in it."""
    commit, folder = repository.at(request.revision), request.path + "/" if request.path else ""
    entries = {}
    for path, data in sorted(commit.files.items()):
        if path.startswith(folder):
            name, *deeper = path.removeprefix(folder).split("/")
            if deeper and request.query.get("recursive", "").lower() not in ("true", "1"):
                entries[name] = {"type": "directory", "path": folder + name, "oid": commit.id, "size": 0}
            else:
                entries[path] = describe(path, data)
    if folder and not entries:
        raise Refused(404, f"{request.path} does not exist on {request.revision}", "EntryNotFound")
    return as_json(list(entries.values()))


@route("GET HEAD", f"/{NO_OWNER}/resolve/{REVISION}/(?P<path>.+)", READ)
@route("GET HEAD", f"(?:/datasets)?/{REPO}/resolve/{REVISION}/(?P<path>.+)", READ)
def send_file(repository: Repository, request: Request) -> Reply:
    commit = repository.at(request.revision)
    headers = {"X-Repo-Commit": commit.id, "Accept-Ranges": "bytes"}
    if request.path not in commit.files:
        missing = Refused(404, "Entry not found", "EntryNotFound")
        missing.reply.headers |= headers
        raise missing
    data = commit.files[request.path]
    headers["ETag"] = f'"{etag(request.path, data)}"'
    if is_lfs(request.path, len(data)):
        headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(data))}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if asked is None:
        return Reply(200, data, headers)
    first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
    if first >= len(data):
        return Reply(416, b"", headers | {"Content-Range": f"bytes */{len(data)}"})
    return Reply(206, data[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{len(data)}"})


@route("POST", f"{MODEL}/tag/{REVISION}", WRITE)
def create_tag(repository: Repository, request: Request) -> Reply:
    return add_reference(repository.tags, request.json()["tag"], repository.at(request.revision))


@route("POST", f"{MODEL}/branch/{REVISION}", WRITE)
def create_branch(repository: Repository, request: Request) -> Reply:
    start = repository.at(request.json().get("startingPoint") or "main")
    return add_reference(repository.branches, request.revision, start)


def add_reference(references: dict[str, str], name: str, commit: Commit) -> Reply:
    if name in references:
        raise Refused(409, f"Reference already exists: {name}")
    references[name] = commit.id
    return as_json({})


@route("GET", f"{MODEL}/refs", READ)
def list_references(repository: Repository, request: Request) -> Reply:
    def listed(kind: str, references: dict[str, str]) -> list[dict]:
        return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": c} for n, c in references.items()]

    branches, tags = listed("heads", repository.branches), listed("tags", repository.tags)
    return as_json({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})


class Server(ThreadingHTTPServer):
    """Knows its open connections: a client keeps them for its next request, and their threads would outlive a test."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub: FakeHub):
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub = hub
        self.connections: list[tuple[socket.socket, threading.Thread]] = []

    def process_request(self, request, client_address):
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        self.connections.append((request, thread))
        thread.start()

    def close_connections(self) -> None:
        for connection, thread in self.connections:
            break_off(connection)
            thread.join()

    def handle_error(self, request, client_address):
        """Nothing is printed. A client that went away is not an error."""
        error = sys.exception()
        if not isinstance(error, ConnectionError):
            self.hub.errors.append(error)


def break_off(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other side was faster
        connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def handle_any(self) -> None:
        hub = self.server.hub
        if "Transfer-Encoding" in self.headers:
            raise NotImplementedError("a body in chunks")
        fault = hub.next_fault(self.command, self.path)
        drop = fault is not None and fault.reply is None
        uploads = self.headers.get("Content-Length", "0") != "0"
        if drop and uploads and fault.after_bytes is not None:
            self.read_body(fault.after_bytes)
            return self.finish_request(0)
        body = self.read_body()
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = (fault and fault.reply) or hub.answer(self.command, self.path, headers, body)
        if drop:
            return self.finish_request(0, reply, fault.after_bytes or 0)
        self.finish_request(reply.status, reply)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

    def read_body(self, limit: int | None = None) -> bytes:
        """The body, or its first bytes."""
        size = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size if limit is None else min(size, limit))
        if limit is None and len(body) < size:
            self.finish_request(0)
            raise ConnectionError("the client broke off")
        return body

    def finish_request(self, status: int, reply: Reply | None = None, at_most: int | None = None) -> None:
        """Send the reply, or so many bytes of it; the request is on record before the client can know that it ended."""
        with self.server.hub.lock:
            self.server.hub.requests.append((self.command, self.path, status))
        if reply is not None and at_most != 0:
            self.send_response(reply.status)
            for name, value in (reply.headers | {"Content-Length": str(len(reply.body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body[:at_most])
        if status == 0:
            self.close_connection = True
            break_off(self.connection)

    def log_message(self, *_):
        """Not on stderr: `FakeHub.requests` is the log."""
