"""Play the customer of one conversation at the order desk, and judge how well he was served."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from grpo_environments.order_desk.orders import normalized, reads_out, says_not_found, stated

CALLED, RIGHT, ANSWERED = 0.15, 0.35, 0.5
"""What calling the tool, looking up the right order and answering rightly add to a question's score."""

_ASKS_ID = re.compile(r"\border (?:number|id|code)|\bnumber of your order|\bwhich order|\border'?s? id", re.I)


@dataclass(slots=True)
class Question:
    """A question of the customer, and how the agent dealt with it."""

    order: str
    field: str
    text: str
    names_order: bool
    gives_id: str
    called_tool: bool = False
    right_order: bool = False
    answered: bool = False

    @property
    def score(self) -> float:
        """Partial credit in [0, 1]; 1.0 only if all is right."""
        return CALLED * self.called_tool + RIGHT * self.right_order + ANSWERED * self.answered


@dataclass(slots=True)
class OrderDialogue:
    """The state of an episode."""

    orders: dict[str, dict[str, str]]
    questions: list[Question]
    position: int = 0
    id_known: set[str] = field(default_factory=set)
    lookups: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, data: dict[str, Any]) -> OrderDialogue:
        """The conversation that a task's data describes, at its beginning."""
        dialogue = cls(data["orders"], [Question(**question) for question in data["questions"]])
        dialogue._pose()
        return dialogue

    @property
    def done(self) -> bool:
        """Whether every question was dealt with."""
        return self.position >= len(self.questions)

    @property
    def question(self) -> Question:
        """The question that is open."""
        return self.questions[self.position]

    def lookup(self, order_id: str) -> str:
        """The tool's answer: a short JSON text."""
        order = normalized(order_id)
        if not self.done:
            self.lookups.append(order)
            self.question.called_tool = True
            self.question.right_order = self.question.right_order or order == self.question.order
        return json.dumps(self.orders.get(order, {"error": "order not found"}))

    def hear(self, text: str) -> str:
        """What the customer says to the agent's ``text``; empty if the conversation is over."""
        question = self.question
        if question.order not in self.id_known:
            self.id_known.add(question.order)
            if _ASKS_ID.search(text):
                return question.gives_id
        question.answered = question.right_order and self._answers(text, question)
        self.position += 1
        if self.done:
            return ""
        self._pose()
        known = self.question.names_order or self.question.order in self.lookups
        return self.question.text if known else f"{self.question.text} {self.question.gives_id}"

    def outcome(self) -> dict[str, Any]:
        """The facts so far; questions that were not reached count as failed."""
        count = len(self.questions)
        return {
            "success": all(question.answered for question in self.questions),
            "score": sum(question.score for question in self.questions) / count,
            "called_tool": sum(question.called_tool for question in self.questions) / count,
            "right_order": sum(question.right_order for question in self.questions) / count,
            "answered": sum(question.answered for question in self.questions) / count,
            "lookups": len(self.lookups),
        }

    def _pose(self) -> None:
        question = self.question
        if question.names_order:
            self.id_known.add(question.order)
        # The result of an earlier look-up is still in the conversation.
        if question.order in self.lookups:
            question.called_tool = question.right_order = True

    def _answers(self, text: str, question: Question) -> bool:
        values = stated(text, question.field)
        facts = self.orders.get(question.order)
        if facts is None:
            return not values and says_not_found(text)
        return values == {facts[question.field]} and not reads_out(text, question.field)
