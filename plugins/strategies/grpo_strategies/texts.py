"""Words that several strategies put together."""

from __future__ import annotations


def at(company: str) -> str:
    """`` at Acme``, or nothing."""
    return f" at {company.strip()}" if company.strip() else ""


def about(subject: str) -> str:
    """`` for algebra``, or nothing."""
    return f" for {subject.strip()}" if subject.strip() else ""
