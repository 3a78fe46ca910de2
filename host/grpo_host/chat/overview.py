"""A conversation at a glance."""

from __future__ import annotations

from typing import Any

from grpo_host.chat.store import ConversationRecord


def overview(record: ConversationRecord, *, now: float) -> dict[str, Any]:
    """Who, since when, how many turns, which tools, and the last words; JSON-able."""
    users = [message["content"] for message in record.messages if message["role"] == "user"]
    said = [m["content"] for m in record.messages if m["role"] == "assistant" and m["content"]]
    calls = [call for message in record.messages for call in message.get("tool_calls", ())]
    return {
        "conversation_id": record.id,
        "user_id": record.user_id,
        "strategy": record.strategy,
        "context": record.context,
        "turns": len(users),
        "messages": record.length,
        "tools_used": sorted({call["function"]["name"] for call in calls}),
        "last_user_message": users[-1] if users else None,
        "last_response": said[-1] if said else None,
        "compressed_messages": record.digest.messages,
        "summary": record.digest.summary,
        "created": record.created,
        "updated": record.updated,
        "idle_seconds": round(max(0.0, now - record.updated), 3),
    }
