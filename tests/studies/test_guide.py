"""The guide's files hold the recorded losses under other names; its tables name only laws that there are."""

from __future__ import annotations

import pytest

from cptlib.cli import main
from cptlib.errors import CptError
from cptlib.laws.base import LAWS
from cptlib.laws.exports import read_runs, tidy
from cptlib.studies.guide import choice
from cptlib.studies.guide.designs import MIDDLE, SimulatedStudies
from cptlib.studies.guide.files import LINE, Reader, Shell


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader("smoke")


@pytest.fixture(scope="module")
def shell(reader) -> Shell:
    return Shell(reader, main)


def test_the_exported_chart_is_the_table_again(reader, shell):
    table, notes = tidy([shell.folder / "wandb_export.csv"], runs=read_runs(shell.folder / "runs.csv"))
    left = reader.table.assign(r=(1 - reader.table["r_d"]).round(12)).set_index(["run", "D"]).sort_index()
    right = table.set_index(["run", "D"]).sort_index()
    assert (left.index == right.index).all()
    assert right["loss"].to_numpy() == pytest.approx(left["general"].to_numpy(), rel=1e-12)
    assert (left[["base", "N", "r"]] == right[["base", "N", "r"]]).all(axis=None)
    assert len(notes) == 1 and "step 0" in notes[0]


def test_a_command_is_shown_with_what_it_prints(shell):
    shown = shell("cptlib tidy wandb_export.csv --runs runs.csv -o general.csv")
    assert shown.startswith("$ cptlib tidy wandb_export.csv") and "wrote general.csv" in shown
    assert (shell.folder / "general.csv").is_file()
    assert "note" not in shell("cptlib tidy wandb_export.csv --runs runs.csv -o general.csv", only=("wrote",))
    refused = shell("cptlib fit dcpt-l3 percent.csv --columns N=params,D=tokens_seen,r=law_share --target val_law")
    assert "divide percentages by 100" in " ".join(refused.split()) and refused.endswith("[exit status 2]")
    assert all(len(line) <= LINE for line in refused.splitlines())
    with pytest.raises(CptError, match="only cptlib is run here, not rm"):
        shell("rm general.csv")


def test_the_choice_names_laws_of_the_registry_only(monkeypatch):
    named = set(choice.choice_table()["law"])
    assert named <= set(LAWS) and {"chinchilla", "dcpt-l3", "data-mixing"} <= named
    monkeypatch.delitem(LAWS, "bimix")
    assert "bimix" in named and "bimix" not in set(choice.choice_table()["law"])


def test_the_least_grid_stands_in_words():
    table = choice.choice_table().set_index("law")
    assert table.loc["dcpt-l3", "least"] == "12 runs: 3 N, 4 r, each at 3 D"
    assert table.loc["transfer", "least"] == "4 runs: 2 D_F, 2 N"


def test_designs_are_parts_of_the_recorded_grid_with_its_ends(reader):
    study = SimulatedStudies(reader, 0.05, studies=2)
    design = study.design(2, 3, 1)
    assert set(design.sizes) == {reader.table["N"].min(), reader.table["N"].max()}
    assert len(design.ratios) == 3 and {0.0, 1.0} < set(design.ratios)
    assert len({tuple(each.values()) for each in study.designs}) == len(study.designs) and MIDDLE in study.designs
    with pytest.raises(CptError, match="9 values of N are asked for; the recorded runs have 3"):
        study.design(9, 3, 1)
