"""What a reader sees: the pages load whole, from this machine alone, and can be read, searched and used on a phone."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest

from cptlib.evidence.registry import load_papers
from cptlib.files import project_root

pytestmark = pytest.mark.browser

CONTENTS = (project_root() / "book" / "_toc.yml").read_text(encoding="utf-8")
PAGES = ["index", *re.findall(r"(?:guide|chapters)/[\w-]+", CONTENTS)]
CHAPTERS = [page for page in PAGES if page.startswith("chapters/") and page != "chapters/guide"]  # one a paper
LARGE = 4.5  # contrast of text that is not large, WCAG AA


@dataclass
class Visit:
    """A page and everything that went wrong while it loaded."""

    page: object
    console: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)


@pytest.fixture
def visit(chromium, site):
    contexts = []

    def open_page(path: str, width: int = 1280, height: int = 900, scheme: str = "light") -> Visit:
        context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        seen = Visit(context.new_page())
        seen.page.on("console", lambda m: seen.console.append(m.text) if m.type == "error" else None)
        seen.page.on("pageerror", lambda error: seen.console.append(str(error)))
        seen.page.on("requestfailed", lambda request: seen.failed.append(request.url))
        seen.page.on("response", lambda r: seen.failed.append(f"{r.status} {r.url}") if r.status >= 400 else None)

        def watch(route):
            address = urlsplit(route.request.url)
            if address.scheme in ("http", "https", "ws", "wss") and address.hostname != "127.0.0.1":
                seen.outside.append(route.request.url)
                route.abort()
            else:
                route.continue_()

        context.route("**/*", watch)
        seen.page.goto(f"{site}/{path}", wait_until="networkidle")
        return seen

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("path", PAGES)
def test_a_page_loads_whole_and_asks_nobody_else(visit, path):
    seen = visit(f"{path}.html")
    assert seen.outside == []
    assert seen.failed == []
    assert seen.console == []
    assert seen.page.locator("article h1").count() == 1
    # lazy images load when they come into view
    seen.page.evaluate("document.querySelectorAll('img').forEach(image => { image.loading = 'eager' })")
    seen.page.wait_for_function("[...document.images].every(image => image.complete)")
    broken = "[...document.images].filter(image => image.naturalWidth === 0).map(image => image.src)"
    assert seen.page.evaluate(broken) == []


@pytest.mark.parametrize("path", PAGES)
def test_a_phone_never_scrolls_a_page_sideways(visit, path):
    seen = visit(f"{path}.html", width=390, height=844)
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("path", CHAPTERS)
def test_a_chapter_shows_typeset_formulas_figures_and_verdicts(visit, path):
    page = visit(f"{path}.html").page
    page.wait_for_selector("mjx-container")
    assert page.locator("article mjx-container").count() >= 3
    assert page.locator("article mjx-merror, article .MathJax_Error").count() == 0
    assert page.locator("article img").count() >= 1
    verdicts = page.locator("article table").filter(has_text="supported").or_(
        page.locator("article table").filter(has_text="inconclusive")
    )
    assert verdicts.count() >= 1
    assert page.locator("article .output.traceback, article .cell_output .traceback").count() == 0


def test_the_guide_shows_commands_with_their_output(visit):
    page = visit("chapters/guide.html").page
    outputs = page.locator("article .cell_output pre").all_inner_texts()
    commands = [text for text in outputs if text.startswith("$ cptlib ")]
    assert {text.split()[2] for text in commands} == {"tidy", "fit", "plan"}
    assert any("95%" in text and "held out" in text for text in commands)
    assert any("This is an extrapolation" in " ".join(text.split()) for text in commands)
    assert any("[exit status 2]" in text for text in commands)
    assert page.locator("article img").count() == 2
    assert page.locator("article table").filter(has_text="dcpt-l3").count() >= 1
    assert page.locator("article .output.traceback, article .cell_output .traceback").count() == 0


def test_the_landing_page_has_a_scoreboard_of_all_papers(visit):
    page = visit("index.html").page
    rows = page.locator("article table").first.locator("tbody tr")
    known = load_papers()
    assert rows.count() == len(known) == 10
    for number, paper in enumerate(known):
        text = rows.nth(number).inner_text()
        assert paper.title[:40] in text.replace("’", "'")
        built = rows.nth(number).locator("a[href*='chapters/']").count() == 1
        assert built or "not built yet" in text


def test_a_chapter_is_reached_from_the_landing_page(visit):
    page = visit("index.html").page
    page.locator("article table a[href*='chapters/dcpt']").click()
    page.wait_for_load_state("networkidle")
    assert page.url.endswith("/chapters/dcpt.html")
    assert "CPT" in page.locator("article h1").inner_text()


@pytest.mark.parametrize("word", ["forgetting", "ratio"])
def test_search_finds_pages(visit, word):
    page = visit(f"search.html?q={word}").page
    page.wait_for_selector("#search-results li a")
    hits = page.locator("#search-results li")
    assert hits.count() >= 2
    assert any("glossary" in (link.get_attribute("href") or "") for link in hits.locator("a").all())


def test_search_for_a_word_that_is_nowhere_says_so(visit):
    page = visit("search.html?q=xylophonequux").page
    page.wait_for_function("document.querySelector('#search-results p')?.innerText.length > 0")
    assert page.locator("#search-results li").count() == 0


CONTRAST = """() => {
  const channel = v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4 };
  const light = ([r, g, b]) => .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll('article p, article td, article th, article li')].map(e => {
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))];
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  }).reduce((x, y) => Math.min(x, y), 21);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_told_from_its_ground(visit, scheme):
    assert visit("index.html", scheme=scheme).page.evaluate(CONTRAST) >= LARGE
