"""Dialogues that somebody wrote, as the token streams that a rollout of them would have produced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentrl.chat.types import Message, ToolSchema
from agentrl.errors import DataError, ModelUnsupported

if TYPE_CHECKING:
    from agentrl.chat.core import Chat

Segment = tuple[list[int], list[bool]]


def segments(chat: Chat, messages: Sequence[Message], tools: Sequence[ToolSchema]) -> list[Segment]:
    """Plays ``messages`` as a rollout would, with each assistant message as the tokens sampled.

    Returns:
        One ``(ids, sampled)`` for each stretch that :meth:`Chat.extend` can carry on; a new one
        begins where it cannot, as in a rollout. What follows the last assistant message is left out.

    Raises:
        DataError: there is no assistant message.
        ModelUnsupported: the format does not tell which tokens of a message a model would sample.
    """
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        raise DataError("a demonstration needs at least one assistant message to learn from")
    finished: list[Segment] = []
    ids: list[int] = chat.prompt(messages[: turns[0]], tools)
    mask = [False] * len(ids)
    for turn, following in zip(turns, [*turns[1:], None], strict=True):
        completion = sampled(chat, messages, turn, tools)
        prompt, ids = ids, [*ids, *completion]
        mask += [True] * len(completion)
        if following is None:
            break
        extended = chat.extend(prompt, completion, messages[turn + 1 : following], tools)
        if extended is None:
            finished.append((ids, mask))
            ids = chat.prompt(messages[:following], tools)
            mask = [False] * len(ids)
        else:
            mask += [False] * (len(extended) - len(ids))
            ids = extended
    return [*finished, (ids, mask)]


def sampled(chat: Chat, messages: Sequence[Message], turn: int, tools: Sequence[ToolSchema]) -> list[int]:
    """The tokens that a model sampling ``messages[turn]`` would emit, with the one that ends its turn.

    Raises:
        ModelUnsupported: as :func:`segments`.
    """
    rendered = chat.render(messages[: turn + 1], tools)
    ids, owners = list(rendered.token_ids), list(rendered.message_indices)
    before, opening = _opening(chat, messages[:turn], tools)
    # A later message may change how the ones before it are written: then its own tokens are what is left.
    start = len(before) if ids[: len(before)] == before else owners.index(turn)
    if len(rendered.sampled_mask) == len(ids):
        end = 1 + max((index for index, sampled in enumerate(rendered.sampled_mask) if sampled), default=-1)
    else:
        # An opaque template says nothing of sampling: the turn ends with its last stop token.
        end = 1 + max((index for index, token in enumerate(ids) if token in chat.stop_token_ids), default=-1)
    completion = _after_opening(chat, opening, ids[start:end])
    if completion and completion[-1] in chat.stop_token_ids:
        return completion
    if chat.stop_strings and messages[turn].get("tool_calls"):
        return completion
    return [*completion, *_close(chat, messages, turn, tools)]


def _opening(
    chat: Chat, history: Sequence[Message], tools: Sequence[ToolSchema]
) -> tuple[list[int], list[int]]:
    """``history`` as it stands, and what a prompt puts behind it for the assistant to go on from."""
    prompt = chat.prompt(history, tools)
    before = list(chat.render(history, tools).token_ids)
    if prompt[: len(before)] != before:
        raise ModelUnsupported(
            f"the chat format {chat.name!r} writes the messages before an assistant turn in another way when "
            "it prompts for the turn, so what a model would sample cannot be told"
        )
    return before, prompt[len(before) :]


def _after_opening(chat: Chat, opening: list[int], ids: list[int]) -> list[int]:
    """``ids`` without ``opening``, though the two may cut the text between them into other tokens."""
    common = zip(opening, ids, strict=False)
    same = next((i for i, (a, b) in enumerate(common) if a != b), min(len(opening), len(ids)))
    rest = chat.decode(opening[same:])
    for end in range(same, min(len(ids), same + len(rest)) + 1):
        text = chat.decode(ids[same:end])
        if text.startswith(rest):
            return [*chat.encode(text[len(rest) :]), *ids[end:]]
    raise ModelUnsupported(
        f"the chat format {chat.name!r} opens an assistant turn with {rest!r} when it prompts for the turn, "
        "but not when it writes the message down, so what a model would sample cannot be told. If the format "
        "thinks first, giving the message reasoning_content helps"
    )


def _close(chat: Chat, messages: Sequence[Message], turn: int, tools: Sequence[ToolSchema]) -> list[int]:
    """The stop token, in formats where the marker of the next message ends a turn."""
    following = [*messages[turn + 1 : turn + 2]] or [{"role": "user", "content": "?"}]
    if following[0]["role"] == "assistant":
        following = [{"role": "user", "content": "?"}]
    rendered = chat.render([*messages[: turn + 1], *following], tools)
    owned = zip(rendered.token_ids, rendered.message_indices, rendered.sampled_mask, strict=False)
    closing = [token for token, owner, sampled in owned if owner == turn and sampled]
    if closing and closing[-1] in chat.stop_token_ids:
        return closing[-1:]
    return list(chat.stop_token_ids[:1])
