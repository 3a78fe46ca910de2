"""``grpo-host view``: runs in a browser, from their directories alone. The API is in endpoints.py."""
