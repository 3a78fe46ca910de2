"""The shape of agent.yaml. A plugin or model may be given by its name alone."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from grpo_host.plugins.reference import file_reference
from grpo_host.plugins.use import ModelConfig, Name, Named, PluginUse, Section

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Temperature = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


class LabelledUse(PluginUse):
    """One of several of a kind."""

    as_: Name | None = Field(default=None, alias="as")
    """What metrics and reports call it; null: its name. One plugin may come twice, under two."""

    @property
    def label(self) -> str:
        """``as``, or the name as it is written; metrics of two plugins' rewards must not have one name."""
        return self.as_ or (super().label if file_reference(self.name) else self.name)


class EnvironmentUse(LabelledUse):
    """An environment of a mixture."""

    weight: Positive = 1.0
    """Its share of the groups that are trained on, beside the other environments' weights."""


class RewardUse(LabelledUse):
    """A reward, and how much it counts."""

    weight: float = 1.0
    """Factor of its value in the sum; negative for a penalty."""
    seconds: Seconds = 30.0
    """Time limit of one score, or of one group's."""
    environments: list[Name] = Field(default_factory=list)
    """Of a mixture: those whose episodes it scores. Empty: all."""


class LimitsConfig(Section):
    """Limits of an episode."""

    turns: Count = 8
    """Model calls per episode."""
    turn_seconds: Seconds = 120.0
    """Time limit of one model call."""
    episode_seconds: Seconds = 600.0
    """Time limit of the whole episode."""
    tool_seconds: Seconds = 10.0
    """Time limit of one tool call."""
    probe_seconds: Seconds = 10.0
    """Time limit of a check of the environment: making it, its tasks, one reset, its tools."""
    tool_output_chars: Count = 4000
    """Longer output of a tool is cut, with a mark."""


class AppUse(Named):
    """An app: a Runnable of LangChain's, a graph, a function that makes one, or a program of any language."""

    name: str = ""
    """``module:attribute``, or a langgraph.json and one of its graphs: ``langgraph.json#shop``."""
    command: Annotated[list[Name], Field(min_length=1)] | None = None
    """Instead of a name: a program and its arguments, such as ``[node, shop.mjs]``, started for each
    answer."""
    folder: str = "."
    """Where its modules, its langgraph.json or its program are; relative to agent.yaml."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if bool(self.name) == bool(self.command):
            raise ValueError("an app has a name or a command")
        return self

    @property
    def label(self) -> str:
        """The app in messages."""
        return self.name or " ".join(self.command or ())


class AgentSection(Section):
    """Who the agent is and what it may use."""

    runnable: AppUse | None = None
    """An app that is the agent, in place of strategy and prompt; null: the agent is what follows."""
    input: str | dict[Name, Name] | None = None
    """What the app is given, as paths such as ``task.orders``: one, or one a key. Null: messages."""
    context: dict[Name, Name] = Field(default_factory=dict)
    """Of a graph's context_schema, by key as ``input``."""
    redirect: dict[Name, Literal["policy"]] = Field(default_factory=dict)
    """Models that the app itself names, such as ``openai:gpt-5-mini``, which the policy answers for."""
    others: Literal["refuse", "keep"] = "refuse"
    """Whether the app's calls of other models are errors, or are made and not recorded."""
    train: list[Name] | dict[Name, Annotated[float, Field(ge=0)]] | None = None
    """Roles of the app that are trained, with a factor of their loss if given; null: all. A role is a
    middleware's purpose (such as ``summarization``), an agent's name or a graph's node."""
    output: str | None = None
    """Where the answer is in what the app gives, such as ``answer.text``. Null: its structured response, or
    its last message."""

    strategy: PluginUse | None = None
    """System prompt, style and choice of tools; null: none."""
    system_prompt: str = ""
    """Placed after the strategy's own."""
    tools: list[PluginUse] = Field(default_factory=list)
    """In addition to the environment's."""
    limits: LimitsConfig = LimitsConfig()


class SamplingConfig(Section):
    """How the model is sampled."""

    max_tokens: Count = 64
    """Per model call."""
    temperature: Temperature = 1.0
    """0: greedy; training needs more than 0."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """1: no limit, which training needs."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """0: no limit."""


class RolloutsConfig(Section):
    """How episodes are played."""

    concurrency: Count = 32
    """Episodes that run at the same time."""
    max_consecutive_failures: Count | None = 100
    """A run, or an evaluation, ends after so many episodes in a row without a reward; null: never."""


class LoraConfig(Section):
    """The PEFT adapter that is trained."""

    r: Count = 16
    """Rank of the adapter."""
    alpha: Count = 32
    """The adapter's output is multiplied by ``alpha / r``."""
    dropout: Share = 0.0
    """Share of the adapter's inputs that is dropped in training."""
    target_modules: str | list[str] = "all-linear"
    """The modules to adapt, as PEFT names them."""


class WarmStartConfig(Section):
    """Supervised training on demonstrations, before GRPO."""

    epochs: Count = 2
    """Passes over the demonstrations."""
    learning_rate: Positive = 5.0e-4
    batch: Count = 8
    """Dialogues per optimizer step."""
    max_demonstrations: Count | None = None
    """Null: all."""
    dialogues: Name | None = None
    """A JSONL or SQLite file, relative to agent.yaml, of dialogues to imitate; null: the environment's
    demonstrations."""
    min_reward: float | None = None
    """Of recorded or played episodes in ``dialogues``, only those with at least this reward are imitated, as
    `grpo-host score --out` writes it; null: all that did not fail."""


class EarlyStoppingConfig(Section):
    """Stop when the reward no longer rises on tasks that neither training nor the evaluation uses; the
    best weights are kept."""

    patience: Count = 50
    """Training stops after this many steps without a better reward."""
    every: Count = 10
    """Steps between measurements."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """A reward is better only if it is higher by more than this."""


class TrainingConfig(Section):
    """How GRPO trains."""

    steps: Count = 20
    """GRPO steps: each plays a batch of episodes and updates the weights on it."""
    tasks_per_step: Count = 4
    """Tasks, and so groups of episodes, per step."""
    group_size: Annotated[int, Field(ge=2)] = 8
    """Episodes per task, which are compared with each other."""
    learning_rate: Positive = 3.0e-4
    """That of the first step; see ``lr_schedule``."""
    lora: LoraConfig | None = LoraConfig()
    """Null: the whole model is trained."""
    load_in: Literal["4bit", "8bit"] | None = None
    """How the base weights below the adapter are kept in training (by bitsandbytes); null: in the model's
    dtype."""
    mixed_precision: bool = True
    """Train in float32, whatever the model's dtype, and multiply in the model's dtype."""
    beta: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the KL penalty against the reference."""
    reference: Literal["start", "base"] = "start"
    """start: the policy as GRPO began with it, after a warm start or from ``model.adapter``; base: the model
    as it is without either."""
    loss: Literal["dapo", "grpo", "dr_grpo", "bnpo", "cispo"] = "dapo"
    """What the loss is divided by, and for cispo what is clipped."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """Whose ratio between new and old policy is clipped; sequence: GSPO."""
    iterations: Count = 1
    """How often a batch is trained on."""
    minibatches: Count = 1
    """Updates of the weights in each of ``iterations``, each on an equal part of the batch."""
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """The ratio between new and old policy is clipped this far below 1. With one update per batch it is 1,
    so no other value has an effect."""
    epsilon_high: Positive | None = None
    """How far above 1; null: as ``epsilon``. For cispo the largest ratio itself; null: 5."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Whose standard deviation divides the advantages; none: they are not divided."""
    multi_objective_aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = "sum_then_normalize"
    """Whether rewards are added up and then normalised, or each is normalised in its group first (GDPO)."""
    drop_equal_groups: bool = False
    """Groups whose rewards are all equal are left out of what the loss is divided by."""
    dynamic_sampling: Annotated[int, Field(ge=0)] = 0
    """How often per step such groups are played anew, on other tasks."""
    overlong_buffer: Annotated[int, Field(ge=0)] = 0
    """The last so many of ``sampling.max_tokens`` tokens of a reply are penalised; 0: none."""
    overlong_penalty: Positive = 1.0
    """What a reply costs that fills the buffer."""
    mask_truncated_completions: bool = False
    """Episodes that a limit cut count in their group's baseline and are not trained."""
    entropy_coef: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the mean entropy of a token, which is added to what is maximised."""
    top_entropy_quantile: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The share of tokens, of the highest entropy, that the policy's loss keeps."""
    importance_sampling: Literal[
        "token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "none"
    ] = "token_truncate"
    """How the difference between the engine's and the trainer's probabilities is corrected."""
    importance_sampling_cap: Positive = 2.0
    """Larger ratios are truncated to it, or masked."""
    max_grad_norm: Positive = 1.0
    """Gradients with a larger norm are scaled down to it."""
    optimizer: Literal["adamw_torch_fused", "adamw_torch", "adamw_8bit", "adafactor", "sgd"] = (
        "adamw_torch_fused"
    )
    """As transformers names it."""
    adam_beta1: Share = 0.9
    """How slowly AdamW's mean of the gradients moves."""
    adam_beta2: Share = 0.999
    """How slowly that of their squares moves."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Share of the learning rate by which each update shrinks the weights."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls to 0 at the last step; constant: it does not."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises from 0."""
    micro_batch: Count = 16
    """The most rows a forward pass; fewer if they do not divide those of a step."""
    max_tokens: Count | None = None
    """The most tokens a forward pass, padding included; one longer row is a pass of its own. Null: any."""
    gradient_checkpointing: bool = False
    """Compute activations a second time in the backward pass rather than keep them."""
    save_every: Count = 10
    """Steps between checkpoints."""
    early_stopping: EarlyStoppingConfig | None = None
    """Null: training runs to its last step."""
    world_size: Count = 1
    """Processes that train together, on all machines."""
    accelerate: str | None = None
    """An accelerate configuration with which they share the model (FSDP2); null: each holds all of it."""
    max_staleness: Annotated[int, Field(ge=0)] = 0
    """How many steps are sampled ahead, with weights that are so many updates old; 0: sampling and training
    take turns."""
    max_restarts: Annotated[int, Field(ge=0)] = 0
    """How often all processes start again from the last checkpoint when one of them dies."""
    warm_start: WarmStartConfig | None = None
    """Null: GRPO begins with the model as it is."""
    record_tokens: Annotated[int, Field(ge=0)] = 2
    """Episodes a step whose tokens are written to tokens.jsonl as the trainer sees them: log-prob, entropy,
    ratio, advantage."""
    curriculum: PluginUse | None = None
    """Chooses between steps which tasks are trained on next; null: all, in rounds."""
    report_to: list[str] = Field(default_factory=list)
    """Any of tensorboard, trackio, wandb."""


class EvaluationConfig(Section):
    """How the agent is measured, before and after training."""

    episodes: Annotated[int, Field(ge=0)] = 32
    """0: no evaluation."""
    before: bool = True
    """Evaluate before training, and after a warm start."""
    after: bool = True
    """Evaluate after training."""
    split: Name = "held_out"
    """The split of the environment's tasks that is played."""
    temperature: Temperature = 0.0
    """0: greedy."""


def _rate(text: str) -> str:
    if re.fullmatch(r"[1-9]\d{0,8}/(\d{1,6} )?(second|minute|hour|day)", text) is None:
        raise ValueError(
            "write how many in which time, such as 1200/minute or 5/10 second. The times are second, "
            "minute, hour and day"
        )
    return text


Rate = Annotated[str, AfterValidator(_rate)]
Bytes = Annotated[int, Field(ge=1024)]


class ServingSamplingConfig(Section):
    """How a served model is sampled if the request does not say; null: as the agent is measured."""

    max_tokens: Count | None = None
    """Per model call; null: that of ``sampling``."""
    temperature: Temperature | None = None
    """Null: that of ``evaluation``."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None


TRACE_URL = r"^https?://[^\s]*\{trace_id\}[^\s]*$"
"""What an address of traces looks like."""


class ServingConfig(Section):
    """How the agent is served."""

    host: Name = "127.0.0.1"
    """The address to listen on; any address but loopback needs a key."""
    port: Annotated[int, Field(ge=0, lt=2**16)] = 8001
    """0: any free port."""
    strategy: Name | None = None
    """The strategy of conversations that ask for none; null: the agent's own."""
    sampling: ServingSamplingConfig = ServingSamplingConfig()
    allowed_hosts: list[Name] = Field(default_factory=list)
    """Values of the Host header, ``*.example.org`` for all below. Empty: ``host`` and loopback's names
    if a connection comes over loopback, and any from elsewhere."""
    allowed_origins: list[Name] = Field(default_factory=list)
    """Web pages of these origins may call the API; empty: only the server's own."""
    rate: Rate | None = "1200/minute"
    """Requests and WebSocket messages per key; null: no limit."""
    failed_rate: Rate = "60/minute"
    """Requests without a valid key, per address."""
    max_body_bytes: Bytes = 1024 * 1024
    """Largest body of a request."""
    max_message_bytes: Bytes = 256 * 1024
    """Of one WebSocket message."""
    max_concurrency: Count = 64
    """Requests that are answered at the same time, per process."""
    max_queue: Annotated[int, Field(ge=0)] = 128
    """Requests that wait for their turn, per process; more are refused."""
    queue_seconds: Seconds = 30.0
    """The longest time that a request waits for its turn."""
    max_connections: Count = 1024
    """Open connections per process."""
    max_websockets: Count = 256
    """Open WebSockets per process."""
    conversation_days: Positive | None = None
    """Conversations without a message for this many days are deleted; null: they are kept."""
    max_models: Count = 4
    """Models and adapters that are loaded at the same time, per process."""
    max_queued_jobs: Count = 16
    """Training jobs that wait; more are refused."""
    drain_seconds: Seconds = 30.0
    """How long requests may take to end after SIGTERM."""
    trace_url: Annotated[str, Field(pattern=TRACE_URL)] | None = None
    """Where the trace of a trajectory can be looked at, for /ui: https://jaeger.example.org/trace/{trace_id}"""
    public_metrics: bool = False
    """Whether /metrics may be read without a key."""


class AgentConfig(Section):
    """agent.yaml."""

    name: Annotated[str, Field(max_length=64)]
    """Names the folder of its runs."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """All random choices of a run are derived from it."""
    deterministic: bool = False
    """Each answer is sampled alone, so that one seed gives the same run to the last bit. Slower."""
    model: ModelConfig
    backend: PluginUse = PluginUse(name="vllm")
    agent: AgentSection = AgentSection()
    environments: list[EnvironmentUse] = Field(default_factory=list)
    """A mixture, in place of ``environment``: each episode is played in one of them."""
    environment: Annotated[PluginUse | None, Field(validate_default=True)] = None
    """Where episodes are played; required unless there are ``environments``."""
    rewards: Annotated[list[RewardUse], Field(min_length=1)]
    sampling: SamplingConfig = SamplingConfig()
    rollouts: RolloutsConfig = RolloutsConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    serving: ServingConfig = ServingConfig()
    output: Name = "runs"
    """Parent of the run directories, relative to the working directory."""

    @field_validator("name")
    @classmethod
    def _is_folder_name(cls, name: str) -> str:
        import re

        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
            raise ValueError("give a name of small letters, digits and dashes: it names a folder")
        return name

    @field_validator("environment")
    @classmethod
    def _one_or_several(cls, one: PluginUse | None, info: ValidationInfo) -> PluginUse | None:
        several = info.data.get("environments", True)  # not there if they are wrong, which is said
        if one is None and not several:
            raise PydanticCustomError("missing", "missing")
        if one is not None and several:
            raise ValueError("give environment, or environments for a mixture, not both")
        return one

    @property
    def played(self) -> list[tuple[tuple[str | int, ...], PluginUse]]:
        """The environments, one or several, each with its location in agent.yaml."""
        if self.environment is not None:
            return [(("environment",), self.environment)]
        return [(("environments", index), use) for index, use in enumerate(self.environments)]

    @property
    def environment_label(self) -> str:
        """What reports call where episodes are played; the names of a mixture with + between them."""
        return "+".join(use.label for _, use in self.played)
