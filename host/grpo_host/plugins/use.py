"""How a configuration names what a plugin offers. A plugin or model may be given by its name alone."""

from __future__ import annotations

from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from grpo_host.models.precision import AUTO, resolve_dtype
from grpo_host.plugins.reference import file_reference

Name = Annotated[str, Field(min_length=1)]


ToolFormat = Literal["auto", "text", "hermes", "llama3_json", "mistral", "granite", "phi4_mini_json"]


class Numbers(BaseModel):
    """Refuses ``true`` and ``false`` where a number belongs: pydantic would take them for 1 and 0."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields.get(info.field_name or "")
        if field is not None and _is_truth_for_number(value, field.annotation):
            raise PydanticCustomError("number_type", "give a number, not true or false")
        return value


def _is_truth_for_number(value: Any, annotation: Any) -> bool:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    if isinstance(value, bool):
        kinds = {get_args(m)[0] if get_origin(m) is Annotated else m for m in members}
        return bool(kinds & {int, float}) and not kinds & {bool, Any, object}
    items = [get_args(member)[0] for member in members if get_origin(member) in (list, Sequence)]
    return isinstance(value, list) and any(_is_truth_for_number(v, item) for v in value for item in items)


class Section(Numbers):
    """A mapping of agent.yaml; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Named(Section):
    """A section that can be given by its name alone."""

    name: Name

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


def label_of(name: str) -> str:
    """What reports call what agent.yaml names so: without the distribution or the file that it is from."""
    reference = file_reference(name)
    return reference[1] if reference else name.rpartition(":")[2]


class PluginUse(Named):
    """A plugin's reward, tool, environment, backend or strategy, or a file's, with its options."""

    @property
    def label(self) -> str:
        """What reports call it."""
        return label_of(self.name)

    options: dict[str, Any] = Field(default_factory=dict)


class ModelConfig(Named):
    """The model that is trained, evaluated or served; ``name``: alias, hub id, path, provider's name."""

    dtype: Annotated[Literal["bfloat16", "float32", "float16"], BeforeValidator(resolve_dtype)] = Field(
        default=AUTO, validate_default=True
    )
    """``auto``, the default, becomes the type that this machine multiplies fast: bfloat16 or float32."""
    context: Annotated[int, Field(ge=16)] = 1024
    """Tokens, prompt and completion together."""
    adapter: str | None = None
    """A PEFT adapter directory to start from, relative to agent.yaml."""
    stop: list[Annotated[str, Field(min_length=1)] | Annotated[int, Field(ge=0)]] = Field(
        default_factory=list
    )
    """Tokens (texts or ids) that end a turn; a warm start teaches the first. Empty: the template's."""
    tool_format: ToolFormat = "auto"
    """How the model writes tool calls; ``auto``: as its template does, ``text``: the prompt's short form."""


class OwnModelConfig(ModelConfig):
    """The model of a plugin's own backend."""

    context: Annotated[int, Field(ge=16)] = 4096
    """Tokens, prompt and completion together: a judge reads several episodes at once."""


class BackendUse(PluginUse):
    """A reward's or environment's own backend, such as a judge: an option of the type ``Backend``."""

    model: OwnModelConfig
