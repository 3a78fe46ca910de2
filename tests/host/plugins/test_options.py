"""Options of agent.yaml, read off the signatures of factories."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from pydantic import Field

from grpo_host.plugins import Offer, Plugin, Registry
from grpo_host.plugins.describe import describe
from grpo_host.plugins.options import (
    OptionsError,
    embedder_parameters,
    options_model,
    validate_options,
)
from grpo_host.utils.validation import keys_at
from grpo_sdk import Backend, Capability, Embedder, ModelSpec, Trajectory, hookimpl, reward
from grpo_sdk.errors import PluginError

if TYPE_CHECKING:
    from somewhere_for_type_checkers import Unknown


def offer(factory: Callable[..., Any], kind: Any = "tool") -> Offer:
    return Offer("thing", kind, factory, Plugin("code", "acme", "1.2"))


def read_options(offer: Offer, given: dict[str, Any]) -> dict[str, Any]:
    return validate_options(offer, given).options


def complete_options(offer: Offer, given: dict[str, Any]) -> dict[str, Any]:
    return validate_options(offer, given).complete()


def complaints(factory: Callable[..., Any], **given: Any) -> dict[tuple[str | int, ...], str]:
    with pytest.raises(OptionsError) as error:
        read_options(offer(factory), given)
    return {complaint.location: complaint.message for complaint in error.value.complaints}


def search(*, path: Path, limit: int = 3, words: tuple[str, ...] = ("a", "b")) -> None: ...


def test_parameters_are_options():
    assert keys_at(options_model(offer(search)), ()) == ["path", "limit", "words"]


def test_given_options_get_their_types_and_defaults_are_left_to_the_factory():
    assert read_options(offer(search), {"path": "x", "words": ["c"]}) == {
        "path": Path("x"),
        "words": ("c",),
    }


def test_options_are_completed_with_defaults_that_yaml_can_hold():
    complete = complete_options(offer(search), {"path": "x", "limit": "5"})
    assert complete == {"path": "x", "limit": 5, "words": ["a", "b"]}


def test_an_unknown_option_is_an_error_with_a_suggestion():
    assert complaints(search, path="x", limt=3) == {("limt",): 'unknown option "limt". Did you mean "limit"?'}


def test_an_unknown_option_unlike_any_is_an_error_with_the_list():
    assert complaints(search, path="x", colour=3) == {
        ("colour",): 'unknown option "colour". The options here are: path, limit, words'
    }


def test_a_factory_without_parameters_has_no_options():
    assert complaints(lambda: None, a=1) == {("a",): 'unknown option "a". There are no options'}


def test_a_missing_option_is_an_error():
    assert complaints(search) == {("path",): "this option is missing"}


@pytest.mark.parametrize(
    ("annotation", "value", "said"),
    [
        (int, "many", "give a whole number"),
        (int, True, "give a number, not true or false"),
        (float | None, False, "give a number, not true or false"),
        (int, 1.5, "give a whole number"),
        (float, "many", "give a number"),
        (float, float("nan"), "give a finite number"),
        (bool, "perhaps", "give true or false"),
        (str, 3, "give a text"),
        (list[str], "x", "give a list"),
        (tuple[str, ...], "x", "give a list"),
        (dict[str, int], "x", "give a mapping of keys to values"),
        (Literal["a", "b"], "c", "give one of: 'a' or 'b'"),
        (Annotated[int, Field(ge=1)], 0, "give at least 1"),
        (Annotated[int, Field(gt=1)], 1, "give more than 1"),
        (Annotated[int, Field(le=1)], 2, "give at most 1"),
        (Annotated[int, Field(lt=1)], 1, "give less than 1"),
        (int | list[int], "x", "give a whole number, or give a list"),
    ],
)
def test_a_value_of_a_wrong_kind_is_an_error_in_plain_words(annotation, value, said):
    def factory(*, it=None) -> None: ...

    factory.__annotations__["it"] = annotation
    assert complaints(factory, it=value) == {("it",): said}


def test_an_error_inside_an_option_has_its_place():
    def factory(*, names: Sequence[str] = ()) -> None: ...

    assert complaints(factory, names=["a", 3]) == {("names", 1): "give a text"}


def test_several_errors_are_all_said():
    with pytest.raises(OptionsError, match=r"^path: this option is missing; limit: give a whole"):
        read_options(offer(search), {"limit": "x"})


def test_a_decorated_reward_has_the_options_of_its_function():
    @reward
    def short(trajectory: Unknown, *, limit: int = 200) -> float:
        return float(limit)

    assert keys_at(options_model(offer(short, "reward")), ()) == ["limit"]
    assert read_options(offer(short, "reward"), {"limit": "7"}) == {"limit": 7}


def test_a_class_has_the_options_of_its_constructor():
    @dataclass
    class Judge:
        threshold: float = 0.5

    assert complete_options(offer(Judge), {}) == {"threshold": 0.5}


def test_a_partial_has_the_options_that_are_left():
    def factory(kind: str, *, size: int = 3) -> None: ...

    assert complete_options(offer(partial(factory, "x")), {"size": "4"}) == {"size": 4}


def test_a_backends_model_is_no_option():
    class Echo(Backend):
        capabilities = frozenset({Capability.CHAT})

        def __init__(self, model: ModelSpec, *, url: str = "http://localhost") -> None:
            super().__init__(model)

    assert complete_options(offer(Echo, "backend"), {}) == {"url": "http://localhost"}
    assert keys_at(options_model(offer(lambda model="m": None)), ()) == ["model"]


def test_any_keyword_is_taken_where_the_factory_takes_any():
    def factory(*, a: int = 1, **more: Any) -> None: ...

    assert read_options(offer(factory), {"b": [1]}) == {"b": [1]}
    assert complete_options(offer(factory), {"b": [1]}) == {"a": 1, "b": [1]}


def test_names_that_pydantic_reserves_are_fine():
    def factory(*, copy: int = 1, model_config: int = 2, _private: int = 3) -> None: ...

    assert complete_options(offer(factory), {"copy": 5}) == {
        "copy": 5,
        "model_config": 2,
        "_private": 3,
    }


def test_a_type_that_only_a_type_checker_sees_accepts_anything():
    def factory(*, thing: Unknown = None, size: int = 1) -> None: ...

    assert read_options(offer(factory), {"thing": [1], "size": "2"}) == {"thing": [1], "size": 2}


def test_what_yaml_cannot_write_is_no_option():
    def factory(*, key: Callable[[str], str] | None = None, on: re.Match[str] | None = None) -> None: ...

    assert keys_at(options_model(offer(factory)), ()) == []


NOTHING = object()


def test_a_default_that_yaml_cannot_hold_is_not_written_out():
    def factory(*, thing: Any = NOTHING, size: int = 1) -> None: ...

    assert complete_options(offer(factory), {}) == {"size": 1}


def test_what_must_be_given_and_yaml_cannot_write_is_the_plugins_mistake():
    def factory(key: Callable[[str], str]) -> None: ...

    with pytest.raises(PluginError) as error:
        options_model(offer(factory))
    assert str(error.value) == (
        'tool "thing" of acme 1.2 (entry point "code"): its parameter "key" must be given, '
        "and YAML cannot write it; it needs a default"
    )


def test_a_scoring_function_that_is_no_factory_is_pointed_out():
    def score(trajectory: Trajectory) -> float: ...

    with pytest.raises(PluginError, match=r"made a reward with @grpo_sdk\.reward$"):
        options_model(offer(score, "reward"))


def test_a_factory_without_a_signature_is_the_plugins_mistake():
    with pytest.raises(PluginError, match="its options cannot be read from its signature"):
        options_model(offer(int))


def test_a_reward_gets_its_own_backend_described():
    def judged(*, judge: Backend | None = None) -> None: ...

    given = {"judge": {"name": "litellm", "model": "gpt-4o-mini", "options": {"retries": 1}}}
    use = read_options(offer(judged, "reward"), given)["judge"]
    assert (use.name, use.model.name, use.options) == ("litellm", "gpt-4o-mini", {"retries": 1})
    assert complete_options(offer(judged, "reward"), {}) == {"judge": None}


def test_only_rewards_have_backends_of_their_own():
    def tool(*, helper: Backend | None = None) -> None: ...

    assert keys_at(options_model(offer(tool, "tool")), ()) == []


def test_an_embedder_is_no_option_of_agent_yaml():
    def reward(*, meaning: Embedder, other: Embedder | None = None, size: int = 1) -> None: ...

    found = offer(reward, "reward")
    assert keys_at(options_model(found), ()) == ["size"]
    assert embedder_parameters(found) == {"meaning": True, "other": False}


def test_true_is_taken_where_it_may_stand_beside_a_number():
    def factory(*, a: bool | int = 1, b: Any = 0) -> None: ...

    assert read_options(offer(factory), {"a": True, "b": True}) == {"a": True, "b": True}


def test_an_endless_default_is_read_back_and_its_schema_is_json():
    @reward
    def capped(trajectory, *, most: float = float("inf")) -> float:
        """Up to `most`."""
        return 1.0

    registry = Registry()
    registry.register(type("P", (), {"grpo_rewards": hookimpl(lambda self: {"capped": capped})})(), "capped")
    offer = registry.get("reward", "capped")
    assert read_options(offer, complete_options(offer, {})) == {"most": float("inf")}
    described = json.dumps(describe(offer)["options"], allow_nan=False)
    assert json.loads(described)["properties"]["most"]["default"] == ".inf"
