"""Faults that are real: processes killed, disks full, clocks wrong. Each ends with the records of a calm sweep."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import threading
import time

import pytest
from runs_killed import die_after_append, die_between_renames, die_in_append, die_in_checkpoint, limit_memory, start
from runs_world import Here, begun, long, outcomes, under_way, until

from cptlib.errors import CptError
from cptlib.files import aside
from cptlib.runs import checkpoints
from cptlib.runs.memory import fixed_bytes, free_bytes, needed_bytes
from cptlib.runs.progress import Progress
from cptlib.runs.spec import AdamW
from cptlib.runs.store import Store
from cptlib.runs.sweep import SweepError, sweep
from cptlib.runs.train import Engine

CPU = Engine(device="cpu", checkpoint_seconds=0.02)
EVERY_STEP = Engine(device="cpu", checkpoint_seconds=0)
KILLS = int(os.environ.get("CPTLIB_TEST_KILLS", 6))


def here(specs, **options):
    return sweep(specs, "demo", "test", executor=Here(), report=str, **{"engine": CPU} | options)


def leftovers(cache) -> list[str]:
    """Files and folders that a killed writer left under temporary names, or a sweep that is over."""
    found = [*cache.rglob("*.part"), *cache.rglob(".resume.*"), *cache.rglob(".final.*"), *cache.rglob("*.previous")]
    return [str(path) for path in [*found, *cache.glob("sweeps/*")]]


# --- killed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "arguments"),
    [
        (die_in_checkpoint, ("resume", 2)),
        (die_in_checkpoint, ("final", 1)),
        (die_between_renames, (1,)),
        (die_in_append, (2,)),
    ],
    ids=["checkpoint", "final weights", "between renames", "append"],
)
def test_killed_in_the_middle_of_a_write(family, world, cache, undisturbed, how, arguments):
    process = start(world, cache, family, how, *arguments, engine=Engine(device="cpu", checkpoint_seconds=0))
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    before = Store("demo").load()
    assert len(before) == (1 if how is die_in_append else 0)
    assert leftovers(cache)  # the half-written file, and the lease of the sweep
    after = here(family)
    assert outcomes(after) == undisturbed(family)
    assert all(after[i] == record for i, record in before.items()) and leftovers(cache) == []


def test_killed_after_its_last_record(family, world, cache, undisturbed):
    process = start(world, cache, family, die_after_append, len(family))
    process.join(300)
    assert process.exitcode == -signal.SIGKILL and leftovers(cache)  # the lease
    assert outcomes(here(family)) == undisturbed(family) and leftovers(cache) == []


def test_killed_at_random_moments(family, tiny, world, cache, undisturbed):
    specs = [*family, tiny(seed=2), long(3, 150), tiny(start=long(3, 150), seed=1)]
    moments = random.Random(20260101)
    alive = 0
    for _ in range(KILLS):
        process = start(world, cache, specs)
        process.join(moments.uniform(0.05, 1.0))
        alive += process.is_alive()
        process.kill()
        process.join()
    records = here(specs)
    assert alive and outcomes(records) == undisturbed(specs) == outcomes(Store("demo").load())
    assert leftovers(cache) == [] and max(len(begun(spec.id)) for spec in specs) <= KILLS + 1


def test_control_c_ends_within_two_seconds_and_goes_on_later(world, cache, undisturbed):
    spec = long(1)
    process = start(world, cache, [spec], workers=1)
    worker = under_way(spec.id)
    os.kill(worker, signal.SIGINT)  # a terminal sends it to every process; the worker leaves it to the sweep
    begin = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130 and time.monotonic() - begin < 2
    until(lambda: not os.path.exists(f"/proc/{worker}"))
    step = checkpoints.load(checkpoints.folder(spec.id, "resume"))[1]["step"]
    assert 0 < step < spec.steps and Store("demo").load() == {} and leftovers(cache) == []
    assert outcomes(here([spec])) == undisturbed([spec])


def test_two_sweeps_at_once_train_each_run_once(family, tiny, world, cache, undisturbed):
    specs = [*family, long(4, 60), long(5, 60)]
    both = [start(world, cache, order) for order in (specs, specs[::-1])]
    for process in both:
        process.join(300)
    assert [process.exitcode for process in both] == [0, 0]
    assert [len(begun(spec.id)) for spec in specs] == [1] * len(specs)
    assert outcomes(Store("demo").load()) == undisturbed(specs)


def test_a_run_that_another_sweep_trains_comes_last_and_is_not_trained_again(tiny, world, cache):
    shared, own = long(6), tiny(seed=2)
    other = start(world, cache, [shared])
    under_way(shared.id)
    lines = []
    records = sweep([shared, own], "demo", "test", engine=CPU, executor=Here(), report=lines.append)
    other.join(300)
    assert set(records) == {shared.id, own.id} and [len(begun(s.id)) for s in (shared, own)] == [1, 1]
    told = [i for i, line in enumerate(lines) if f"{shared.id} is being trained by another sweep" in line]
    mine = [i for i, line in enumerate(lines) if own.id[:8] in line]
    assert told < mine < [i for i, line in enumerate(lines) if "trained by another sweep  " in line]


# --- damaged ----------------------------------------------------------------------------------------------------------


def damage(path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 3] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["truncated", "flipped"])
@pytest.mark.parametrize("name", [checkpoints.TENSORS, checkpoints.STATE])
def test_a_damaged_checkpoint_is_set_aside_and_the_run_begins_anew(world, cache, undisturbed, how, name):
    spec = long(1, 100)
    process = start(world, cache, [spec], die_in_checkpoint, "resume", 3, engine=EVERY_STEP)
    process.join(300)
    damage(checkpoints.folder(spec.id, "resume") / name, how)
    with pytest.warns(UserWarning, match=r"checkpoint .*resume is damaged \(.*\); set aside as resume\.damaged-1"):
        records = here([spec])
    assert outcomes(records) == undisturbed([spec])


@pytest.mark.parametrize("name", [checkpoints.TENSORS, checkpoints.STATE])
def test_damaged_weights_of_a_start_are_trained_again(family, cache, undisturbed, name):
    base, a, b = family
    here([base, a])
    damage(checkpoints.folder(base.id, "final") / name, "flipped")
    with pytest.warns(UserWarning, match=r"checkpoint .*final is damaged"):
        records = here([b])
    assert len(begun(base.id)) == 2 and outcomes(records) == undisturbed([b])


def test_names_of_what_is_set_aside_do_not_depend_on_the_clock(tmp_path):
    for number in (1, 2, 3):
        (tmp_path / "x").write_text(str(number))
        assert aside(tmp_path / "x").name == f"x.damaged-{number}"
    (tmp_path / "x.damaged-2").unlink()
    (tmp_path / "x").touch()
    assert aside(tmp_path / "x").name == "x.damaged-2"
    with pytest.raises(CptError, match="gone is damaged and cannot be set aside: No such file or directory"):
        aside(tmp_path / "gone")


# --- no room ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path, cache, monkeypatch):
    """A file system of 4 MiB of its own, with cache and records in it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    monkeypatch.setenv("CPTLIB_CACHE", str(folder))
    monkeypatch.setenv("CPTLIB_RECORDS", str(folder / "records"))
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("what", ["checkpoint", "record"])
def test_a_full_disk_is_said_and_loses_nothing(family, disk, undisturbed, what):
    base, a, b = family
    before = here([base, a])
    filler = disk / "filler"
    with pytest.raises(OSError, match="No space left"), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    engine = Engine(device="cpu", checkpoint_seconds=0 if what == "checkpoint" else 60)
    message = rf"1 of 1 runs failed; first {b.id}: CptError: cannot write .*({what}|parquet).*No space left on device"
    with pytest.raises(SweepError, match=message):
        here([b], engine=engine)
    assert Store("demo").load() == before
    filler.unlink()
    assert outcomes(here([b])) == undisturbed([b])
    assert leftovers(disk) == []


def test_a_read_only_cache_answers_from_records_and_refuses_to_train(family, disk):
    base, a, b = family
    before = here([base, a])
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert here([base, a]) == before
    with pytest.raises(CptError, match=r"^cannot write to the cache .*disk: Read-only file system$"):
        here([b])


def test_out_of_memory_names_the_micro_batch_that_fits(tiny, world, cache):
    batch = 2**13 * 32
    spec = tiny(tokens=batch, batch_tokens=batch, evaluation=tiny().evaluation.__class__(("plain",), 256))
    whole = Engine(device="cpu", micro_batch=batch // 32)
    room = needed_bytes(spec, whole) // 3
    process = start(world, cache, [spec], limit_memory, room, engine=whole)
    process.join(300)
    said = (cache / "said").read_text()
    assert process.exitcode == 2 and f"first {spec.id}: OutOfMemory: run {spec.id} does not fit into the memory" in said
    assert f"{batch // 32} sequences of 32 tokens at a time need about" in said
    fits = int(said.split("--micro-batch ")[1].split()[0])
    assert fixed_bytes(spec) < room and 0 < fits < batch // 32
    engine = Engine(device="cpu", micro_batch=fits)
    process = start(world, cache, [spec], limit_memory, room, engine=engine)
    process.join(300)
    assert process.exitcode == 0 and set(Store("demo").load()) == {spec.id}


def test_a_loss_that_is_not_finite_leaves_no_record_and_no_weights(tiny, cache):
    base = tiny(optimizer=AdamW(weight_decay=1e32))
    lost = rf"2 of 2 runs failed; first {base.id}: LossError: run {base.id}: .* is (nan|inf) at step [23] .*no record"
    with pytest.raises(SweepError, match=lost):
        here([tiny(start=base)])
    assert Store("demo").load() == {} and not checkpoints.folder(base.id, "final").exists()


# --- clocks -----------------------------------------------------------------------------------------------------------


def test_a_clock_that_jumps_changes_nothing(family, cache, undisturbed, monkeypatch):
    jumps = random.Random(1)
    monkeypatch.setattr(time, "time", lambda: jumps.choice([0.0, 1e9, 4e9]))
    monkeypatch.setattr(time, "time_ns", lambda: 1)
    lines = []
    records = sweep(family, "demo", "test", engine=CPU, executor=Here(), report=lines.append)
    assert outcomes(records) == undisturbed(family)
    left = [line.split("about ")[1] for line in lines[1:]]
    assert len(left) == 3 and all(0 <= float(text.split()[0]) < 3600 for text in left)
    assert all(0 < record.seconds < 60 for record in records.values())


def test_time_left_follows_the_arithmetic_that_is_done(tiny, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    specs = [tiny(), tiny(seed=1), tiny(tokens=2 * tiny().tokens)]
    shown = Progress("demo/test", "demo", "lease", specs, str)
    assert shown.left() == "time left not known yet"
    now[0] += 60
    shown.failed(specs[2], "as an example")  # half of the arithmetic
    assert shown.left() == "about 1.0 min left"
    now[0] += 7200
    assert shown.left() == "about 2.0 h left" and shown.left(partly=shown.total / 2) == "about 0 s left"


# --- many -------------------------------------------------------------------------------------------------------------


def usage() -> dict[str, int]:
    """Memory in KiB, objects, open files and threads of this process."""
    gc.collect()
    objects = len(gc.get_objects())
    free_bytes("cpu")  # gives the kernel back what the allocator keeps
    with open("/proc/self/status", encoding="ascii") as file:
        memory = next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))
    files = len(os.listdir("/proc/self/fd"))
    return {"memory": memory, "objects": objects, "files": files, "threads": threading.active_count()}


@pytest.mark.slow
def test_many_runs_leave_nothing_behind(tiny, cache, capsys):
    """40 runs, or $CPTLIB_TEST_SOAK, in one process; the first ten are to warm up."""
    number = int(os.environ.get("CPTLIB_TEST_SOAK", 40))
    base = tiny()
    specs = [tiny(start=base, seed=s, weights={"plain": 1, "rules": s % 3}) for s in range(number)]
    here(specs[:10])
    before, begin = usage(), time.monotonic()
    for first in range(10, number, 10):
        here(specs[first : first + 10])
    after = usage()
    with capsys.disabled():
        rate = (time.monotonic() - begin) / (number - 10)
        print(f"\n{number} runs, {rate:.2f} s each; after 10: {before}; at the end: {after}")
    assert len(Store("demo").load()) == number + 1
    assert after["files"] <= before["files"] and after["threads"] <= before["threads"]
    assert after["objects"] - before["objects"] < 10 * number
    # the allocator keeps room for the largest record file that was read, which grows with the number of runs
    assert after["memory"] - before["memory"] < 20_000 + 150 * number
