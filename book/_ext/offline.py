"""Pages ask no other machine for anything: scripts from elsewhere, and the loader for one, are left out."""

from __future__ import annotations


def is_foreign(script) -> bool:
    """Whether a script entry is fetched from another host, or exists to fetch one (thebe, which is switched off)."""
    filename = str(getattr(script, "filename", script) or "")
    body = str(getattr(script, "attributes", {}).get("body", ""))
    return filename.startswith(("http:", "https:", "//")) or "thebe" in filename or "THEBE_JS_URL" in body


def keep_local(app, pagename, templatename, context, doctree) -> None:
    if "script_files" in context:
        context["script_files"] = [script for script in context["script_files"] if not is_foreign(script)]


def setup(app) -> dict:
    app.connect("html-page-context", keep_local, priority=900)  # after the extensions that add scripts
    return {"parallel_read_safe": True}
