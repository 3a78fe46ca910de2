"""What a request for training may say: names of registered things, texts, and bounded numbers."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

PROMPTS = 1000
CHARACTERS = 8000
EPISODES = 1024
"""Of a step."""
COMPUTATIONAL = "computational"
"""The strategy of the usage guide's requests: the agent as it is served, and the general rewards."""

Text = Annotated[str, Field(min_length=1, max_length=CHARACTERS, pattern=r"\S")]
RegisteredName = Annotated[
    str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/-]*$")
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class NamedUse(_Body):
    """Something that a plugin offers, by its name alone or with options."""

    name: RegisteredName
    options: dict[Annotated[str, Field(max_length=100)], Any] = Field(default_factory=dict, max_length=32)
    """Numbers, alone or by name, booleans and fixed choices; what is a text or a path stands in the
    server's agent.yaml only."""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class NamedReward(NamedUse):
    """A reward, and how much it counts."""

    weight: float = Field(1.0, ge=-100, le=100)


class TrainRequest(_Body):
    """A training job: GRPO on ``prompts``, or in a registered environment."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompts": ["Where is my order?"], "num_iterations": 2}]}
    )

    prompts: list[Text] = Field(default_factory=list, max_length=PROMPTS)
    """What users say first. Not together with ``environment``."""
    strategy: RegisteredName = COMPUTATIONAL
    """A registered strategy, whose rewards are used too; ``computational``: the agent as it is served."""
    num_iterations: int = Field(10, ge=1, le=10_000)
    """Training steps."""
    use_neural_rewards: bool = False
    """Add the reward that is learnt from feedback."""
    customer_replies: list[Text] = Field(default_factory=list, max_length=8)
    """What the user says after the agent's first, second, … answer; an episode ends after the last."""
    expected_responses: list[Text] = Field(default_factory=list, max_length=64)
    """Answers that are good ones, for the strategy's rewards."""
    held_out_prompts: list[Text] = Field(default_factory=list, max_length=256)
    """Not trained on: the reward on them is measured before and after."""
    environment: NamedUse | None = None
    rewards: list[NamedReward] = Field(default_factory=list, max_length=16)
    """Instead of the strategy's."""
    tools: list[NamedUse] | None = Field(None, max_length=16)
    """Instead of the served agent's."""
    prompts_per_iteration: int | None = Field(None, ge=1, le=64)
    """None: 4, or as many as there are."""
    group_size: int = Field(8, ge=2, le=64)
    """Episodes a prompt, which are compared with each other."""
    max_tokens: int | None = Field(None, ge=1, le=4096)
    """Of an answer; None: as the agent is served."""
    learning_rate: float | None = Field(None, gt=0, le=0.1)
    """None: as the server's agent.yaml has it."""
    evaluation_episodes: int = Field(0, ge=0, le=256)
    """With ``environment``: tasks of its held-out split that are measured before and after."""
    seed: int = Field(0, ge=0, lt=2**31)

    @property
    def tasks_per_step(self) -> int:
        """How many prompts, or tasks, a step plays."""
        return self.prompts_per_iteration or min(4, len(set(self.prompts)) or 4)

    @model_validator(mode="after")
    def _fits_together(self) -> TrainRequest:
        if bool(self.prompts) == (self.environment is not None):
            raise ValueError("give either prompts or an environment")
        if self.environment is not None and (self.customer_replies or self.held_out_prompts):
            raise ValueError("an environment has replies and held-out tasks of its own")
        if self.rewards and self.expected_responses:
            raise ValueError("expected_responses are for the strategy's rewards; leave rewards out")
        if self.environment is None and self.evaluation_episodes:
            raise ValueError("evaluation_episodes goes with an environment; give held_out_prompts")
        if both := set(self.prompts) & set(self.held_out_prompts):
            raise ValueError(f"{len(both)} of held_out_prompts stand in prompts too")
        if self.prompts and self.tasks_per_step > len(set(self.prompts)):
            raise ValueError("prompts_per_iteration is more than there are different prompts")
        if self.tasks_per_step * self.group_size > EPISODES:
            raise ValueError(f"a step may play {EPISODES} episodes: prompts_per_iteration times group_size")
        names = [reward.name for reward in self.rewards]
        if len(set(names)) < len(names):
            raise ValueError("a reward is listed twice")
        return self
