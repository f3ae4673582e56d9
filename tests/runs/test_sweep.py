"""Sweeps: what is trained and in which order, failures that stop nothing else, and a sweep that is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import pytest
from runs_records import altered
from runs_world import Here, begun, outcome

import cptlib
from cptlib.errors import CptError
from cptlib.runs import checkpoints
from cptlib.runs.spec import AdamW, Schedule
from cptlib.runs.store import Store
from cptlib.runs.sweep import SweepError, sweep, to_train
from cptlib.runs.train import Engine
from cptlib.runs.verify import _compare, _Spread, verify

CPU = Engine(device="cpu")
DIVERGES = AdamW(weight_decay=1e32)


class Nothing(Executor):
    """Must not be asked."""

    def submit(self, *_):
        raise AssertionError("a run with a record was trained")


def run(specs, executor=None, **options):
    lines = []
    records = sweep(specs, "demo", "test", engine=CPU, executor=executor or Here(), report=lines.append, **options)
    return records, lines


def test_starts_come_first_and_once(family, tiny):
    base, a, b = family
    far = tiny(start=a, seed=3)
    order, keep = to_train([b, far, a, b], {})
    assert [s.id for s in order] == [base.id, b.id, a.id, far.id] and keep == {base.id, a.id}
    assert to_train([base], {}) == ([base], set())


def test_a_start_is_trained_again_only_if_its_weights_are_needed_and_gone(family):
    base, a, b = family
    recorded = dict.fromkeys([base.id, a.id], None)
    assert to_train([base, a], recorded) == ([], set())
    assert [s.id for s in to_train([a, b], recorded)[0]] == [base.id, b.id]
    checkpoints.save(checkpoints.folder(base.id, "final"), {}, {})
    assert [s.id for s in to_train([a, b], recorded)[0]] == [b.id]
    assert [s.id for s in to_train([a, b], recorded, fresh=True)[0]] == [base.id, a.id, b.id]


def test_a_start_that_is_trained_again_for_its_weights_keeps_its_record(family):
    base, a, b = family
    first, _ = run([base, a])
    checkpoints.remove(checkpoints.folder(base.id, "final"))
    run([b])
    assert len(begun(base.id)) == 2 and Store("demo").load()[base.id] == first[base.id]
    assert checkpoints.usable(checkpoints.folder(base.id, "final"))


def test_records_answer_without_training(family):
    base, a, b = family
    here = Here()
    first, lines = run([a, b], here, criteria={"demo.1": "abc"})
    assert [job.keep_weights for job in here.jobs] == [True, False, False]
    assert len(lines) == 4 and "3 runs to train, 1 of them starts of others" in lines[0]
    assert set(first) == {a.id, b.id} and set(Store("demo").load()) == {base.id, a.id, b.id}
    assert all(r.whole() and r.study == "demo" and r.criteria == '{"demo.1": "abc"}' for r in first.values())
    again, lines = run([a, b, base], Nothing())
    assert lines == [] and {i: again[i] for i in first} == first
    other, _ = run([a], fresh=True)
    assert other[a.id].created >= first[a.id].created and outcome(other[a.id]) == outcome(first[a.id])


def test_what_was_trained_anew_by_an_earlier_stage_is_not_trained_a_third_time(family, tiny):
    base, a, _ = family
    later = tiny(start=a, seed=3)
    run([later])
    run([a], fresh=True)
    run([later], fresh=True, done=[a])
    assert [len(begun(spec.id)) for spec in (base, a, later)] == [2, 2, 2]
    checkpoints.remove(checkpoints.folder(a.id, "final"))  # its weights are needed all the same
    run([later], fresh=True, done=[a])
    assert [len(begun(spec.id)) for spec in (base, a, later)] == [2, 3, 3]


def test_fresh_does_not_go_on_from_an_unfinished_run(tiny):
    spec = tiny()
    checkpoints.save(checkpoints.folder(spec.id, "resume"), {}, {"step": 5})  # not a checkpoint one could resume
    fresh, _ = run([spec], fresh=True)
    assert fresh[spec.id].evaluations[0]["step"] == 0


def test_a_failing_run_stops_only_what_continues_it(tiny, family):
    base, a, b = family
    bad = tiny(optimizer=DIVERGES)
    child = tiny(start=bad)
    lines = []
    lost = rf"^2 of 5 runs failed; first {bad.id}: LossError: run {bad.id}: .* step [23] "
    with pytest.raises(SweepError, match=lost):
        sweep([child, bad, a, b], "demo", "test", engine=CPU, executor=Here(), report=lines.append)
    assert set(Store("demo").load()) == {base.id, a.id, b.id}
    assert any(f"{bad.id} FAILED LossError" in line for line in lines)
    assert f"{child.id} skipped: its start {bad.id} failed" in lines
    rest, _ = run([a, b], Nothing())
    assert set(rest) == {a.id, b.id}


def test_a_pool_that_breaks_is_one_error(family):
    class Broken(Executor):
        def submit(self, *_):
            raise RuntimeError("cannot schedule new futures")

    base, a, b = family
    message = rf"3 of 3 runs failed; first {base.id}: lost its worker 3 times \(RuntimeError: cannot schedule"
    with pytest.raises(SweepError, match=message):
        run([a, b], Broken())


def test_threads_give_the_same_records_as_one_run_after_another(family, tiny, monkeypatch, tmp_path):
    specs = [*family, tiny(seed=1), tiny(seed=2), tiny(seed=3)]
    one, _ = run(specs)
    monkeypatch.setenv("CPTLIB_CACHE", str(tmp_path))
    monkeypatch.setenv("CPTLIB_RECORDS", str(tmp_path / "records"))
    with ThreadPoolExecutor(2) as executor:
        two, _ = run(specs, executor)
    assert {i: outcome(r) for i, r in one.items()} == {i: outcome(r) for i, r in two.items()}


def test_processes_know_local_corpora(tiny):
    specs = [tiny(seed=1), tiny(seed=2)]
    records, _ = run(specs[:1])
    lines = []
    records |= sweep(specs, "demo", "test", engine=CPU, workers=1, report=lines.append)
    assert set(Store("demo").load()) == {s.id for s in specs} and len(lines) == 2
    assert "plain" in lines[1] and "tok/s" in lines[1]


def test_a_killed_sweep_takes_its_workers_along_and_ends_with_the_same_records(
    family, world, cache, monkeypatch, tmp_path
):
    script = [sys.executable, str(Path(__file__).parent / "runs_killed.py"), str(world)]
    environment = {**os.environ, "PYTHONPATH": str(Path(cptlib.__file__).parent.parent)}
    # its output ends only when its worker has ended too: an orphan would train on beside the sweep below
    killed = subprocess.run(script, env=environment, timeout=60, check=False, stdout=subprocess.PIPE)
    assert killed.returncode == -9
    base, a, b = family
    left = Store("demo").load()
    assert set(left) == {base.id, b.id}
    after, _ = run([b, a, base])
    assert all(after[i] == left[i] for i in left)
    monkeypatch.setenv("CPTLIB_CACHE", str(tmp_path))
    monkeypatch.setenv("CPTLIB_RECORDS", str(tmp_path / "records"))
    undisturbed, _ = run([base, a, b])
    assert {i: outcome(r) for i, r in after.items()} == {i: outcome(r) for i, r in undisturbed.items()}


def test_verify_agrees_with_what_was_trained_and_not_with_what_was_altered(tiny, family):
    base, a, b = family
    others = [tiny(start=tiny(seed=s), weights={"rules": 1}) for s in (8, 9, 10)]
    run([a, b, *others])
    rows = verify("demo", 9, executor=Here())
    assert {row["id"] for row in rows} == {a.id, b.id, *(o.id for o in others)}  # no base is a sample of its own
    assert all(row["agrees"] and row["largest_difference"] == 0 and row["points"] == 6 for row in rows)
    (row,) = [row for row in rows if row["id"] == b.id]
    # b's arm has one seed: the bases tell, and a with the others
    assert row["seed_spread"] > 0 and row["degrees_of_freedom"] == 3 + 3
    honest = Store("demo").load()[b.id]
    lower = [e | {"loss": e["loss"] - 2 * row["allowed"]} for e in honest.evaluations]
    Store("demo").append(altered(honest, checksum=True, evaluations=lower))
    by_id = {row["id"]: row for row in verify("demo", 9, executor=Here())}
    assert not by_id[b.id]["agrees"] and by_id[a.id]["agrees"]
    assert by_id[b.id]["largest_difference"] == pytest.approx(2 * row["allowed"], rel=1e-6)
    assert verify("demo", 1, seed=4, executor=Here())[0]["id"] in by_id


def test_verify_tells_another_draw_from_a_wrong_record(tiny):
    """A run of another seed in a record's place agrees, save one in a hundred; far off it does not."""
    specs = [tiny(seed=s) for s in range(12)]
    run(specs)
    agree = 0
    kept = Store("demo").load()
    drawn = dict(zip((s.id for s in specs), kept.values(), strict=True))
    for one, other in zip(specs, [*specs[1:], specs[0]], strict=True):
        spread = _Spread(kept[one.id], kept)
        row = _compare(kept[one.id], drawn[other.id], spread)
        assert row["degrees_of_freedom"] == 10
        agree += row["agrees"]
        far = altered(drawn[other.id], True, evaluations=[
            e | {"loss": e["loss"] + 2 * row["allowed"]} for e in drawn[other.id].evaluations
        ])  # fmt: skip
        assert not _compare(kept[one.id], far, spread)["agrees"]
    assert agree >= 11


def test_the_spread_between_seeds_is_allowed(tiny):
    """With seeds that differ by more than platforms do, a difference of a third of that is no disagreement."""
    specs = [tiny(seed=s, schedule=Schedule("constant", 3e-2)) for s in range(6)]
    run(specs)
    one = Store("demo").load()[specs[0].id]
    (row,) = [r for r in verify("demo", 6, executor=Here()) if r["id"] == one.id]
    assert row["seed_spread"] > 0 and row["allowed"] >= row["seed_spread"]
    shifted = [e | {"loss": e["loss"] - 0.9 * row["allowed"]} for e in one.evaluations]
    Store("demo").append(altered(one, checksum=True, evaluations=shifted))
    (row,) = [r for r in verify("demo", 6, executor=Here()) if r["id"] == one.id]
    assert row["agrees"] and row["largest_difference"] > 0


def test_nothing_to_verify_is_said(cache):
    with pytest.raises(CptError, match="study 'demo' has no records of profile 'smoke' to verify"):
        verify("demo", 1, profile="smoke")
