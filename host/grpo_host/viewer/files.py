"""The files of the viewer's page, and the policy under which a browser shows it."""

from __future__ import annotations

import mimetypes
from functools import cache
from importlib.resources import files
from pathlib import Path

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FOLDER = Path(str(files("grpo_host.viewer") / "static"))
TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".LICENSE": "text/plain", ".md": "text/plain"}


@cache
def page_files() -> dict[str, str]:
    """Each file by its path below the page, and its media type."""
    return {
        path.relative_to(FOLDER).as_posix(): TYPES.get(path.suffix)
        or mimetypes.guess_type(path.name)[0]
        or "application/octet-stream"
        for path in sorted(FOLDER.rglob("*"))
        if path.is_file()
    }
