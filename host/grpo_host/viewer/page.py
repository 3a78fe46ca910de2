"""One self-contained page about a run: no script, no network, and what a model wrote is text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any

from grpo_host.runs.run import flat_settings

if TYPE_CHECKING:
    from grpo_host.runs.run import Run

Point = tuple[float, float]
CURVES = (
    ("Reward", ("reward", "rollouts/reward_p10", "rollouts/reward_p90")),
    ("Success", ("rollouts/success",)),
    ("Entropy", ("entropy",)),
    ("Tokens a reply", ("rollouts/tokens_per_turn",)),
    ("Share of replies cut", ("rollouts/cut",)),
    ("Share of groups without a difference", ("frac_reward_zero_std",)),
    ("Tool calls and errors", ("rollouts/tool_calls", "rollouts/tool_errors")),
    ("Importance ratio", ("sampling/importance_sampling_ratio/mean",)),
    ("Gradient's norm", ("grad_norm",)),
    ("Tokens a second", ("rollouts/tokens_per_second",)),
)
"""A title, and the metrics that are drawn under it."""
WIDTH, HEIGHT, MARGIN = 360, 150, 44
STYLE = """
:root { color-scheme: light dark; --light: 32%; --line: #2563eb; --edge: #8884; --bad: #b91c1c; }
@media (prefers-color-scheme: dark) { :root { --light: 65%; --line: #7dabff; --bad: #fca5a5; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } table { border-collapse: collapse; }
.scroll { overflow-x: auto; } td, th { padding: .2rem .8rem .2rem 0; text-align: left; }
@media (max-width: 40rem) { .scroll { font-size: .8rem; } .scroll :is(td, th) { padding-right: .4rem; } }
.curves { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; }
svg { max-width: 100%; height: auto; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 1rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .2rem 0; font-size: .85rem; }
.said, .error, .warning, .info { border-left: 3px solid var(--edge); padding-left: .6rem; margin: .4rem 0; }
.assistant { border-color: var(--line); } .error, .warning { border-color: var(--bad); }
"""


def report_page(run: Run) -> str:
    """The page as HTML."""
    began = datetime.fromtimestamp(run.started, UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines = run.metric_lines()
    steps = f"step {lines[-1]['step'] if lines else 0} of {run.planned_steps}"
    body = [
        f"<h1>{escape(run.name)}</h1><p>Run {escape(run.path.name)}, {began}: {run.state}, {steps}</p>",
        *_section("What goes wrong", _diagnosis(run)),
        *_section("Measured", _measured(run)),
        *_section("Curves", _curves(run)),
        *_section("Before and after", _conversations(run)),
        *_section("Settings", _settings(run)),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">"
        f"<title>{escape(run.name)} {escape(run.path.name)}</title><style>{STYLE}</style></head>"
        f"<body>{''.join(body)}</body></html>\n"
    )


def _section(title: str, parts: Iterator[str]) -> list[str]:
    content = "".join(parts)
    return [f"<h2>{title}</h2>{content}"] if content else []


def _diagnosis(run: Run) -> Iterator[str]:
    for found in run.diagnosis():
        yield f'<p class="{found.severity}"><strong>Step {found.step}:</strong> {escape(found.text)}.<br>'
        yield f"{escape(found.advice)}.</p>"


def _measured(run: Run) -> Iterator[str]:
    measured = [item for item in run.evaluations() if item["reward"] is not None]
    if not measured:
        return
    yield '<div class="scroll" tabindex="0" role="region" aria-label="Measured"><table>'
    yield "<tr><th>When<th>Tasks<th>Episodes<th>Reward<th>95 %<th>Success</tr>"
    for item in measured:
        interval = "" if item["low"] is None else f"{item['low']:.3f} to {item['high']:.3f}"
        success = "" if item["success"] is None else f"{item['success']:.0%}"
        cells = (
            item["label"].replace("_", " "),
            item["split"],
            item["episodes"] or "",
            f"{item['reward']:.3f}",
            interval,
            success,
        )
        yield f"<tr>{''.join(f'<td>{escape(str(cell))}' for cell in cells)}</tr>"
    yield "</table></div>"


def _curves(run: Run) -> Iterator[str]:
    lines = run.metric_lines()
    parts = sorted({name for line in lines for name in line if name.startswith("rewards/")})
    means = tuple(name for name in parts if name.endswith("/mean"))
    of_rewards = [("Rewards", means)] if len(means) > 1 else []  # the only one is the reward
    drawn = []
    for title, names in (*CURVES[:1], *of_rewards, *CURVES[1:]):
        curves = {
            name: [(line["step"], line[name]) for line in lines if isinstance(line.get(name), int | float)]
            for name in names
        }
        curves = {name: points for name, points in curves.items() if points}
        if curves:
            drawn.append(_figure(title, curves))
    if drawn:
        yield f'<div class="curves">{"".join(drawn)}</div>'


def _figure(title: str, curves: Mapping[str, Sequence[Point]]) -> str:
    xs = [x for points in curves.values() for x, _ in points]
    ys = [y for points in curves.values() for _, y in points]
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)

    def place(x: float, y: float) -> str:
        across = (x - left) / ((right - left) or 1) * (WIDTH - MARGIN - 8)
        up = (y - low) / ((high - low) or 1) * (HEIGHT - 40)
        return f"{MARGIN + across:.1f},{HEIGHT - 20 - up:.1f}"

    paths, names = [], []
    for number, (name, points) in enumerate(curves.items()):
        colour = "var(--line)" if number == 0 else f"hsl({number * 67 % 360} 60% var(--light))"
        path = " ".join(place(x, y) for x, y in points)
        mark = f'<circle cx="{path.split(",")[0]}" cy="{path.split(",")[1]}" r="3" fill="{colour}"/>'
        names.append(f'<span style="color: {colour}">{escape(name)}</span>')
        drawn = mark if len(points) == 1 else ""
        paths.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}">'
            f"<title>{escape(name)}</title></polyline>{drawn}"
        )
    text = '<text font-size="11" fill="currentColor"'
    return (
        f"<figure><figcaption>{escape(title)}<br><small>{', '.join(names)}</small></figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" '
        f'aria-label="{escape(title)}: {ys[0]:.3g} at first, {ys[-1]:.3g} at last">'
        f'{text} x="0" y="24">{high:.3g}</text>{text} x="0" y="{HEIGHT - 20}">{low:.3g}</text>'
        f'{text} x="{MARGIN}" y="{HEIGHT - 4}">{left:g}</text>'
        f'{text} x="{WIDTH - 8}" y="{HEIGHT - 4}" text-anchor="end">step {right:g}</text>'
        f"{''.join(paths)}</svg></figure>"
    )


def _conversations(run: Run) -> Iterator[str]:
    when = [name for name in ("before", "warm_start", "after") if isinstance(run.report.get(name), dict)]
    by_task: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for name in when:
        for item in run.report[name].get("conversations", ()):
            by_task.setdefault(item["task"], []).append((name, item))
    for task, said in by_task.items():
        yield f'<h3>{escape(task)}</h3><div class="pair">'
        for name, item in said:
            reward = "no reward" if item["reward"] is None else f"reward {item['reward']:.2f}"
            yield f"<div><strong>{name.replace('_', ' ')}: {reward}</strong>"
            yield f"{''.join(map(_said, item['messages']))}</div>"
        yield "</div>"


def _said(message: dict[str, Any]) -> str:
    role = escape(str(message["role"]))
    content = f"<pre>{escape(str(message['content']))}</pre>" if message.get("content") else ""
    for call in message.get("tool_calls") or ():
        function = call["function"]
        content += f"<pre>{escape(function['name'])} {escape(str(function['arguments']))}</pre>"
    return f'<div class="said {role}"><small>{role}</small>{content}</div>'


def _settings(run: Run) -> Iterator[str]:
    yield "<details><summary>agent.yaml, every default written out</summary><table>"
    for name, value in flat_settings(run.config):
        yield f"<tr><td>{escape(name)}<td>{escape(json.dumps(value, ensure_ascii=False, default=str))}</tr>"
    yield "</table></details>"
