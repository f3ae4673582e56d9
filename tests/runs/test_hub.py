"""Models of a hub, fetched by its own client from a server on this machine, and what is said when there are none."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import runs_pico
from runs_hub import COMMIT, MODEL, serving

# the client reads its settings when it is imported, so it runs in a process of its own
CODE = """
import json, sys
from cptlib.data.pretrained import Pretrained
from cptlib.errors import CptError
for name, revision in json.loads(sys.argv[1]):
    try:
        folder = Pretrained(name, revision).files()
        print(json.dumps(sorted(path.name for path in folder.iterdir())))
    except CptError as error:
        print(json.dumps(str(error)))
"""


def fetch(wanted: list[tuple[str, str]], endpoint: str, home) -> list:
    """What a fresh process that knows this hub gets: the names of the files, or the error."""
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*"}
    command = [sys.executable, "-c", CODE, json.dumps(wanted)]
    out = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=120)
    return [json.loads(line) for line in out.stdout.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = runs_pico.write(tmp_path_factory.mktemp("repository"), "llama")
    for name in ("pytorch_model.bin", "own.py", "README.md"):
        (made / name).write_text("not to be fetched")
    return made


def test_weights_configuration_and_tokenizer_are_fetched_once_and_nothing_else(folder, tmp_path):
    with serving(folder) as (endpoint, asked):
        (names,) = fetch([(MODEL, COMMIT)], endpoint, tmp_path)
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(names)
        assert not {"pytorch_model.bin", "own.py", "README.md"} & set(names)
        assert not [path for path in asked if ".bin" in path or ".py" in path]
        del asked[:]
        found = fetch([(MODEL, COMMIT), (MODEL, COMMIT[::-1]), ("owner/none", COMMIT)], endpoint, tmp_path)
        assert found[0] == names and not [path for path in asked if COMMIT in path and MODEL in path]
    assert "has no revision" in found[1] and "has no such model" in found[2]
    assert fetch([(MODEL, COMMIT)], "http://127.0.0.1:9", tmp_path) == [names]  # without a network


def test_no_network_and_no_safetensors_are_one_clear_line(folder, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "config.json").write_text("{}")
    (tmp_path / "bin" / "pytorch_model.bin").write_text("")
    (offline,) = fetch([(MODEL, COMMIT)], "http://127.0.0.1:9", tmp_path / "home")
    with serving(tmp_path / "bin") as (endpoint, _):
        (pickled,) = fetch([(MODEL, COMMIT)], endpoint, tmp_path / "home")
    assert "is not on this machine, and the hub cannot be reached" in offline
    assert "no safetensors in its repository" in pickled
    assert "\n" not in offline + pickled
