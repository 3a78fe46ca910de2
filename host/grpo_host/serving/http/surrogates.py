"""JSON of clients in which half a surrogate pair is written, as JavaScript does of an emoji cut in two."""

from __future__ import annotations

import re

_ESCAPE = re.compile(
    rb"""\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}  # a pair: one character
        |(u[dD][89a-fA-F][0-9a-fA-F]{2})                                # half of one
        |.)""",
    re.VERBOSE | re.DOTALL,
)
_REPLACEMENT = b"\\ufffd"


def whole_json(text: bytes) -> bytes:
    """``text`` with U+FFFD for each escaped half of a pair, which is no character and no parser takes."""
    if b"\\ud" not in text and b"\\uD" not in text:
        return text
    return _ESCAPE.sub(lambda found: _REPLACEMENT if found.group(1) else found.group(), text)
