"""The ``agentrl`` command."""
