"""Recorded runs of the D-CPT chapter as a reader would have them, and commands on these files."""

from __future__ import annotations

import contextlib
import io
import shlex
import tempfile
import textwrap
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import pandas as pd

from cptlib.errors import CptError
from cptlib.studies.dcpt.plans import base_loss, planned_parameters
from cptlib.studies.dcpt.tables import curves, thinned
from cptlib.studies.registry import grid, study

POINTS = 5  # token counts of a run that the tables keep
LINE = 80  # characters of a printed line


class Reader:
    """What a reader has: a table of one's own, tracker exports, and the question of a plan.

    Parameters
    ----------
    profile : str
        The profile whose recorded runs play the reader's.
    """

    def __init__(self, profile: str):
        self.grid = grid("dcpt", profile)

    @cached_property
    def table(self) -> pd.DataFrame:
        """Losses along the runs of the main grid, at a few token counts, the runs under names a person would give."""
        table = curves(self.grid, self.grid.main(), study("dcpt").recorded())
        table = table[table["D"].isin(thinned(table["D"].unique(), POINTS))].reset_index(drop=True)
        base = "w" + table["width"].astype(str) + "-seed" + table["seed"].astype(str)
        return table.assign(base=base, run=base + "-law" + table["r_d"].map("{:g}".format))

    @property
    def size(self) -> int:
        """Parameters of the model that is planned for."""
        return planned_parameters(self.grid, self.table)

    @property
    def base_loss(self) -> float:
        """General loss of the base models of that size."""
        return base_loss(self.grid, self.table)

    @property
    def largest(self) -> int:
        """Parameters of the largest size, which fits are tested on."""
        return int(self.table["N"].max())

    def own_table(self) -> pd.DataFrame:
        """A table with columns of its own names, the losses of both corpora beside each other."""
        names = {"run": "experiment", "base": "base_model", "N": "params", "D": "tokens_seen", "r_d": "law_share"}
        names |= {"general": "val_general", "domain_loss": "val_law"}
        return self.table[list(names)].rename(columns=names)

    def wandb_chart(self) -> pd.DataFrame:
        """The general loss as W&B exports a chart: a column a run, its minima and maxima, step 0 included."""
        starts = self.table.groupby("run", sort=False).first().reset_index()
        rows = pd.concat([starts.assign(D=0, general=starts["general_start"]), self.table])
        rows = rows.assign(Step=rows["D"] // self.grid.batch_tokens)
        wide = rows.pivot(index="Step", columns="run", values="general")[list(starts["run"])]
        merged = {f"{run} - val/general{end}": wide[run] for run in wide for end in ("", "__MIN", "__MAX")}
        return pd.DataFrame(merged, index=wide.index).reset_index()

    def runs_table(self) -> pd.DataFrame:
        """What no tracker knows: the size, the share of general text, the base model, tokens a step."""
        starts = self.table.groupby("run", sort=False).first().reset_index()
        return pd.DataFrame(
            {
                "run": starts["run"],
                "base": starts["base"],
                "N": starts["N"],
                "r": (1 - starts["r_d"]).round(12),
                "tokens_per_step": self.grid.batch_tokens,
            }
        )

    def write(self, folder: Path) -> None:
        """All three files, and one with a slip: shares in percent."""
        own = self.own_table()
        own.to_csv(folder / "losses.csv", index=False)
        own.assign(law_share=100 * own["law_share"]).to_csv(folder / "percent.csv", index=False)
        self.wandb_chart().to_csv(folder / "wandb_export.csv", index=False)
        self.runs_table().to_csv(folder / "runs.csv", index=False)


class Shell:
    """A folder with the reader's files, and the command line in it.

    Parameters
    ----------
    reader : Reader
    main : callable
        The program: `main(words)` returns the exit status.
    """

    def __init__(self, reader: Reader, main: Callable[[list[str]], int]):
        self._folder = tempfile.TemporaryDirectory(prefix="cptlib-guide-")
        self.folder, self._main = Path(self._folder.name), main
        reader.write(self.folder)

    def __call__(self, command: str, only: tuple[str, ...] = ("",)) -> str:
        """A command and what it prints, lines that begin otherwise than with `only` left out.

        Raises
        ------
        CptError
            If the command is not one of `cptlib`.
        """
        program, *words = shlex.split(command)
        if program != "cptlib":
            raise CptError(f"only cptlib is run here, not {program}")
        out = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            status = self._main(words)
        lines = [f"$ {command}", *(line for line in out.getvalue().splitlines() if line.lstrip().startswith(only))]
        if status:
            lines.append(f"[exit status {status}]")
        return "\n".join(
            textwrap.fill(line, LINE, subsequent_indent="    ", break_on_hyphens=False, break_long_words=False)
            for line in lines
        )
