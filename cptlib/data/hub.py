"""Files of a model on the Hugging Face hub, at one commit; the hub's own cache keeps them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cptlib.data.pretrained import PATTERNS, check_folder, one_line
from cptlib.errors import CptError

if TYPE_CHECKING:
    from cptlib.data.pretrained import Pretrained


def snapshot(model: Pretrained) -> Path:
    """The folder with the files of a model, downloaded first where they are absent.

    Only weights in safetensors, configuration and tokenizer are downloaded, and code if the model may run it.

    Raises
    ------
    CptError
        No such model or revision, access refused, no network, or no safetensors.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    wanted = {
        "repo_id": model.name,
        "revision": model.revision,
        "allow_patterns": [*PATTERNS, *(["*.py"] if model.remote_code else [])],
        "ignore_patterns": ["*/*"],  # exports to other formats lie in folders of their own
    }
    try:
        folder = Path(snapshot_download(**wanted, local_files_only=True))
        check_folder(folder)
        return folder
    except (LocalEntryNotFoundError, CptError):  # absent, or not whole: the hub is asked
        pass
    print(f"fetching {model.name} from the hub", file=sys.stderr, flush=True)
    try:
        folder = Path(snapshot_download(**wanted))
    except GatedRepoError:
        raise CptError(f"pretrained model {model}: the hub wants a login that may read it: hf auth login") from None
    except RevisionNotFoundError:
        raise CptError(f"pretrained model {model}: the hub has no revision {model.revision} of it") from None
    except RepositoryNotFoundError:
        raise CptError(f"pretrained model {model}: the hub has no such model, or it is private") from None
    except LocalEntryNotFoundError:
        raise CptError(f"pretrained model {model}: is not on this machine, and the hub cannot be reached") from None
    except Exception as error:  # noqa: BLE001 - the client lets errors of several libraries through
        raise CptError(f"pretrained model {model}: cannot be fetched: {one_line(error)}") from error
    check_folder(folder)
    return folder
