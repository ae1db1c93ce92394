"""Fetching a model from the hub: by its own library, into its own cache, with every file checked."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from scratchlm.checkpoints.files import disk_errors, write_text
from scratchlm.checkpoints.headers import is_plain_name
from scratchlm.checkpoints.hub_cache import (
    INDEX,
    WEIGHTS,
    git_hash,
    hub_cache_folder,
    is_commit,
    record_path,
    repository_folder,
    unfinished_path,
)
from scratchlm.checkpoints.meter import Meter
from scratchlm.checkpoints.stored import Recorded, sha256_of, write_record
from scratchlm.errors import UserError

TIMEOUT = 10.0
"""Seconds for the hub to say what a model consists of."""
_SMALL = (".json", ".txt", ".model", ".jinja")
_POLL = 0.2


class HubUnreachableError(UserError):
    """The hub does not answer, so the model may have to come from elsewhere."""


@dataclass(frozen=True)
class HubFile:
    """A file as the hub describes it."""

    name: str
    size: int
    sha256: str | None
    """Of large files only."""
    git: str
    """Git's hash of the content; of a large file, of the pointer to it."""

    @property
    def blob(self) -> str:
        """What the hub's cache calls the content."""
        return self.sha256 or self.git


def pull_hub(hub_id: str, meter: Meter) -> Path:
    """Fetch a model's config, weights (safetensors only) and tokenizer; return their folder.

    What is there already and whole is not fetched again; what was broken off is gone on with.

    Raises:
        HubUnreachableError: the hub cannot be reached.
        UserError: it has no such model, guards it, has only pickled weights, or a file is not what the hub says.
    """
    endpoint = os.environ.get("HF_ENDPOINT") or None
    commit, listed = _listed(hub_id, endpoint)
    files = choose_files(hub_id, listed)
    snapshot = repository_folder(hub_id) / "snapshots" / commit
    with disk_errors(f"{hub_id} into {hub_cache_folder()}", "free some space, or set HF_HOME to another disk"):
        _write(unfinished_path(hub_id), commit)
        done, total = 0, sum(file.size for file in files)
        for file in files:
            with _watched(repository_folder(hub_id) / "blobs", file, done, total, meter):
                _fetch(hub_id, commit, file, snapshot / file.name, endpoint)
            done += file.size
        _write(repository_folder(hub_id) / "refs" / "main", commit)
        recorded = {file.name: Recorded(file.size, file.sha256 or sha256_of(snapshot / file.name)) for file in files}
        write_record(record_path(hub_id, commit), recorded, f"{hub_id}@{commit}")
        unfinished_path(hub_id).unlink(missing_ok=True)
    return snapshot


def _listed(hub_id: str, endpoint: str | None) -> tuple[str, list[HubFile]]:
    """The newest commit of a repository, and its files."""
    import huggingface_hub

    try:
        with _explained(hub_id), _quiet_library():
            info = huggingface_hub.HfApi(endpoint=endpoint).model_info(hub_id, files_metadata=True, timeout=TIMEOUT)
        commit, files = str(info.sha), [_described(hub_id, sibling) for sibling in info.siblings or []]
        if not is_commit(commit):
            raise ValueError("no commit")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"the hub's answer about {hub_id} makes no sense ({str(error)[:60]}); try again later"
        ) from error
    return commit, files


def choose_files(hub_id: str, files: Sequence[HubFile]) -> list[HubFile]:
    """Of a repository's files those that are wanted: config first, then the tokenizer's, then the weights.

    Raises:
        UserError: there is no config or there are no safetensors.
    """
    names = {file.name for file in files}
    if "config.json" not in names:
        held = ", ".join(sorted({Path(name).suffix for name in names} & {".gguf", ".safetensors", ".bin"})) or "no"
        raise UserError(f"{hub_id} has no config.json ({held} weights); of a GGUF, fetch the file and give its path")
    if not names & {WEIGHTS, INDEX}:
        if any(name.endswith((".bin", ".pt", ".pth", ".ckpt")) for name in names):
            raise UserError(
                f"{hub_id} has pickled weights only, which can run any code when they are opened; convert them: open "
                "the model in transformers where you trust it, and give the folder that save_pretrained writes"
            )
        raise UserError(f"{hub_id} has no {WEIGHTS}; choose a model that comes as safetensors")
    wanted = [file for file in files if _wanted(file.name, sharded=INDEX in names)]
    return sorted(wanted, key=lambda file: (file.name.endswith(".safetensors"), file.name != "config.json", file.name))


def _wanted(name: str, *, sharded: bool) -> bool:
    if "/" in name:  # of folders only such as 1_Pooling/config.json, which tell how a model's vectors are made
        return name.count("/") == 1 and name.endswith("/config.json") and name[0].isdigit()
    if name.endswith(".safetensors"):
        return name.startswith("model-") if sharded else name == WEIGHTS
    return name.endswith(_SMALL)


def _described(hub_id: str, sibling: Any) -> HubFile:
    lfs = sibling.lfs
    sha256 = (lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)) if lfs else None
    if not is_plain_name(sibling.rfilename, folders=True):
        raise UserError(f"{hub_id} has a file called {sibling.rfilename[:80]!r}, which may lie anywhere; not fetched")
    return HubFile(sibling.rfilename, int(sibling.size or 0), sha256, str(sibling.blob_id or ""))


def _fetch(hub_id: str, commit: str, file: HubFile, path: Path, endpoint: str | None) -> None:
    """Have ``path`` hold the file, whole and as the hub describes it."""
    import huggingface_hub

    if path.exists():
        if _is(file, path):
            return
        _remove(path, repository_folder(hub_id))  # a damaged copy, or a pull was killed before it could check
    try:
        with _explained(hub_id), _quiet_library():
            cache = str(hub_cache_folder())
            huggingface_hub.hf_hub_download(hub_id, file.name, revision=commit, cache_dir=cache, endpoint=endpoint)
    except HubUnreachableError as error:  # it could be reached a moment ago: half a model is no reason to take another
        raise UserError(f"{error}; what came so far is kept") from error
    if not _is(file, path):
        _remove(path, repository_folder(hub_id))
        raise UserError(
            f"{file.name} of {hub_id} is not what the hub says it is (size or sha256 differ), so it was thrown away; "
            "try again, and if it comes again, tell the hub"
        )


def _is(file: HubFile, path: Path) -> bool:
    if path.stat().st_size != file.size:
        return False
    return sha256_of(path) == file.sha256 if file.sha256 else git_hash(path) == file.git


def _remove(path: Path, repository: Path) -> None:
    """Forget a file and, where it is a link into the repository's blobs, what it points to."""
    content = path.resolve()
    if content.parent == (repository / "blobs").resolve():
        content.unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


@contextlib.contextmanager
def _watched(blobs: Path, file: HubFile, before: int, total: int, meter: Meter) -> Iterator[None]:
    """Tell the meter how far a file has come, by the size of what the hub's library has written of it."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_POLL):
            sizes = [0]
            for part in blobs.glob(f"{file.blob}*"):
                with contextlib.suppress(OSError):  # renamed in between
                    sizes.append(part.stat().st_size)
            meter.show(file.name, before + min(max(sizes), file.size), total)

    meter.show(file.name, before, total)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    meter.show(file.name, before + file.size, total)


@contextlib.contextmanager
def _quiet_library() -> Iterator[None]:
    """The hub's library prints bars and warnings of its own; what matters is told by us."""
    library: Any = import_module("huggingface_hub.utils")
    shown, level = not library.are_progress_bars_disabled(), library.logging.get_verbosity()
    library.disable_progress_bars()
    library.logging.set_verbosity_error()
    try:
        yield
    finally:
        library.logging.set_verbosity(level)
        if shown:
            library.enable_progress_bars()


@contextlib.contextmanager
def _explained(hub_id: str) -> Iterator[None]:
    """Every way in which the hub can fail, as one line."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        yield
    except UserError:
        raise
    except GatedRepoError as error:
        raise UserError(
            f"{hub_id} is gated: accept its licence on its page at the hub, then log in here with: hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"the hub has no model {hub_id}, or it is private; check the spelling, or log in with: hf auth login"
        ) from error
    except LocalEntryNotFoundError as error:
        raise _unreachable(hub_id, error.__cause__ or error) from error
    except HfHubHTTPError as error:
        raise _refused(hub_id, error) from error
    except (ConnectionError, TimeoutError) as error:
        raise _unreachable(hub_id, error) from error
    except OSError as error:
        if error.errno is not None and error.filename is not None:
            raise  # of this machine's disk
        raise _unreachable(hub_id, error) from error
    except Exception as error:  # newer versions of the hub's library speak through httpx, whose errors are no OSError
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpcore", "requests", "huggingface_hub"):
            raise
        raise _unreachable(hub_id, error) from error


def _refused(hub_id: str, error: Any) -> UserError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return UserError(f"the hub refuses to give {hub_id} ({status}): log in anew with: hf auth login")
    if status == 404:
        return UserError(f"the hub has no {hub_id} (404); check the spelling")
    if status == 429:
        return UserError(f"the hub wants fewer requests (429) and did not give {hub_id}; wait some minutes, try again")
    return HubUnreachableError(f"the hub answered {status or 'nothing'} when asked for {hub_id}; try again later")


def _unreachable(hub_id: str, error: BaseException) -> UserError:
    if getattr(getattr(error, "response", None), "status_code", None):
        return _refused(hub_id, error)
    if "timeout" in type(error).__name__.lower() or "timed out" in str(error).lower():
        return HubUnreachableError(f"the hub did not answer in time about {hub_id}; try again later")
    return HubUnreachableError(
        f"the hub cannot be reached for {hub_id} ({type(error).__name__}); check the network, and try again"
    )
