"""τ²'s own side of the comparison; run by the interpreter that has inspect-evals, with JSON on stdin.

Transcripts are played again by Inspect itself (``inspect_ai.eval`` of ``tau2_retail``), with recorded answers in
place of both models'.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile

from inspect_ai import eval as evaluate
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_evals.tau2.retail.dataset import read_dataset
from inspect_evals.tau2.tau2 import tau2_retail


def answers():
    """By scenario, as the customer's model is told it: what to do, and what to say."""
    found = {}
    for sample in read_dataset("RetailAgent"):
        scenario = re.search(r"<scenario>\n(.*)\n</scenario>", sample.input[0].text, re.S)[1]
        criteria = sample.metadata["task"]["evaluation_criteria"]
        calls = [[action["name"], action["arguments"]] for action in criteria["actions"] or []]
        found[scenario] = {"calls": calls, "says": " ".join(criteria["communicate_info"] or []) or "Done."}
    return found


def output(message):
    made = ModelOutput.from_content("mockllm/model", message["content"])
    for call in message.get("tool_calls") or []:
        arguments = json.loads(call["function"]["arguments"])
        made = ModelOutput.for_tool_call("mockllm/model", call["function"]["name"], arguments)
    made.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)  # else it downloads a tokenizer
    return made


def judge(transcripts):
    """By task: whether Inspect's score is correct. One run of Inspect plays them one after another."""
    said = {data["id"]: messages for _, data, messages in transcripts}
    names = {data["id"]: task for task, data, _ in transcripts}
    order = [sample.id for sample in read_dataset("RetailAgent") if sample.id in said]

    def outputs(role):
        made = [output(one) for name in order for one in said[name] if one["role"] == role]
        return get_model("mockllm/model", custom_outputs=made, memoize=False)

    with tempfile.TemporaryDirectory() as logs:
        [log] = evaluate(
            tau2_retail(shuffle=False),
            model=outputs("assistant"),
            model_roles={"user": outputs("user")},
            sample_id=order,
            max_samples=1,
            log_dir=logs,
            display="none",
        )
        scores = {sample.id: next(iter(sample.scores.values())) for sample in log.samples}
    return {names[name]: {"success": score.value == "C"} for name, score in scores.items()}


if __name__ == "__main__":
    out, sys.stdout = sys.stdout, sys.stderr
    request = json.load(sys.stdin)
    result = answers() if request["do"] == "answers" else judge(request["transcripts"])
    json.dump(result, out)
