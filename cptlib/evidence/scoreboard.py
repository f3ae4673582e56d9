"""Verdicts as a person sees them: signs, the verdict table of a chapter; the search for typed verdicts."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

from cptlib.errors import unknown
from cptlib.evidence.claims import Verdict

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


def render_table(verdicts: Iterable[Verdict]) -> str:
    """The verdict table of a chapter as HTML.

    A row a claim: the claim, the paper's value, ours with its interval, the verdict. Below it, why; and folded away,
    every test of the criterion and every control.
    """
    rows = []
    for v in verdicts:
        c = v.claim
        tag = TAG_WORDS[c.reported.tag]
        source = html.escape(", ".join(filter(None, (c.reported.where, tag))))
        unit = c.statistics[v.statistic].unit
        cells = (
            f"<strong>{c.id}</strong> {html.escape(c.claim)}",
            f"{html.escape(c.reported.text)} <small>({source})</small>",
            # a long name breaks between its words
            f"{_value(v.value, v.lo, v.hi, unit)}<br><small><code>{v.statistic.replace('_', '_<wbr>')}</code></small>",
            badge(v.verdict),
        )
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
        seeds = "" if not v.seeds else f", {v.seeds} seed{'s' if v.seeds > 1 else ''}"
        rows.append(f'<tr class="why"><td colspan="4"><small>{html.escape(v.why)} <em>({v.profile}{seeds})</em></small>'
                    f"{_details(v)}</td></tr>")
    head = "".join(f'<th scope="col">{name}</th>' for name in ("claim", "paper", "here", "verdict"))
    return (f'<div style="overflow-x:auto"><table class="verdicts">\n<thead><tr>{head}</tr></thead>\n'
            "<tbody>\n" + "\n".join(rows) + "\n</tbody></table></div>")


def _details(v: Verdict) -> str:
    """Every test and every control of a verdict, folded away; nothing where there are none."""
    tests = [
        f"<code>{f.statistic}</code> {_value(f.value, f.lo, f.hi, v.claim.statistics[f.statistic].unit)}: "
        f"{html.escape(r.rule)}, {r.outcome}"
        for r in v.results
        for f in [r.finding]
    ]
    controls = [
        f"{html.escape(k['name'])}, <code>{k['statistic']}</code> {_value(k['value'], k['lo'], k['hi'], k['unit'])}"
        for k in v.controls
    ]
    parts = [
        f"{name}<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"
        for name, items in (("Tests", tests), ("Controls", controls)) if items
    ]
    return f"<details><summary>tests and controls</summary><small>{''.join(parts)}</small></details>" if parts else ""


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
