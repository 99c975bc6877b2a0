"""Published methods as pure functions and small state machines, one module per idea."""
