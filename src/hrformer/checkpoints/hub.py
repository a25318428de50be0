"""The Hugging Face Hub in both directions: files named by ``hf://`` references, and models pushed to a repository.

``huggingface_hub`` does the transfers, with its own cache, tokens (``HF_TOKEN`` or a login), ``HF_ENDPOINT`` and
``HF_HUB_OFFLINE``. It takes a tenth of a second to import, hence where it is used.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import unquote
from urllib.request import Request, urlopen

from hrformer.checkpoints.checkpoint import convert_checkpoint
from hrformer.checkpoints.model_card import CardFacts, config_text, write_card
from hrformer.checkpoints.registry import WeightEntry
from hrformer.checkpoints.weight_files import FORMAT, own_info, read_weights
from hrformer.models.model import Task

SCHEME = "hf://"
WEIGHTS_FILE = "model.safetensors"  # of a repository whose reference names no file
TIMEOUT = 30.0  # seconds without any data after which a connection counts as broken

_OFFLINE_VARIABLES = ("HRFORMER_OFFLINE", "HF_HUB_OFFLINE")
_REFERENCE = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@(refs/(?:pr|convert)/[^/]+|[^/@]+))?(?:/(.*))?", re.ASCII)
_FORMS = "hf://OWNER/REPO, hf://OWNER/REPO@REVISION or hf://OWNER/REPO/FILE"
_LOGIN = "set HF_TOKEN or run `hf auth login`"


class UploadError(RuntimeError):
    """A model could not be pushed to the Hub."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pushed:
    """A model that was uploaded."""

    address: str  # of the repository's page
    task: Task | None  # None for a bare backbone


@dataclass(frozen=True, kw_only=True, slots=True)
class HubFile:
    """One file of a model repository."""

    repository: str  # OWNER/REPO
    filename: str = WEIGHTS_FILE  # with its folders in the repository
    revision: str = "main"  # branch, tag or commit

    @classmethod
    def parse(cls, reference: str) -> HubFile:
        """What ``hf://OWNER/REPO[@REVISION][/FILE]`` names; a slash in a revision is written %2F. Else ValueError."""
        found = _REFERENCE.fullmatch(reference)
        filename, revision = (found[3] or WEIGHTS_FILE, unquote(found[2] or "main")) if found else ("", "")
        # Both become paths in the cache.
        if found is None or any(part in ("", ".", "..") for part in f"{filename}/{revision}".split("/")):
            raise ValueError(f"expected {_FORMS}, got {reference}")
        check_repository(found[1])
        return cls(repository=found[1], filename=filename, revision=revision)

    def url(self) -> str:
        """Where the file is served."""
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.repository, self.filename, revision=self.revision)

    def cached(self) -> Path | None:
        """The file in huggingface_hub's cache, which other programs share; None if it is not there."""
        from huggingface_hub import try_to_load_from_cache

        kept = try_to_load_from_cache(self.repository, self.filename, revision=self.revision)
        return Path(kept) if isinstance(kept, str) else None

    def fetch(self) -> Path:
        """The file as the repository has it now, or from the cache where there is no network.

        Raises:
            Exception: whatever went wrong, which differs between versions of the client; see :func:`reason_of`.
        """
        from huggingface_hub import hf_hub_download

        try:
            require_network()
            # Asked first, since the hub's client would try for 23 seconds, with five warnings.
            _reach(self.url())
        except OSError as error:
            if (kept := self.cached()) is not None:
                return kept
            raise ConnectionError(f"{plain_reason(error)}, and the file is not in the cache") from error
        return Path(hf_hub_download(self.repository, self.filename, revision=self.revision))

    def reason_of(self, error: Exception) -> str:
        """Why :meth:`fetch` failed, in one line without a full stop."""
        from huggingface_hub.errors import (
            EntryNotFoundError,
            GatedRepoError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        if isinstance(error, GatedRepoError):
            return f"{self.repository} is gated: ask for access on its page, then {_LOGIN}"
        if isinstance(error, RepositoryNotFoundError):
            private = "your token may not read it" if _token() else f"needs a token: {_LOGIN}"
            return f"there is no repository {self.repository}, or it is private and {private}"
        if isinstance(error, RevisionNotFoundError):
            return f"{self.repository} has no revision {self.revision!r}"
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return f"{self.repository} has no file {self.filename} at revision {self.revision!r}"
        if status_of(error) == 401:
            return f"the token is not accepted; {_LOGIN}"
        return plain_reason(error)


def check_repository(name: str) -> None:
    """Raise a ValueError unless a name is OWNER/REPO in the Hub's letters."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"no repository can be called {name!r}: {plain_reason(error)}") from error
    if name.count("/") != 1:
        raise ValueError(f"expected OWNER/REPO, such as me/my-model, got {name!r}")


def require_network() -> None:
    """Raise a ConnectionError where the user has switched the network off."""
    for variable in _OFFLINE_VARIABLES:
        if os.environ.get(variable, "").strip().lower() in ("1", "on", "yes", "true"):
            raise ConnectionError(f"{variable} is set, so the network is not used")


def _reach(url: str) -> None:
    """Ask a server for the head of an address; refusals are left to the hub's client, which knows their meaning."""
    try:
        urlopen(Request(url, method="HEAD"), timeout=TIMEOUT).close()
    except HTTPError as error:
        if error.code == 429 or error.code >= 500:
            raise


def status_of(error: Exception) -> int | None:
    """Status of the answer that an error of the hub's client is about."""
    return getattr(getattr(error, "response", None), "status_code", None)


def plain_reason(error: Exception) -> str:
    """First line of an error without its full stop."""
    # HTTPError is a URLError, too, with words of its own.
    text = f"no connection ({error.reason})" if type(error) is URLError else str(error).strip()
    return (text or type(error).__name__).splitlines()[0].rstrip(".")


def _token() -> str | None:
    from huggingface_hub import get_token

    return get_token()


def push_weights(
    weights: Path,
    repository: str,
    *,
    published: WeightEntry | None = None,
    card: Path | None = None,
    private: bool = False,
    message: str = "",
) -> Pushed:
    """Upload a model as one commit: ``model.safetensors`` in our format, ``README.md`` and ``config.json``.

    Args:
        weights: file of any layout that can be loaded; other layouts than ours are converted first.
        repository: OWNER/REPO, made if absent.
        published: the registry's entry of the file.
        card: the model card; None takes the ``.md`` file beside the weights, else writes one from their header.
        private: only for a repository that this makes or that is private already.
        message: of the commit; empty for a plain one.

    Raises:
        ValueError: bad name, or the file cannot be loaded.
        FileNotFoundError: no such file or card.
        UploadError: no token, no permission or no network.
    """
    check_repository(repository)
    if _token() is None:
        raise UploadError(f"there is no token for the Hub; {_LOGIN}")
    beside = weights.with_suffix(".md")
    given = card or (beside if beside.is_file() else None)
    text = given.expanduser().read_text(encoding="utf-8") if given is not None else None
    with _in_our_format(weights, published) as file:
        content = read_weights(file)
        info = own_info(content)
        assert info is not None, "files in our format have a header"
        facts = CardFacts.of(info, content.metadata, published)
        files: dict[str, str | bytes] = {
            WEIGHTS_FILE: str(file),
            "README.md": write_card(facts, repository, text).encode(),
            "config.json": config_text(facts).encode(),
        }
        try:
            address = _commit(files, repository, private=private, message=message or f"Upload {info.name}")
        except UploadError:
            raise
        except Exception as error:  # the hub's client raises what its transport does
            raise UploadError(f"cannot push to {repository}: {_push_reason(error)}.") from error
    return Pushed(address=address, task=info.task)


@contextmanager
def _in_our_format(weights: Path, published: WeightEntry | None) -> Iterator[Path]:
    """The file itself if it is ours, else a converted copy for as long as the context lasts."""
    if read_weights(weights).metadata.get("format") == FORMAT:
        yield weights
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / WEIGHTS_FILE
        convert_checkpoint(weights, file, published=published)
        yield file


def _commit(files: dict[str, str | bytes], repository: str, *, private: bool, message: str) -> str:
    """Make the repository if it is absent, and upload the contents (bytes) and files (paths) by their names there."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(library_name="hrformer")
    require_network()
    _reach(api.endpoint)
    api.create_repo(repository, private=private or None, exist_ok=True)
    if private and not api.model_info(repository).private:
        raise UploadError(f"{repository} is there already and public; make it private on its page, or push without")
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()]
    api.create_commit(repository, operations, commit_message=message)
    return f"{api.endpoint}/{repository}"


def _push_reason(error: Exception) -> str:
    """Why the Hub took no upload, in one line without a full stop."""
    status = status_of(error)
    if status == 401:
        return f"the token is not accepted; {_LOGIN}"
    if status in (403, 404):
        return "your token may not write there; it needs the permission to write, and the owner must be you or yours"
    if isinstance(error, ValueError):  # several lines, of which the last say what is wrong with the card
        return " ".join(str(error).split()).rstrip(".")
    return plain_reason(error)
