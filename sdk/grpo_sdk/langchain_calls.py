"""Mark whose a call of a LangChain chat model is, for whoever looks at an app's calls one by one."""

from __future__ import annotations

from contextvars import ContextVar

OF_A_BACKEND: ContextVar[bool] = ContextVar("grpo_call_of_a_backend", default=False)
"""True within a call that a backend makes, such as a judge's: no app has made it, whoever plays meanwhile."""
