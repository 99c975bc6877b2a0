"""Every error agentrl raises, in one tree with three branches.

::

    AgentRLError
    ├── ModelError                what the model did wrong: it sees the message and goes on
    │   ├── MalformedCall             its tool call could not be parsed
    │   ├── UnknownTool               it named a tool that this episode does not have
    │   ├── InvalidArguments          its arguments do not fit the tool's schema
    │   └── ToolError                 raised by a tool, on purpose, to tell the model something
    ├── InfrastructureError       what a machine did: the episode is void, never rewarded
    │   ├── EngineError               the inference engine failed or went away
    │   ├── SandboxError              the sandbox failed (not the code inside it)
    │   ├── SessionLost               a session that held the episode's state is gone
    │   ├── ServerBusy                a tool server has no room now; says when to try again
    │   ├── NoVerdict             a judge could not tell what an episode is worth
    │   └── EpisodeTimeout            the episode's own time limit ran out
    └── UsageError                our bug or the user's: the run stops with this message
        ├── ConfigError               a setting is unknown, missing or does not fit
        ├── DataError                 a row, file or folder cannot be read
        ├── DefinitionError           a tool, environment or reward is not well defined
        ├── NotFound                  no such tool, environment, model or run
        ├── SandboxUnavailable        this machine offers no isolation that was asked for
        ├── ModelUnsupported          this model cannot do what the environment needs
        └── UserCodeError             an environment, tool or reward of the user's raised

Which branch an exception belongs to decides what happens to the episode and to
the run, so raise the narrowest class that is true. Messages say what happened, to
what, why, and what to do about it.
"""

from __future__ import annotations


class AgentRLError(Exception):
    """Root of the tree."""


class ModelError(AgentRLError):
    """The model did something wrong; its message becomes the observation."""


class MalformedCall(ModelError):
    """A tool call in the model's output could not be parsed."""


class UnknownTool(ModelError):
    """The model called a tool that this episode does not offer."""


class InvalidArguments(ModelError):
    """The model's arguments do not fit the tool's schema."""


class ToolError(ModelError):
    """Raised by a tool to tell the model that the call failed, and why."""


class InfrastructureError(AgentRLError):
    """A machine failed. The episode is void: retried, counted, never rewarded."""


class EngineError(InfrastructureError):
    """The inference engine failed, or could not be reached."""


class SandboxError(InfrastructureError):
    """The sandbox itself failed, as opposed to the code that ran inside it."""


class SessionLost(InfrastructureError):
    """A session that held state of the episode no longer exists."""


class ServerBusy(InfrastructureError):
    """A tool server has no room for the call, or is ending. Nothing was run.

    Args:
        message: what happened, for a person.
        retry_after: seconds after which another try is likely to be taken.
        queue_full: whether it is for want of room alone, rather than that the server cannot work now.
    """

    def __init__(self, message: str, retry_after: float = 1.0, *, queue_full: bool = False) -> None:
        super().__init__(message)
        self.retry_after, self.queue_full = retry_after, queue_full


class NoVerdict(InfrastructureError):
    """A judge did not come to a verdict: it is out of reach, or what it says is none. Not a score.

    It voids the episode, unless the component that raised it may be left out (``no_verdict="leave out"``).
    """


class EpisodeTimeout(InfrastructureError):
    """The episode ran out of its seconds while machinery, not the model, was busy."""


class UsageError(AgentRLError):
    """A bug of ours or a mistake of the user's; the run stops."""


class ConfigError(UsageError):
    """A setting is unknown, missing, or does not fit the others."""


class DataError(UsageError):
    """A task file, row or folder cannot be read."""


class DefinitionError(UsageError):
    """A tool, environment or reward is not well defined."""


class NotFound(UsageError):
    """Nothing is known by this name or path."""


class SandboxUnavailable(UsageError):
    """This machine cannot isolate untrusted code in the way that was asked for."""


class ModelUnsupported(UsageError):
    """The model cannot be loaded, or cannot do what the environment needs."""


class UserCodeError(UsageError):
    """A user's environment, tool or reward raised an unexpected exception."""
