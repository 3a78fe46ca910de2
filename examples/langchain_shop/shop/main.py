"""The assistant as it runs in production."""

from __future__ import annotations

from langchain.chat_models import init_chat_model

from shop.app import build

graph = build(init_chat_model("openai:gpt-5-mini"))
