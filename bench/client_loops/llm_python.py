"""llm: its command with ``--functions``."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

with tempfile.TemporaryDirectory() as directory:
    Path(directory, "extra-openai-models.yaml").write_text(
        f"- model_id: desk\n  model_name: desk\n  api_base: {os.environ['BASE_URL']}\n  supports_tools: true\n"
    )
    answers = {}
    for name, more in (("--functions", ["--no-stream"]), ("--functions, streamed", [])):
        command = [sys.executable, "-m", "llm", "-m", "desk", "How is the weather?", *more, "--functions"]
        function = "def weather(town: str) -> str:\n    'The weather.'\n    return town[::-1]"
        done = subprocess.run(
            [*command, function],
            env={**os.environ, "LLM_USER_PATH": directory},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        answers[name] = done.stdout
print(json.dumps(answers))
