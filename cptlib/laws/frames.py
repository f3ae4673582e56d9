"""From a table to the arrays a law reads, with one clear line for whatever is wrong with it."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pandas as pd

from cptlib.errors import CptError
from cptlib.laws.base import COLUMNS, Batch, Column, Law

LOSSES = 1e-100, 1e100  # beyond them a number is an accident, and its square has no value


def read_table(path: str | Path) -> pd.DataFrame:
    """A CSV file as a frame; spaces around the names of its columns do not count.

    Raises
    ------
    CptError
        If it is missing, empty, not a table, not separated by commas, or has two columns of one name.
    """
    try:
        head = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False)
        frame = pd.read_csv(path)
    except FileNotFoundError as error:
        raise CptError(f"no file {path}") from error
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError, OSError) as error:
        raise CptError(f"{path} is not a CSV table: {' '.join(str(error).split())}") from error
    names = [name.strip() for name in head.iloc[0]]  # as the file has them: pandas renames the second of two
    for sign, called in ((";", "semicolons"), ("\t", "tabs")):
        if len(names) == 1 and sign in names[0]:
            raise CptError(f"{path}: columns are separated by {called}; write the table with commas between them")
    twice = next((name for k, name in enumerate(names) if name and name in names[:k]), None)
    if twice is not None:
        raise CptError(f"{path}: column {twice} appears twice")
    if frame.empty:
        raise CptError(f"{path} has no data rows")
    return frame.rename(columns=str.strip)


def table_of(frame) -> pd.DataFrame:
    """A frame, or a mapping of columns, as a frame."""
    if isinstance(frame, pd.DataFrame):
        return frame
    return pd.DataFrame({name: np.atleast_1d(values) for name, values in frame.items()})


def numbers(frame: pd.DataFrame, name: str) -> np.ndarray:
    """A column as floats (n,).

    Raises
    ------
    CptError
        If it holds text or truth values, or appears twice.
    """
    column = frame[name]
    if isinstance(column, pd.DataFrame):
        raise CptError(f"column {name} appears twice")
    if column.dtype == bool:
        raise CptError(f"column {name}, row 1: {column.iloc[0]} is not a number")
    try:
        return pd.to_numeric(column, errors="raise").to_numpy(dtype=float)
    except (ValueError, TypeError):
        values = pd.to_numeric(column, errors="coerce")
        row = int(np.argmax((values.isna() & column.notna()).to_numpy()))
        raise CptError(f"column {name}, row {row + 1}: {column.iloc[row]!r} is not a number") from None


def _check(values: np.ndarray, name: str, lower: float, upper: float, positive: bool, rows: np.ndarray) -> None:
    bad = rows & ~np.isfinite(values)
    allowed = "a finite number (leave such rows out with --where, as in --where 'loss == loss')"
    if not bad.any():
        allowed = f"in [{lower:g}, {upper:g}]" if np.isfinite(lower) else "a finite number"
        if (lower, upper) == (0, 1):
            allowed += " (a share; divide percentages by 100)"
        bad = rows & ((values < lower) | (values > upper))
        if positive:
            allowed, bad = "above 0", rows & (values <= 0)
    if bad.any():
        row = int(np.argmax(bad))
        raise CptError(f"column {name}, row {row + 1}: {values[row]:g} is not allowed; it must be {allowed}")


def read_columns(
    law: Law, frame: pd.DataFrame, target: str | None = "loss", rows: np.ndarray | None = None
) -> tuple[Batch, np.ndarray | None]:
    """The law's columns as float arrays (n,) and its features (n, ...), derived where they are missing; the target.

    With `rows` (booleans, one a row of the frame) only theirs, while the others still say what the schedule was. Rows
    are numbered from 1 in messages, the header not counted.

    Raises
    ------
    CptError
        Missing columns, text, NaN, a loss that is not positive, a ratio outside [0, 1], N or D not above 0.
    """
    frame = law.completed(frame)
    needed = [*law.columns, *([target] if target is not None else [])]
    missing = [name for name in needed if name not in frame.columns]
    if missing:
        raise CptError(
            f"law {law.name} needs columns {', '.join(needed)}; missing: {', '.join(missing)}; "
            f"found: {', '.join(map(str, frame.columns)) or 'none'}"
        )
    wanted = np.ones(len(frame), dtype=bool) if rows is None else rows
    x = {}
    for name in law.columns:
        values, rule = numbers(frame, name), COLUMNS.get(name, Column(name, ""))
        _check(values, name, rule.lower, rule.upper, rule.positive, wanted)
        x[name] = values[wanted]
    if law.check is not None:
        law.check(x)
    if law.features is not None:
        x |= law.features(frame, np.flatnonzero(wanted))
    if target is None:
        return x, None
    y = numbers(frame, target)
    _check(y, target, -np.inf, np.inf, True, wanted)
    _check(y, target, *LOSSES, False, wanted)
    return x, y[wanted]


def measured(law: Law, frame: pd.DataFrame, target: str) -> np.ndarray:
    """Rows with a loss (n,): in tables of learning-rate histories a row without one only says what the rate was."""
    if (law.memory is None and law.features is None) or target not in frame.columns:
        return np.ones(len(frame), dtype=bool)
    return frame[target].notna().to_numpy()


def unread(law: Law, frame: pd.DataFrame) -> list[str]:
    """A sentence for each column of `COLUMNS` that varies in `frame` and that the law does not read."""
    out = []
    made_of = {part for name in law.columns if name in COLUMNS for part in COLUMNS[name].made_of}
    for name in COLUMNS:
        if name in frame.columns and name not in law.columns and name not in made_of:
            count = frame[name].nunique()
            if count > 1:
                out.append(
                    f"column {name} takes {count} values, and this law does not read it: "
                    f"fit one value at a time (--where) or choose a law in {name}"
                )
    return out


_NODES = (
    ast.Expression,
    ast.BoolOp,
    ast.And,
    ast.Or,
    ast.UnaryOp,
    ast.Not,
    ast.USub,
    ast.UAdd,
    ast.BinOp,
    ast.Add,
    ast.Sub,
    ast.Mult,
    ast.Div,
    ast.BitAnd,
    ast.BitOr,
    ast.Invert,
    ast.Compare,
    ast.Eq,
    ast.NotEq,
    ast.Lt,
    ast.LtE,
    ast.Gt,
    ast.GtE,
    ast.In,
    ast.NotIn,
    ast.List,
    ast.Tuple,
    ast.Load,
    ast.Name,
    ast.Constant,
)


def _read(frame: pd.DataFrame, expression: str):
    """The value of an expression over the columns of `frame`, after a look at every part of it."""
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last two: nested too deep
        reason = getattr(error, "msg", error)
        raise CptError(f"cannot read the expression {expression[:80]!r}: {reason}") from error
    for node in ast.walk(tree):
        if not isinstance(node, _NODES):
            raise CptError(
                f"expression {expression!r} may hold only columns, numbers, comparisons and and/or/not, "
                f"not {type(node).__name__}"
            )
        if isinstance(node, ast.Name) and node.id not in frame.columns:
            raise CptError(
                f"expression {expression!r} names no column {node.id!r}; columns: {', '.join(map(str, frame.columns))}"
            )
    try:
        return np.asarray(frame.eval(expression.strip(), engine="python"))
    except Exception as error:  # pandas raises many kinds; all of them mean the expression does not fit the frame
        raise CptError(f"cannot evaluate {expression!r}: {' '.join(str(error).split())[:200]}") from error


def arithmetic(frame: pd.DataFrame, expression: str) -> np.ndarray:
    """Numbers (n,) from an expression over the columns of `frame`, such as "1 - pile" or "steps * 131072".

    Raises
    ------
    CptError
        If the expression is anything else than arithmetic, names an unknown column, or gives no numbers.
    """
    values = _read(frame, expression)
    if values.dtype.kind not in "iuf":
        raise CptError(f"expression {expression!r} must give a number for every row, such as '1 - pile'")
    return np.broadcast_to(values.astype(float), len(frame)).copy()


def select(frame: pd.DataFrame, expression: str) -> np.ndarray:
    """Rows that fulfil `expression`, as a boolean array: comparisons of columns with numbers or strings, and, or, not.

    Raises
    ------
    CptError
        If the expression is anything else, names an unknown column, or does not give true or false.
    """
    mask = _read(frame, expression)
    if mask.dtype != bool or mask.shape != (len(frame),):
        raise CptError(f"expression {expression!r} must be true or false for every row, such as 'r > 0.5'")
    return mask
