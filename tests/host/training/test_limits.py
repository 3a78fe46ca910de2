"""Constrained tokens in the trainer: the ids that their grammars left out are left out there too."""

from __future__ import annotations

import asyncio
import json
import warnings

import pytest

from grpo_sdk import ModelSpec, Sampling
from grpo_sdk.errors import RunError
from grpo_sdk.grammar import Grammars, unpacked
from grpo_sdk.trajectory import TokenConstraint

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")

SCHEMA = {
    "type": "object",
    "properties": {
        "word": {"type": "string", "pattern": "^[a-z]{1,6}$"},
        "level": {"enum": ["low", "urgent"]},
    },
    "required": ["word", "level"],
}
GRAMMAR = json.dumps(
    {
        "type": "structural_tag",
        "format": {"type": "json_schema", "json_schema": SCHEMA, "max_whitespace_cnt": 1},
    }
)
PROMPT, STOPS = [504, 3575, 282, 4649, 314], [0, 2]


@pytest.fixture(scope="module")
def parts(tiny_model_path):
    """The modules under test, and the tiny model in float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from grpo_host.training import limits
        from grpo_host.training.cpu import fast_pass
        from grpo_host.training.trl.rows import Row

        model = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32)
        model.requires_grad_(False)
        model.base_model.layers[0].mlp.up_proj.weight.requires_grad_()
        grammars = Grammars(AutoTokenizer.from_pretrained(tiny_model_path), model.config.vocab_size)
    return limits, fast_pass, Row, model, grammars


@pytest.fixture(scope="module")
def sampled(tiny_model_path):
    """Answers of the sampler: two under the grammar, and one without."""
    from grpo_backends.transformers_engine import TransformersBackend

    async def sample():
        backend = TransformersBackend(ModelSpec("tiny", path=tiny_model_path, dtype="float32", context=256))
        await backend.start()
        try:
            return await asyncio.gather(
                *(
                    backend.generate(
                        PROMPT,
                        Sampling(
                            max_tokens=60,
                            temperature=0.8,
                            seed=seed,
                            stop_token_ids=tuple(STOPS),
                            grammar=grammar,
                        ),
                    )
                    for seed, grammar in enumerate([GRAMMAR, GRAMMAR, None])
                )
            )
        finally:
            await backend.close()

    return asyncio.run(sample())


def rows_of(Row, sampled):
    return [
        Row(
            PROMPT,
            reply.ids,
            reply.logprobs,
            [1] * len(reply.ids),
            constraints=[TokenConstraint(0, len(reply.ids), GRAMMAR, STOPS)] if index < 2 else [],
        )
        for index, reply in enumerate(sampled)
    ]


def batch_of(rows):
    width = max(len(row.completion_ids) for row in rows)
    ids = torch.zeros(len(rows), len(PROMPT) + width, dtype=torch.long)
    attention = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        whole = row.prompt_ids + row.completion_ids
        ids[index, : len(whole)], attention[index, : len(whole)] = torch.tensor(whole), 1
    return ids, attention, attention[:, len(PROMPT) :].bool(), width


def test_sampler_and_trainer_agree_on_constrained_tokens(parts, sampled):
    limits, fast_pass, Row, model, grammars = parts
    rows = rows_of(Row, sampled)
    ids, attention, scored, width = batch_of(rows)
    found = limits.find_limits(rows, grammars)
    with torch.no_grad():
        logprobs, _ = fast_pass.score_tokens(model, ids, attention, scored, width, 0.8, found)
        free, _ = fast_pass.score_tokens(model, ids, attention, scored, width, 0.8)
    for index, row in enumerate(rows):
        own = slice(0, len(row.completion_ids))
        assert logprobs[index, own].tolist() == pytest.approx(row.logprobs, abs=1e-4)
    assert (logprobs[:2] - free[:2]).abs().max() > 1.0  # what a trainer that knows no grammar would have said
    assert torch.equal(logprobs[2], free[2])


def reference(model, rows, grammars, temperature):
    """By hand: log-probs and entropies of the distribution over the allowed ids, in float64."""
    logprobs, entropies = [], []
    for row in rows:
        logits = model(torch.tensor([row.prompt_ids + row.completion_ids])).logits[0]
        for at, id in enumerate(row.completion_ids):
            scores = (logits[len(row.prompt_ids) + at - 1].double() / temperature).exp()
            for constraint in row.constraints:
                bits = grammars.allowed(row.completion_ids, constraint.grammar, constraint.stop_ids)
                scores = scores * unpacked(bits, len(scores))[at]
            share = scores / scores.sum()
            logprobs.append(share[id].log())
            entropies.append(-(share[share > 0] * share[share > 0].log()).sum())
    return torch.stack(logprobs), torch.stack(entropies)


@pytest.mark.parametrize("kind", ["fast", "plain"])
def test_logprobs_entropies_and_gradients_are_those_of_what_was_allowed(parts, sampled, kind):
    limits, fast_pass, Row, model, grammars = parts
    rows = rows_of(Row, sampled)
    ids, attention, scored, width = batch_of(rows)
    found = limits.find_limits(rows, grammars)
    weight = model.base_model.layers[0].mlp.up_proj.weight
    if kind == "fast":
        logprobs, entropies = fast_pass.score_tokens(model, ids, attention, scored, width, 0.8, found)
    else:
        trainer = object.__new__(fast_pass.FastGRPOTrainer)
        trainer.__dict__.update(temperature=0.8, accelerator=type("None", (), {"autocast": torch.no_grad})())
        trainer.accelerator.autocast = torch.enable_grad
        trainer.args = type("None", (), {"entropy_coef": 0.0})()
        logprobs, entropies, _ = trainer._plain_pass(model, ids, attention, found, 2)
    wanted, spread = reference(model, rows, grammars, 0.8)
    torch.testing.assert_close(logprobs[scored].double(), wanted, rtol=0, atol=1e-4)
    torch.testing.assert_close(entropies[scored].double(), spread.detach(), rtol=0, atol=1e-3)
    factors = torch.linspace(-1, 2, len(wanted))
    [ours] = torch.autograd.grad((logprobs[scored] * factors).sum(), weight)
    [theirs] = torch.autograd.grad((wanted * factors).sum(), weight)
    torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=1e-3, atol=1e-4)


def test_an_id_that_alone_was_allowed_has_logprob_zero_and_moves_nothing(parts):
    limits, fast_pass, Row, model, grammars = parts
    tag = {"type": "structural_tag", "format": {"type": "token", "token": 7}}
    row = Row(PROMPT, [7, 2], [0.0, 0.0], [1, 1], constraints=[TokenConstraint(0, 2, json.dumps(tag), [2])])
    ids, attention, scored, width = batch_of([row])
    found = limits.find_limits([row], grammars)
    logprobs, entropies = fast_pass.score_tokens(model, ids, attention, scored, width, 1.0, found)
    assert (logprobs.tolist(), entropies.tolist()) == ([[0.0, 0.0]], [[0.0, 0.0]])
    [gradient] = torch.autograd.grad(logprobs.sum(), model.base_model.layers[0].mlp.up_proj.weight)
    assert not gradient.any()


def test_rows_that_share_a_prefix_are_limited_each_by_its_own_grammar(parts):
    limits, fast_pass, Row, model, grammars = parts
    answers = [[7, 8, 2], [7, 9, 2]]
    tags = [
        {"type": "sequence", "elements": [{"type": "token", "token": id} for id in ids[:2]]}
        for ids in answers
    ]
    rows = [
        Row(
            PROMPT,
            ids,
            [0.0] * 3,
            [1] * 3,
            constraints=[TokenConstraint(0, 3, json.dumps({"type": "structural_tag", "format": tag}), [2])],
        )
        for ids, tag in zip(answers, tags, strict=True)
    ]
    ids, attention, scored, width = batch_of(rows)
    with torch.no_grad():
        logprobs, _ = fast_pass.score_tokens(
            model, ids, attention, scored, width, 1.0, limits.find_limits(rows, grammars)
        )
    assert logprobs.tolist() == [[0.0] * 3] * 2


def test_rows_without_a_grammar_have_no_limits(parts):
    limits, _, Row, _, grammars = parts
    assert limits.find_limits([Row(PROMPT, [7, 2], [0.0, 0.0], [1, 1])], grammars) is None


def test_ids_that_their_grammar_does_not_allow_stop_the_run(parts):
    limits, _, Row, _, grammars = parts
    row = Row(PROMPT, [7, 2], [0.0, 0.0], [1, 1], constraints=[TokenConstraint(0, 2, GRAMMAR, STOPS)])
    with pytest.raises(RunError, match=r"does not allow its id 0 \(7\): it was sampled with another grammar"):
        limits.find_limits([row], grammars)
