#!/usr/bin/env python3
"""Make `.venv` for `make`: check what is needed, install the pinned packages, and do nothing when all is in place.

Standard library only, and syntax that any Python 3 reads, so that a Python that is too old gets a clear line and not
a traceback. Every failure is one line on stderr and exit status 1; pip's own words are in the log that the line names.
"""

from __future__ import print_function

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OLDEST, NEWEST = (3, 11), (3, 13)  # as `requires-python` in pyproject.toml; tests/test_setup.py holds the two together
NEEDED_GB = 4.0
STAMP, HALF_MADE = "cptlib-setup-stamp", "cptlib-setup-unfinished"
NETWORK = re.compile(
    r"NewConnectionError|ConnectTimeoutError|Connection refused|Max retries exceeded|Name or service not known|"
    r"Temporary failure in name resolution|Network is unreachable|ProxyError|Failed to establish a new connection|"
    r"Connection broken|connection error|Read timed out|getaddrinfo failed"
)


class SetupError(Exception):
    """A set-up that cannot go on; the message is the one line to print."""


def allowed():
    return "%d.%d to %d.%d" % (OLDEST + NEWEST)


def python_version(executable):
    """(major, minor) of an interpreter, or None where it does not run."""
    code = "import sys; print('%d %d' % sys.version_info[:2])"
    try:
        out = subprocess.check_output([executable, "-c", code], stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return None
    return tuple(int(part) for part in out.split())


def find_python():
    """The interpreter that runs this script if its version is allowed, else an allowed one on the PATH."""
    found = sys.version_info[:2]
    if OLDEST <= found <= NEWEST:
        return sys.executable
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        other = shutil.which("python3.%d" % minor)
        if other and python_version(other) == (3, minor):
            return other
    raise SetupError(
        "found Python %d.%d (%s), but cptlib needs Python %s: install one, or name it: make PYTHON=/path/to/python3"
        % (found + (sys.executable, allowed()))
    )


def check_disk(folder):
    free = shutil.disk_usage(folder).free / 1e9
    if free < NEEDED_GB:
        raise SetupError(
            "%.1f GB free in %s, but the set-up needs about %.0f GB: make room, or name another place: make VENV=/path"
            % (free, folder, NEEDED_GB)
        )


def wanted_stamp(python):
    """A digest of all that decides what the set-up installs."""
    sha = hashlib.sha256(repr((python_version(python), EXTRAS)).encode())
    for name in ("pyproject.toml", "constraints.txt"):
        with open(os.path.join(ROOT, name), "rb") as file:
            sha.update(file.read())
    return sha.hexdigest()


EXTRAS = "book,test"


def read(path):
    try:
        with open(path) as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return None


def inside(venv, name):
    folder = "Scripts" if os.name == "nt" else "bin"
    return os.path.join(venv, folder, name)


def is_whole(venv):
    """Whether a virtual environment stands there, was not left unfinished, and runs."""
    python = inside(venv, "python")
    return not os.path.exists(os.path.join(venv, HALF_MADE)) and python_version(python) is not None


def create(venv, python):
    """An empty virtual environment with pip, marked unfinished until everything is installed."""
    if os.path.islink(venv) or os.path.isfile(venv):
        os.remove(venv)
    elif os.path.isdir(venv):
        shutil.rmtree(venv)
    os.makedirs(venv)
    open(os.path.join(venv, HALF_MADE), "w").close()
    if subprocess.call([python, "-c", "import ensurepip, venv"], stderr=subprocess.DEVNULL) != 0:
        shutil.rmtree(venv)
        raise SetupError(
            "%s has no ensurepip and so cannot make %s: on Debian, apt-get install python3-venv" % (python, venv)
        )
    run = subprocess.Popen([python, "-m", "venv", venv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    words = run.communicate()[0].decode("utf-8", "replace").strip().splitlines()
    if run.returncode != 0:
        raise SetupError("cannot make %s: %s" % (venv, words[-1] if words else "venv failed"))


def explain(log):
    """One line for what pip's output says went wrong."""
    if "No space left on device" in log:
        return "the disk is full"
    if NETWORK.search(log):
        return "the Python package index cannot be reached: check the network, a proxy, or pip's index settings"
    if "ResolutionImpossible" in log or "conflicting dependencies" in log:
        return "the pinned versions cannot be installed together here"
    # the build of a package runs pip again: its errors are indented, and the outer one only says that it failed
    lines = [line.strip() for line in log.splitlines()]
    errors = [line for line in lines if line.lower().startswith("error:") and "subprocess-exited" not in line]
    missing = [line for line in errors if "No matching distribution" in line]
    line = (missing or errors or ["ERROR: pip failed"])[0]
    return "pip: " + line[len("ERROR:") :].strip()


def install(venv, log_path):
    """`pip install -e .[extras]` under the pins, with a sign of life every ten seconds."""
    command = [inside(venv, "python"), "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    command += ["-c", os.path.join(ROOT, "constraints.txt"), "-e", "%s[%s]" % (ROOT, EXTRAS)]
    environment = dict(os.environ)
    environment.setdefault("PIP_RETRIES", "2")
    started = last = time.time()
    folder = os.path.dirname(log_path)
    if not os.path.isdir(folder):
        os.makedirs(folder)
    with open(log_path, "wb") as log:
        run = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=ROOT)
        try:
            while run.poll() is None:
                time.sleep(0.2)
                if time.time() - last >= 10:
                    last = time.time()
                    with open(log_path, "rb") as reader:
                        lines = reader.read().decode("utf-8", "replace").strip().splitlines()
                    print("  %3.0f s  %s" % (last - started, lines[-1].strip()[:100] if lines else "pip is starting"))
                    sys.stdout.flush()
        except BaseException:
            run.terminate()
            run.wait()
            raise
    if run.returncode != 0:
        with open(log_path, "rb") as reader:
            why = explain(reader.read().decode("utf-8", "replace"))
        raise SetupError("installing packages failed: %s (details: %s)" % (why, log_path))


def set_up(venv):
    python = find_python()
    stamp_path, stamp = os.path.join(venv, STAMP), wanted_stamp(python)
    if is_whole(venv):
        version = python_version(inside(venv, "python"))
        if not OLDEST <= version <= NEWEST:
            raise SetupError(
                "%s holds Python %d.%d, but cptlib needs Python %s: remove that folder and run this again"
                % ((venv,) + version + (allowed(),))
            )
        stamp = wanted_stamp(inside(venv, "python"))
        if read(stamp_path) == stamp:
            return
        print("set-up: bringing %s up to date" % venv)
    else:
        check_disk(os.path.dirname(os.path.abspath(venv)))
        print("set-up: making %s (about 2 GB; one to three minutes on a good line)" % venv)
        sys.stdout.flush()
        create(venv, python)
    started = time.time()
    half_made = os.path.join(venv, HALF_MADE)
    open(half_made, "w").close()
    install(venv, os.path.join(ROOT, "data", "logs", "setup.log"))
    with open(stamp_path + ".part", "w") as file:
        file.write(stamp)
    os.rename(stamp_path + ".part", stamp_path)
    os.remove(half_made)
    print("set-up: done in %.0f s" % (time.time() - started))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", default=os.path.join(ROOT, ".venv"), help="the virtual environment to make (.venv)")
    venv = os.path.abspath(parser.parse_args().venv)
    try:
        set_up(venv)
    except SetupError as error:
        sys.stderr.write("set-up: %s\n" % error)
        return 1
    except OSError as error:
        sys.stderr.write("set-up: %s: %s\n" % (error.filename or venv, error.strerror or error))
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("set-up: interrupted; the next call starts it again\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
