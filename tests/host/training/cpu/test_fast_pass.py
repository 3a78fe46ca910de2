"""The fast pass against TRL's own: the same loss, gradients and metrics, on tiny random models."""

import copy
import warnings

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TRL's imports warn
    from grpo_host.training.cpu import fast_pass  # first: it leaves TRL's vLLM out

    # isort: split
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from grpo_host.training.cpu.fast_pass import FastGRPOTrainer
    from grpo_host.training.cpu.packing import pack
    from grpo_host.training.lora_linear import round_once

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore")]

# Groups of unequal prompts, completions of unequal length, some of which begin alike, tokens without loss.
ROWS = [
    ([5, 6, 7], [8, 9, 10, 11, 2], [1, 1, 1, 1, 1]),
    ([5, 6, 7], [8, 9, 2], [1, 1, 1]),
    ([5, 6, 7], [13, 14, 15, 2], [1, 0, 0, 1]),
    ([5, 6, 7], [2], [0]),
    ([6, 7, 20, 21, 22], [23, 24, 2], [0, 1, 1]),
    ([6, 7, 20, 21, 22], [25, 26, 27, 28, 29, 2], [1, 1, 1, 1, 1, 1]),
    ([6, 7, 20, 21, 22], [25, 26, 27], [1, 0, 1]),
    ([6, 7, 20, 21, 22], [31, 32, 33, 2], [1, 1, 1, 1]),
]


def tiny_model(model_type="llama", dtype=torch.float32, adapter_scale=0.3, **settings):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        model_type,
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        pad_token_id=0,
        eos_token_id=2,
        **{"tie_word_embeddings": True, **settings},
    )
    base = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager")
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=adapter_scale)
    return model


def tokenizer():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = {f"w{i}": i for i in range(64)}
    inner = Tokenizer(WordLevel(words, unk_token="w1"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="w0", eos_token="w2")


def differing(completions, **_):
    return [float(i * i % 5) for i in range(len(completions))]


def trainer(kind, model, tmp_path, reward=differing, **settings):
    def rollout(prompts, trainer):
        return {
            "prompt_ids": [row[0] for row in ROWS],
            "completion_ids": [row[1] for row in ROWS],
            "logprobs": [[-1.0] * len(row[1]) for row in ROWS],
            "env_mask": [row[2] for row in ROWS],
        }

    arguments = GRPOConfig(
        output_dir=str(tmp_path),
        **{
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "num_generations": 4,
            "max_steps": 1,
            "learning_rate": 0.0,
            "max_grad_norm": 0.0,
            "max_completion_length": 8,
            "use_cpu": True,
            "bf16": False,
            "report_to": [],
            "save_strategy": "no",
            "logging_steps": 1,
            "disable_tqdm": True,
            "gradient_checkpointing": False,
            **settings,
        },
    )
    return kind(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": str(i)} for i in range(2)]),
        processing_class=tokenizer(),
        reward_funcs=reward,
        rollout_func=rollout,
    )


def gradients_of_a_step(kind, model, tmp_path, **settings):
    """The gradients that reach the optimizer, and the step's logged metrics."""
    made = trainer(kind, model, tmp_path, **settings)
    found = {}

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, *_, **__):
            found.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

    made.add_callback(Keep())
    made.train()
    return found, made.state.log_history[0]


def compare(ours, plain, tolerance):
    assert ours[0].keys() == plain[0].keys()
    assert len(ours[0]) > 0
    scale = max(float(gradient.abs().max()) for gradient in plain[0].values())
    assert scale > 0
    for name, gradient in plain[0].items():
        assert ours[0][name].dtype == gradient.dtype
        torch.testing.assert_close(ours[0][name], gradient, atol=tolerance * scale, rtol=tolerance)
    for name in ("loss", "clip_ratio/region_mean", "num_tokens"):
        assert ours[1][name] == pytest.approx(plain[1][name], abs=tolerance)
    # A mean of micro-batches' means: it depends a little on which rows stand together.
    assert ours[1]["entropy"] == pytest.approx(plain[1]["entropy"], abs=0.01)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loss_type": "grpo"},
        {"loss_type": "dr_grpo"},
        {"temperature": 0.7},
        {"beta": 0.1},
        {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        {"num_iterations": 2, "max_steps": 2},
    ],
    ids=str,
)
def test_gradients_are_trls(tmp_path, settings):
    model = tiny_model()
    plain = gradients_of_a_step(GRPOTrainer, copy.deepcopy(model), tmp_path, **settings)
    ours = gradients_of_a_step(FastGRPOTrainer, round_once(model), tmp_path, **settings)
    compare(ours, plain, 1e-4)


@pytest.mark.parametrize("piece", [1, 2, 5])
def test_gradients_are_trls_however_long_a_piece_is(tmp_path, monkeypatch, piece):
    monkeypatch.setattr("grpo_host.training.cpu.packing.PIECE", piece)
    ours = gradients_of_a_step(FastGRPOTrainer, round_once(tiny_model()), tmp_path / "ours")
    plain = gradients_of_a_step(GRPOTrainer, tiny_model(), tmp_path / "plain")
    compare(ours, plain, tolerance=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("micro_batch", [2, 4, 8])
def test_rows_of_equal_rewards_have_no_backward_pass_and_the_gradients_are_trls(
    tmp_path, monkeypatch, beta, micro_batch
):
    def first_group_alone(completions, **_):
        return [float(i) if i < 4 else 1.0 for i in range(len(completions))]

    rows = {True: 0, False: 0}
    score_tokens = fast_pass.score_tokens

    def counted(model, ids, *rest):
        rows[torch.is_grad_enabled()] += len(ids)
        return score_tokens(model, ids, *rest)

    settings = {
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": 8 // micro_batch,
        "reward": first_group_alone,
        "beta": beta,
    }
    model = tiny_model()
    plain = gradients_of_a_step(GRPOTrainer, copy.deepcopy(model), tmp_path, **settings)
    monkeypatch.setattr(fast_pass, "score_tokens", counted)
    ours = gradients_of_a_step(FastGRPOTrainer, round_once(model), tmp_path, **settings)
    compare(ours, plain, 1e-4)
    if not beta:
        assert rows == {True: 4, False: 4}


@pytest.mark.parametrize("model_type", sorted(fast_pass.PACKABLE))
def test_every_packable_architecture(tmp_path, model_type):
    model = tiny_model(model_type, tie_word_embeddings=False)
    plain = gradients_of_a_step(GRPOTrainer, copy.deepcopy(model), tmp_path)
    ours = gradients_of_a_step(FastGRPOTrainer, round_once(model), tmp_path)
    compare(ours, plain, 1e-4)


def test_bfloat16_is_as_near_to_the_exact_gradient_as_trls(tmp_path):
    model = tiny_model(dtype=torch.bfloat16, adapter_scale=0.1)
    exact = _flat(gradients_of_a_step(GRPOTrainer, copy.deepcopy(model).float(), tmp_path)[0])
    plain = _flat(gradients_of_a_step(GRPOTrainer, copy.deepcopy(model), tmp_path)[0])
    ours = _flat(gradients_of_a_step(FastGRPOTrainer, round_once(model), tmp_path)[0])
    assert ours.dtype == torch.float32
    assert (plain - exact).norm() < 0.02 * exact.norm()
    assert (ours - exact).norm() < 0.02 * exact.norm()


def _flat(gradients):
    return torch.cat([gradients[name].flatten() for name in sorted(gradients)])


def test_the_fast_pass_is_taken(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("TRL's pass")

    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", fail)
    gradients_of_a_step(FastGRPOTrainer, round_once(tiny_model()), tmp_path)


@pytest.mark.parametrize("unsafe", ["model_type", "trained_head"])
def test_what_is_not_known_to_be_safe_takes_trls_pass(tmp_path, monkeypatch, unsafe):
    model = tiny_model()
    if unsafe == "model_type":
        monkeypatch.setattr(fast_pass, "PACKABLE", frozenset())
    else:
        model.get_base_model().lm_head.weight.requires_grad_(True)
    monkeypatch.setattr(fast_pass, "score_tokens", lambda *_: pytest.fail("the fast pass"))
    found, _ = gradients_of_a_step(FastGRPOTrainer, round_once(model), tmp_path)
    assert found


def test_a_batch_without_loss_trains_nothing(tmp_path):
    model = round_once(tiny_model())
    ids = torch.tensor([[5, 6, 7, 2]])
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    logprobs, entropies = fast_pass.score_tokens(
        model.get_base_model(), ids, torch.ones_like(ids), nothing, 2, 1.0
    )
    logprobs.sum().backward()
    assert logprobs.tolist() == entropies.tolist() == [[0.0, 0.0]]
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_small_updates_of_a_bfloat16_models_adapter_are_kept():
    model = round_once(tiny_model(dtype=torch.bfloat16))
    adapter = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in adapter} == {torch.float32}


def test_packing_computes_what_rows_begin_with_alike_once():
    ids = torch.tensor([[0, 5, 6, 8, 9], [0, 5, 6, 7, 0], [3, 4, 5, 7, 0], [0, 5, 6, 8, 4]])
    attention = torch.tensor([[0, 1, 1, 1, 1], [0, 1, 1, 1, 0], [1, 1, 1, 1, 0], [0, 1, 1, 1, 1]])
    packing = pack(ids, attention, 2)
    assert sorted(packing.ids.tolist()) == [3, 4, 4, 5, 5, 6, 7, 7, 8, 9]
    predicted_by = packing.ids[packing.predictors].tolist()
    assert predicted_by == [6, 8, 6, 5, 6, 8]
    assert packing.predictors[0] == packing.predictors[2] == packing.predictors[4]
    assert packing.predictors[1] == packing.predictors[5]
    for token, seen in enumerate(packing.paths):
        own = packing.slots[token][0]
        assert packing.positions[own] == seen.tolist().index(own)


def test_a_row_that_is_another_or_its_beginning_needs_no_tokens_of_its_own():
    ids = torch.tensor([[5, 6, 7], [5, 6, 7], [5, 6, 0]])
    attention = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 0]])
    packing = pack(ids, attention, 2)
    assert packing.ids.tolist() == [5, 6, 7]
    assert packing.predictors.tolist() == [0, 1, 0, 1, 0]


def test_prompts_that_differ_only_in_padding_are_different():
    ids = torch.tensor([[0, 5, 9], [0, 5, 9]])
    attention = torch.tensor([[0, 1, 1], [1, 1, 1]])
    packing = pack(ids, attention, 1)
    assert sorted(packing.ids.tolist()) == [0, 5, 5, 9, 9]
