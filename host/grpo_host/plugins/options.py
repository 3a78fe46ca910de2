"""The options of a plugin's factory: its keyword parameters, with their types and defaults."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError
from pydantic_core import PydanticSerializationError

from grpo_host.models.sentence import installed_embedder, sentence_embedder
from grpo_host.plugins.record import Kind, Offer
from grpo_host.plugins.registry import Registry
from grpo_host.plugins.use import BackendUse, Numbers, PluginUse
from grpo_host.utils.validation import Complaint, complaints_of, say_location
from grpo_sdk.backend import Backend
from grpo_sdk.embedder import Embedder
from grpo_sdk.errors import ConfigError, PluginError

NOT_OPTIONS: Mapping[Kind, frozenset[str]] = {"backend": frozenset({"model"})}
"""Parameters that the host fills in itself, by kind."""


class OptionsError(ConfigError):
    """Options that do not fit, each with its location below ``options``."""

    def __init__(self, complaints: list[Complaint], of: str = "") -> None:
        super().__init__(of + "; ".join(f"{say_location(c.location)}: {c.message}" for c in complaints))
        self.complaints = complaints


@dataclass(frozen=True)
class ResolvedUse:
    """What a plugin offers, and the validated options that a configuration gives it."""

    offer: Offer
    given: Mapping[str, Any]
    validated: BaseModel

    @cached_property
    def options(self) -> dict[str, Any]:
        """Those that are given, of the right types, without the defaults.

        A backend is still the ``BackendUse`` that describes it.
        """
        named = {field.alias: name for name, field in type(self.validated).model_fields.items()}
        extra = self.validated.model_extra or {}
        return {
            key: extra[key] if key in extra else getattr(self.validated, named[key]) for key in self.given
        }

    @property
    def backends(self) -> dict[str, BackendUse]:
        """The options that name a backend of the plugin's own."""
        return {name: value for name, value in self.options.items() if isinstance(value, BackendUse)}

    def complete(self) -> dict[str, Any]:
        """The options with every default written out, as YAML can hold them."""
        complete: dict[str, Any] = {}
        for name in type(self.validated).model_fields:
            try:
                dumped = self.validated.model_dump(mode="json", by_alias=True, include={name}, warnings=False)
            except PydanticSerializationError:
                continue  # A default that is an object of the plugin's own: YAML cannot hold it.
            complete.update(dumped)
        return {**complete, **(self.validated.model_extra or {})}

    def arguments(self) -> dict[str, Any]:
        """The options as the factory takes them, embedders among them.

        Raises ``MissingExtraError`` if the factory cannot do without an embedder and none is installed.
        """
        return self.options | {
            name: sentence_embedder() if required else installed_embedder()
            for name, required in embedder_parameters(self.offer).items()
        }


def options_model(offer: Offer) -> type[BaseModel]:
    """The model of ``offer``'s ``options:`` in agent.yaml.

    Raises ``PluginError`` if the factory needs something that YAML cannot write.
    """
    fields: dict[str, Any] = {}
    extra: Any = "forbid"
    for number, parameter in enumerate(_parameters(offer)):
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            extra = "allow"
            continue
        annotation = _as_written(_annotation(parameter, offer.factory), offer)
        required = parameter.default is inspect.Parameter.empty
        if (
            parameter.kind is inspect.Parameter.POSITIONAL_ONLY
            or _is_scored(offer, parameter)
            or not _is_writable(annotation)
        ):
            if required:
                raise PluginError(_must_be_given(offer, parameter))
            continue
        default = ... if required else parameter.default
        # Under a name of our own: pydantic reserves some names, parameters can have any.
        fields[f"option_{number}"] = (annotation, Field(default, alias=parameter.name))
    # What a default holds, a resolved agent.yaml does too, and that is read back.
    endless = any(not _finite(field.default) for _, field in fields.values())
    config = _CONFIG | ConfigDict(extra=extra, allow_inf_nan=endless)
    base = type("Options", (Numbers,), {"model_config": config})
    return create_model(f"{offer.name} options", __base__=base, **fields)


_CONFIG = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)


def _finite(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def options_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of ``model``; JSON has no infinity, so a default is written as YAML writes it."""
    return dict(_written(model.model_json_schema()))


def _written(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _written(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_written(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return value


def path_options(offer: Offer) -> frozenset[str]:
    """The options that are a ``Path``, or several: files that agent.yaml names relative to itself."""
    found = {p.name for p in _parameters(offer) if _holds_path(_annotation(p, offer.factory))}
    return frozenset(found)


def _holds_path(annotation: Any) -> bool:
    return annotation is Path or any(map(_holds_path, get_args(annotation)))


def resolve_use(kind: Kind, use: PluginUse, registry: Registry) -> ResolvedUse:
    """Who offers what ``use`` names, and its options. Raises ``PluginError``, or ``OptionsError``."""
    offer = registry.get(kind, use.name)
    try:
        return validate_options(offer, use.options)
    except OptionsError as error:
        raise OptionsError(error.complaints, f'options of the {kind} "{use.name}": ') from None


def validate_options(offer: Offer, given: Mapping[str, Any]) -> ResolvedUse:
    """``given`` as options of ``offer``. Raises ``OptionsError``."""
    model = options_model(offer)
    try:
        return ResolvedUse(offer, given, model.model_validate(dict(given)))
    except ValidationError as problem:
        raise OptionsError(complaints_of(problem, given, model, what="option")) from None


def _as_written(annotation: Any, offer: Offer) -> Any:
    """``annotation`` as agent.yaml writes it: a ``Backend`` of a reward's or environment's own is named, and
    the host makes it."""
    if offer.kind not in ("reward", "environment"):
        return annotation
    if annotation is Backend:
        return BackendUse
    if get_origin(annotation) in (Union, UnionType) and set(get_args(annotation)) == {Backend, NoneType}:
        return BackendUse | None
    return annotation


def embedder_parameters(offer: Offer) -> dict[str, bool]:
    """The factory's parameters of the type ``Embedder``, which the host fills, and whether each has to be."""
    return {
        parameter.name: parameter.default is inspect.Parameter.empty
        for parameter in _all_parameters(offer)
        if _is_embedder(parameter, offer)
    }


def _is_embedder(parameter: inspect.Parameter, offer: Offer) -> bool:
    annotation = _annotation(parameter, offer.factory)
    return annotation is Embedder or Embedder in get_args(annotation)


def _parameters(offer: Offer) -> list[inspect.Parameter]:
    """Those that agent.yaml may give."""
    return [parameter for parameter in _all_parameters(offer) if not _is_embedder(parameter, offer)]


def _all_parameters(offer: Offer) -> list[inspect.Parameter]:
    try:
        signature = inspect.signature(offer.factory)
    except (TypeError, ValueError) as error:
        raise PluginError(f"{offer}: its options cannot be read from its signature: {error}") from error
    reserved = NOT_OPTIONS.get(offer.kind, frozenset())
    return [
        parameter
        for parameter in signature.parameters.values()
        if parameter.name not in reserved and parameter.kind is not parameter.VAR_POSITIONAL
    ]


def _annotation(parameter: inspect.Parameter, factory: Callable[..., Any]) -> Any:
    """The parameter's type; ``Any`` if it has none, or one that only a type checker sees."""
    if parameter.annotation is inspect.Parameter.empty:
        return Any
    # One by one: another parameter's unresolvable type must not hide this one's.
    holder = type("holder", (), {"__annotations__": {"option": parameter.annotation}})
    try:
        hints = get_type_hints(holder, globalns=_namespace(factory), include_extras=True)
    except Exception:  # an annotation is any expression
        return Any
    return hints["option"]


def _namespace(factory: Callable[..., Any]) -> dict[str, Any]:
    target: Any = factory
    function = inspect.unwrap(target.__init__ if isinstance(factory, type) else target)
    function = getattr(function, "func", function)  # functools.partial
    return dict(getattr(function, "__globals__", {}))


def _is_writable(annotation: Any) -> bool:
    """Whether YAML, and so JSON, can hold a value of this type."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # for members of a union that JSON cannot hold
            schema = TypeAdapter(annotation).json_schema()
    except (PydanticUserError, PydanticInvalidForJsonSchema):
        return False
    return schema != {"type": "null"}


def _must_be_given(offer: Offer, parameter: inspect.Parameter) -> str:
    text = f'{offer}: its parameter "{parameter.name}" must be given, and YAML cannot write it'
    if _is_scored(offer, parameter):
        return f"{text}. A function that scores is made a reward with @grpo_sdk.reward"
    return f"{text}; it needs a default"


def _is_scored(offer: Offer, parameter: inspect.Parameter) -> bool:
    """Whether the factory is really a scoring function."""
    return offer.kind == "reward" and parameter.name in ("trajectory", "trajectories")
