"""Every table of the server's database. A column that is added needs a migration in ``migrations.py``."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

schema_version = Table(
    "schema_version",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("name", String(200), nullable=False),
    Column("applied", Double, nullable=False),
)

conversations = Table(
    "grpo_conversations",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("user_id", String(400)),
    Column("owner", String(400), nullable=False),
    Column("strategy", String(400), nullable=False),
    Column("context", JSON, nullable=False),
    Column("length", Integer, nullable=False),
    Column("digested", Integer, nullable=False),
    Column("summary", Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("updated", Double, nullable=False),
    Index("grpo_conversations_by_owner", "owner", "user_id", "updated"),
    Index("grpo_conversations_by_user", "user_id", "updated"),
)

messages = Table(
    "grpo_messages",
    metadata,
    Column("conversation_id", ForeignKey(conversations.c.id, ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("body", JSON, nullable=False),
    Column("created", Double, nullable=False),
)

feedback = Table(
    "grpo_feedback",
    metadata,
    Column("conversation_id", ForeignKey(conversations.c.id, ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("score", Double),
    Column("correction", Text),
    Column("model", String(400)),
    Column("updated", Double, nullable=False),
)

keys = Table(
    "grpo_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("created", Double, nullable=False),
    Column("last_used", Double),
    Column("revoked", Double),
    Column("owner", String(400)),
    Column("expires", Double),
)

usage = Table(
    "grpo_usage",
    metadata,
    Column("owner", String(400), primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
)

claims = Table(
    "grpo_idempotency",
    metadata,
    Column("owner", String(400), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("conversation_id", String(200), nullable=False, index=True),
    Column("holder", String(32), nullable=False),
    Column("expires", Double, nullable=False),
    Column("response", JSON),
    Column("created", Double, nullable=False),
)

jobs = Table(
    "grpo_jobs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("number", Integer, nullable=False, unique=True),
    Column("owner", String(400), nullable=False),
    Column("state", String(20), nullable=False),
    Column("strategy", String(100), nullable=False),
    Column("agent", String(64), nullable=False),
    Column("config", Text, nullable=False),
    Column("notes", JSON, nullable=False),
    Column("steps", Integer, nullable=False),
    Column("run_id", String(64)),
    Column("holder", String(64)),
    Column("attempts", Integer, nullable=False),
    Column("reached", Integer, nullable=False),
    Column("cancel", Boolean, nullable=False),
    Column("created", Double, nullable=False),
    Column("started", Double),
    Column("finished", Double),
    Column("error", Text),
    Column("result", JSON),
    Index("grpo_jobs_by_state", "state", "number"),
    Index("grpo_jobs_by_owner", "owner", "number"),
)

places = Table(
    "grpo_training_places",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("holder", String(64)),
    Column("expires", Double, nullable=False),
    Column("jobs", Integer, nullable=False),
)

PLACE = "training"
