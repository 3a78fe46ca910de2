"""Conversations with people: kept in a store, answered by an agent, compressed when they grow long."""
