"""Files of a model on the Hugging Face hub, at one commit; the hub's own cache keeps them."""

from __future__ import annotations

import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from cptlib.data.pretrained import PATTERNS, check_folder, one_line
from cptlib.errors import CptError

if TYPE_CHECKING:
    from cptlib.data.pretrained import Pretrained

TIMEOUT = 20  # seconds for the first answer of the hub


def snapshot(model: Pretrained) -> Path:
    """The folder with the files of a model, downloaded first where they are absent.

    Only weights in safetensors, configuration and tokenizer are downloaded, and code if the model may run it.

    Raises
    ------
    CptError
        No such model or revision, access refused, no network, or no safetensors.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted = {
        "repo_id": model.name,
        "revision": model.revision,
        "allow_patterns": [*PATTERNS, *(["*.py"] if model.remote_code else [])],
        "ignore_patterns": ["*/*"],  # exports to other formats lie in folders of their own
    }
    try:
        folder = Path(snapshot_download(**wanted, local_files_only=True))
        check_folder(folder)
        if (folder / "tokenizer.json").exists():
            return folder
    except (LocalEntryNotFoundError, CptError):
        pass  # absent, or a download that was interrupted: the hub is asked
    _ask(model)
    print(f"fetching {model} from the hub", file=sys.stderr, flush=True)
    try:
        folder = Path(snapshot_download(**wanted))
    except Exception as error:  # noqa: BLE001 - the client lets errors of several libraries through
        raise CptError(f"pretrained model {model}: cannot be fetched: {one_line(error)}") from error
    check_folder(folder)
    return folder


def _ask(model: Pretrained) -> None:
    """One question before the download, which would try a hub that does not answer again and again."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        info = HfApi().model_info(model.name, revision=model.revision, timeout=TIMEOUT)
    except GatedRepoError:
        why = "the hub wants a login that may read it: hf auth login"
    except RevisionNotFoundError:
        why = f"the hub has no revision {model.revision} of it"
    except RepositoryNotFoundError:
        why = "the hub has no such model, or it is private"
    except HfHubHTTPError as error:
        why = f"the hub answers: {one_line(error)}"
    except Exception as error:  # noqa: BLE001 - of whatever library the client sends its requests with
        why = f"is not on this machine, and the hub cannot be reached ({one_line(error)})"
    else:
        names = [file.rfilename for file in info.siblings or ()]
        if any(fnmatch(name, "*.safetensors") and "/" not in name for name in names):
            return
        why = "no safetensors in its repository, and pickled weights are never loaded"
    raise CptError(f"pretrained model {model}: {why}")
