"""order_desk: the agent looks orders up and answers from what it found."""
