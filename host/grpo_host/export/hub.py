"""Push an export to a model hub with huggingface_hub, its endpoint, token and environment variables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grpo_sdk.errors import MissingExtraError, RunError


def make_repository(repository: str) -> str:
    """Make the model repository, private if it is new, and return its address.

    Called before the slow work. Raises ``RunError`` if it cannot be written to.
    """
    with _told_without_token(f"--push {repository}: the repository cannot be made"):
        from huggingface_hub import HfApi

        return str(HfApi().create_repo(repository, private=True, exist_ok=True))


def upload(directory: Path, repository: str) -> None:
    """Put the files of ``directory`` into the model repository. Raises ``RunError``."""
    failed = f"--push {repository}: the export is in {directory}, but it could not be sent"
    with _told_without_token(failed, f". Try again: hf upload {repository} {directory}"):
        from huggingface_hub import HfApi

        HfApi().upload_folder(
            repo_id=repository,
            folder_path=directory,
            commit_message="Export of a run, by grpo-agent-framework",
        )


@contextmanager
def _told_without_token(failed: str, next_step: str = "") -> Iterator[None]:
    """Turn any failure into a ``RunError`` without the token, which a server may repeat in its answer."""
    try:
        from huggingface_hub import get_token
        from huggingface_hub.errors import LocalTokenNotFoundError
    except ImportError as problem:
        raise MissingExtraError("pushing to a hub", problem.name or "huggingface_hub", "train") from problem
    token = get_token()
    try:
        if token is None:
            raise LocalTokenNotFoundError("there is no token. Set HF_TOKEN, or log in: hf auth login")
        yield
    except Exception as problem:  # the hub's client raises httpx, OS and its own errors alike
        causes = [problem, *([problem.__cause__] if problem.__cause__ else [])]
        said = ": ".join(" ".join(str(cause).split()) or type(cause).__name__ for cause in causes)
        if token:
            said = said.replace(token, "***")
        raise RunError(f"{failed}: {said[:600].rstrip('. ')}{next_step}") from None
