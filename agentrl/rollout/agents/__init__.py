"""Episodes played by agents that know nothing of agentrl: they ask the policy through an endpoint.

:class:`~agentrl.rollout.agents.endpoint.Endpoint` speaks the protocols that agents speak;
:class:`~agentrl.rollout.agents.served.ServedAttempt` is the episode behind it, which turns requests
into exact tokens, and :class:`~agentrl.rollout.agents.attempt.AgentAttempt` runs the agent.
"""
