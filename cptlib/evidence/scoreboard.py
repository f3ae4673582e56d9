"""Verdicts as tables: the scoreboard of papers, the verdict table of a chapter; the search for typed verdicts."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

from cptlib.errors import unknown
from cptlib.evidence.claims import VERDICTS, Verdict
from cptlib.evidence.registry import Paper

# word -> (shape, colour): the shape and the word say all that the colour says; every colour has contrast of at
# least 4.5 to 1 on white
MARKS = {
    "supported": ("▲", "#006c4f"),
    "refuted": ("▼", "#a84300"),
    "inconclusive": ("◆", "#5b5b9a"),
    "out of scale": ("○", "#666666"),
    "not run": ("–", "#666666"),
}
TAG_WORDS = {"paper": "", "2nd": "as transcribed by third parties", "calc": "computed here from the paper"}


def scoreboard(papers: Iterable[Paper], verdicts: Iterable[Verdict]) -> list[dict]:
    """One row for each paper: its data and how many of its claims got each verdict.

    Returns
    -------
    list of dict
        Keys key, title, arxiv, venue, chapter, state, question, claims, and one for each verdict word. For a paper
        that is not built the counts are None, not 0: nothing was judged.

    Raises
    ------
    CptError
        A verdict on a claim of an unknown paper.
    """
    papers, verdicts = list(papers), list(verdicts)
    keys = {p.key for p in papers}
    for v in verdicts:
        if v.claim.paper not in keys:
            raise unknown("paper of a verdict", v.claim.paper, keys)
    rows = []
    for p in papers:
        mine = [v.verdict for v in verdicts if v.claim.paper == p.key]
        counts = {word: (mine.count(word) if p.state == "built" else None) for word in VERDICTS}
        rows.append({"key": p.key, "title": p.title, "arxiv": p.arxiv, "venue": p.venue, "chapter": p.chapter,
                     "state": p.state, "question": p.question,
                     "claims": len(mine) if p.state == "built" else None, **counts})
    return rows


def badge(verdict: str) -> str:
    """A verdict as HTML: shape, colour and word."""
    if verdict not in MARKS:
        raise unknown("verdict", verdict, MARKS)
    shape, colour = MARKS[verdict]
    return (f'<span class="verdict verdict-{verdict.replace(" ", "-")}" style="white-space:nowrap">'
            f'<span aria-hidden="true" style="color:{colour}">{shape}</span> {verdict}</span>')


def _number(x: float | None) -> str:
    return "" if x is None else f"{x:.4g}".replace("-", "−")


def _value(value: float | None, lo: float | None, hi: float | None, unit: str) -> str:
    if value is None:
        return "–"
    unit = "" if unit == "1" else f" {unit}"
    interval = "" if lo is None or hi is None else f" [{_number(lo)}, {_number(hi)}]"
    return html.escape(f"{_number(value)}{interval}{unit}")


def _table(head: Iterable[str], rows: Iterable[Iterable[str]], name: str) -> str:
    cells = "".join(f'<th scope="col">{h}</th>' for h in head)
    body = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>\n" for row in rows)
    return (f'<div style="overflow-x:auto"><table class="{name}">\n<thead><tr>{cells}</tr></thead>\n'
            f"<tbody>\n{body}</tbody></table></div>")


def render_table(verdicts: Iterable[Verdict]) -> str:
    """The verdict table of a chapter as HTML: claim, the paper's value, ours with interval, controls, verdict, why."""
    rows = []
    for v in verdicts:
        c = v.claim
        tag = TAG_WORDS[c.reported.tag]
        source = html.escape(", ".join(filter(None, (c.reported.where, tag))))
        reported = f"{html.escape(c.reported.text)} <small>({source})</small>"
        unit = c.statistics[v.statistic].unit
        ours = f"{_value(v.value, v.lo, v.hi, unit)}<br><small><code>{v.statistic}</code></small>"
        controls = "<br>".join(
            f"{html.escape(k['name'])} <code>{k['statistic']}</code>: {_value(k['value'], k['lo'], k['hi'], k['unit'])}"
            for k in v.controls) or "–"
        rows.append((f"<strong>{c.id}</strong> {html.escape(c.claim)}", reported, ours, f"<small>{controls}</small>",
                     "–" if v.seeds is None else str(v.seeds), badge(v.verdict),
                     f"<small>{html.escape(v.why)} <em>({v.profile})</em></small>"))
    return _table(("claim", "paper", "here", "controls", "seeds", "verdict", "why"), rows, "verdicts")


def render_scoreboard(rows: Iterable[dict]) -> str:
    """The rows of `scoreboard` as HTML; a paper that is not built says so."""
    body = []
    for r in rows:
        title = html.escape(r["title"])
        if r["state"] == "built":
            counts = [f'<span style="white-space:nowrap">{badge(word)} {r[word]}</span>'
                      for word in VERDICTS if r[word]]
            state = "<br>".join(counts) or "no claim judged"
            title = f'<a href="notebooks/{r["chapter"].removesuffix(".ipynb")}.html">{title}</a>'
        else:
            state = "not built yet"
        paper = f'{title}<br><small>{html.escape(r["venue"])}, <a href="https://arxiv.org/abs/{r["arxiv"]}">arXiv ' \
                f'{r["arxiv"]}</a></small>'
        body.append((paper, html.escape(r["question"]), "" if r["claims"] is None else str(r["claims"]), state))
    return _table(("paper", "question", "claims", "verdicts"), body, "scoreboard")


_COMPUTED = re.compile(r"\{glue[^}]*\}`[^`]*`")  # roles that insert computed values
_FENCE = re.compile(r"^\s*(`{3,}|~{3,})(.*)$")
_STATED = re.compile(
    r"\b(?:SUPPORTED|REFUTED|INCONCLUSIVE|OUT OF SCALE|NOT RUN)\b"  # as a verdict is shouted
    r"|(?i:[*_`\"“▲▼◆]\s*(?:supported|refuted|inconclusive|out of scale)\s*[*_`\"”])"  # set off from its sentence
    r"|(?i:[▲▼◆]\s*(?:supported|refuted|inconclusive))"
    r"|(?i:\bverdict\b[^.\n]{0,40}?\b(?:supported|refuted|inconclusive|out of scale)\b)"  # "the verdict is ..."
    r"|(?i:\b(?:claim|dcpt\.\d+|[a-z-]+\.\d+)\b[^.\n]{0,60}?\b(?:(?:is|was|are|were|stands|be)\s+(?:not\s+)?"
    r"(?:clearly\s+|thus\s+|therefore\s+)?(?:supported|refuted|inconclusive)))\b"  # "claim dcpt.3 is ..."
)


def find_typed_verdicts(text: str) -> list[tuple[int, str]]:
    """Verdicts typed by hand in a Markdown text: a list of (line number from 1, the words found).

    Found are the verdict words in capitals, set off by emphasis, quotes, code marks or a badge's shape, and said of a
    claim or a verdict ("claim dcpt.3 is refuted", "the verdict: inconclusive"). Ordinary uses ("a Trainer is
    supported on GPUs") pass. Fenced code and the `{glue:...}` roles, which print computed values, are passed over;
    for a notebook give the Markdown cells, not the outputs.
    """
    found = []
    fence = None
    for number, line in enumerate(text.splitlines(), 1):
        if match := _FENCE.match(line):
            mark, info = match.groups()
            if fence is None and not re.match(r"\s*\{(?!code)", info):  # directives such as {note} hold prose
                fence = mark
            elif fence is not None and mark[0] == fence[0] and len(mark) >= len(fence) and not info.strip():
                fence = None
            continue
        if fence is None:
            found.extend((number, m.group(0)) for m in _STATED.finditer(_COMPUTED.sub("", line)))
    return found
