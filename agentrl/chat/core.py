"""One chat format on one tokenizer: prompts, parsed completions, and exact continuations."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from agentrl.chat import demonstrations
from agentrl.chat.calls import parsed_call
from agentrl.chat.detect import choose
from agentrl.chat.make import make_renderer
from agentrl.chat.messages import normal, settle_orphans
from agentrl.chat.shield import Shield, ShieldedTokenizer
from agentrl.chat.truncate import truncate_tokens
from agentrl.chat.types import Message, ParsedCall, ParsedTurn, ToolSchema
from agentrl.chat.vision import Vision, images_in
from agentrl.errors import DataError, ModelUnsupported, UsageError

log = logging.getLogger(__name__)


class Chat:
    """Turns messages into tokens and completions into calls, for one model.

    The ids that a policy was given and sampled are the truth: :meth:`extend` appends to them and
    never encodes them anew. Text of messages is always ordinary text, whatever control tokens it
    spells.

    Args:
        tokenizer: a Hugging Face tokenizer, or one with its ``encode``, ``decode`` and
            ``convert_tokens_to_ids``.
        renderer: a renderer's name; ``"auto"`` picks one (see :mod:`agentrl.chat.detect`); a renderer
            of one's own is ``my_module.Class`` or ``path/to/file.py:Class``.
        options: the renderer's own options, e.g. ``{"enable_thinking": False}``.
        vision: how the model takes images; ``None`` for one that takes text only.

    Attributes:
        name: the renderer's name.
        reason: in a few words, why this renderer.
        tokenizer: the tokenizer given.
        stop_token_ids: generation ends at any of these; the first is the usual one.
        stop_strings: generation ends at any of these texts too, if there are any. The tokens that spell
            them belong to the completion (vLLM: ``include_stop_str_in_output=True``).
        banned_token_ids: never to be sampled: they stand for images.
        vision: as given.

    Raises:
        ConfigError: no renderer has this name, or it has no such option.
        ModelUnsupported: the tokenizer lacks what the renderer needs.
    """

    def __init__(
        self,
        tokenizer: Any,
        renderer: str = "auto",
        *,
        options: Mapping[str, Any] | None = None,
        vision: Vision | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.vision = vision
        self.banned_token_ids: tuple[int, ...] = vision.banned if vision else ()
        self.reason = "it was asked for"
        chosen: dict[str, Any] = {}
        if renderer == "auto":
            choice = choose(tokenizer)
            renderer, self.reason = choice.name, choice.reason
            chosen.update(choice.options)
        self.name = renderer
        self._shield = Shield(tokenizer)
        self._tokenizer = ShieldedTokenizer(tokenizer)
        self._renderer = make_renderer(self._tokenizer, renderer, {**chosen, **(options or {})})
        self.stop_token_ids: tuple[int, ...] = tuple(self._renderer.get_stop_token_ids())
        self.stop_strings: tuple[str, ...] = tuple(getattr(self._renderer, "stop_strings", ()))
        log.info("chat format %s: %s", self.name, self.reason)

    @classmethod
    def load(
        cls, model_path: str, *, renderer: str = "auto", options: Mapping[str, Any] | None = None
    ) -> Self:
        """The chat of the model in the folder ``model_path``, or of that name on the hub.

        Raises:
            ModelUnsupported: there is no such folder, or no tokenizer in it.
        """
        path = Path(model_path).expanduser()
        if not path.exists() and (model_path.startswith(("/", ".", "~")) or model_path.count("/") > 1):
            raise ModelUnsupported(
                f"there is no folder {model_path}; give a model's folder or its name on the hub"
            )
        from transformers import AutoTokenizer

        source = str(path) if path.exists() else model_path
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except Exception as error:  # It raises OSError, ValueError, KeyError and more, for the same mistakes.
            raise ModelUnsupported(
                f"no tokenizer could be loaded for the model {model_path}: {error}. A model's folder needs a "
                "tokenizer.json and a tokenizer_config.json"
            ) from error
        return cls(tokenizer, renderer, options=options, vision=Vision.load(source, tokenizer))

    def __repr__(self) -> str:
        return f"Chat({getattr(self.tokenizer, 'name_or_path', '') or 'tokenizer'!r}, renderer={self.name!r})"

    # Tokens in

    def encode(self, text: str) -> list[int]:
        """``text`` as ordinary tokens: no control tokens, whatever it spells, and none around it."""
        return self._tokenizer.encode(self._shield.text(text), add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``, control tokens spelled out."""
        return str(
            self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )

    def prompt(self, messages: Sequence[Message], tools: Sequence[ToolSchema] = ()) -> list[int]:
        """The tokens of a whole conversation, up to where the assistant goes on.

        Raises:
            DataError: the messages are not a conversation that this format can render.
        """
        return list(self._render(messages, tools, add_generation_prompt=True).token_ids)

    def render(self, messages: Sequence[Message], tools: Sequence[ToolSchema] = ()) -> Any:
        """The conversation as it stands: ``RenderedTokens`` of renderers, which hold ``token_ids``,
        ``message_indices`` and ``sampled_mask``. Answers to malformed calls come after the other results.

        Raises:
            DataError: as :meth:`prompt`.
        """
        return self._render(messages, tools, add_generation_prompt=False)

    def extend(
        self,
        prompt_ids: Sequence[int],
        completion_ids: Sequence[int],
        new_messages: Sequence[Message],
        tools: Sequence[ToolSchema] = (),
    ) -> list[int] | None:
        """The next prompt: ``prompt_ids + completion_ids``, unchanged, then ``new_messages``.

        A turn that was cut off is closed by tokens that count as context, not as sampled.

        Returns:
            None where this format cannot go on from these tokens (a new user message makes some
            families drop earlier reasoning, for one): render the conversation with :meth:`prompt`
            and begin a new training segment.

        Raises:
            DataError: ``new_messages`` cannot be rendered.
            UsageError: the renderer broke its promise and changed sampled tokens.
        """
        sampled = [*prompt_ids, *completion_ids]
        stops = frozenset(self.stop_token_ids)
        if not new_messages or not stops.isdisjoint(completion_ids[:-1]):
            return None
        images = self._images(new_messages)
        try:
            bridge = self._renderer.bridge_to_next_turn(
                list(prompt_ids), list(completion_ids), self._messages(new_messages),
                tools=self._tools(tools), **self._multimodal,
            )  # fmt: skip
        except Exception as error:  # Renderers raise whatever they meet.
            raise self._cannot_render(error) from error
        if bridge is None:
            return None
        extended = list(bridge.token_ids)
        if extended[: len(sampled)] != sampled:
            raise UsageError(
                f"the renderer {self.name!r} changed tokens that were sampled, when it may only add to them. "
                "This is a fault of the renderer; training on its streams would be wrong"
            )
        if images and self.vision:
            return [extended[index] for index in self.vision.expand(extended, images, start=len(sampled))]
        return extended

    # Completions out

    def parse(
        self, prompt_ids: Sequence[int], completion_ids: Sequence[int], tools: Sequence[ToolSchema] = ()
    ) -> ParsedTurn:
        """What a completion says. Malformed calls are part of the answer; nothing a model writes raises.

        Args:
            prompt_ids: what the completion was sampled from; it may have opened the reasoning.
            completion_ids: the tokens sampled, with or without the stop token.
            tools: the tools of the prompt. Formats that write arguments without quotes need
                them to tell the text ``true`` from the truth value.
        """
        try:
            response = self._renderer.parse_response(
                list(completion_ids), tools=list(tools) or None, prompt_ids=list(prompt_ids)
            )
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            log.warning("the renderer %s failed on a completion: %r", self.name, error)
            return self._unreadable(prompt_ids, completion_ids)
        errors = {str(key): text for key, text in getattr(self._renderer, "call_errors", {}).items()}
        calls = tuple(
            parsed_call(attempt, f"call_{len(prompt_ids)}_{index}", errors)
            for index, attempt in enumerate(response.tool_calls or ())
        )
        return ParsedTurn(
            content=response.content or "", reasoning=response.reasoning_content or None, calls=calls
        )

    def assistant_message(self, turn: ParsedTurn) -> Message:
        """``turn`` as the message that stands for it when a conversation is rendered anew.

        Malformed calls become part of its text, as they were written.
        """
        texts = [turn.content, *(call.raw for call in turn.calls if call.error)]
        message: Message = {"role": "assistant", "content": "\n".join(text for text in texts if text)}
        if turn.reasoning:
            message["reasoning_content"] = turn.reasoning
        good = [call for call in turn.calls if not call.error]
        if good:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in good
            ]
        return message

    def observation_messages(
        self, calls: Sequence[ParsedCall], texts: Sequence[str | list[dict[str, Any]]]
    ) -> list[Message]:
        """The results of ``calls``, one text (or list of parts) each, as messages for :meth:`extend`.

        Raises:
            ValueError: there are not as many results as calls.
        """
        pairs = list(zip(calls, texts, strict=True))
        if not self._takes_tool_messages:
            return [{"role": "user", "content": text} for _, text in pairs]
        return [
            {"role": "tool", "tool_call_id": call.id, "name": call.name or "unknown", "content": text}
            for call, text in pairs
        ]

    def truncate(self, text: str, limit: int) -> tuple[str, bool]:
        """``text`` in at most ``limit`` tokens, head and tail kept; see :func:`truncate_tokens`."""
        return truncate_tokens(text, limit, self.encode)

    # Demonstrations

    def demonstration_segments(
        self, messages: Sequence[Message], tools: Sequence[ToolSchema] = ()
    ) -> list[tuple[list[int], list[bool]]]:
        """A written dialogue as the ``(ids, mask)`` of each training segment that a rollout of it would give.

        ``mask`` is True exactly on the tokens that the assistant samples, stop tokens included.

        Raises:
            DataError: there is no assistant message, or the messages cannot be rendered.
            ModelUnsupported: the format does not tell what a model would sample.
        """
        return demonstrations.segments(self, messages, tools)

    def demonstration_turn(self, messages: Sequence[Message], tools: Sequence[ToolSchema] = ()) -> list[int]:
        """The tokens that a model samples to say the last of ``messages``, the stop token included.

        Raises:
            DataError: the messages cannot be rendered.
            ModelUnsupported: as :meth:`demonstration_segments`.
        """
        return demonstrations.sampled(self, messages, len(messages) - 1, tools)

    def render_demonstration(
        self, messages: Sequence[Message], tools: Sequence[ToolSchema] = ()
    ) -> tuple[list[int], list[bool]]:
        """:meth:`demonstration_segments` of a dialogue that is a single segment.

        Raises:
            ModelUnsupported: a rollout of this dialogue gives several segments.
        """
        segments = self.demonstration_segments(messages, tools)
        if len(segments) > 1:
            raise ModelUnsupported(
                f"in the chat format {self.name!r} this dialogue is {len(segments)} separate segments, "
                "because a stream cannot be extended at each of its turns; use demonstration_segments"
            )
        return segments[0]

    # Inside

    def _render(
        self, messages: Sequence[Message], tools: Sequence[ToolSchema], *, add_generation_prompt: bool
    ) -> Any:
        if not messages:
            raise DataError("a conversation needs at least one message before it can be rendered")
        images = self.images(messages)
        shielded = self._messages(settle_orphans(messages))
        try:
            rendered = self._renderer.render(
                shielded, tools=self._tools(tools), add_generation_prompt=add_generation_prompt,
                **self._multimodal,
            )  # fmt: skip
        except Exception as error:  # Renderers raise whatever they meet.
            raise self._cannot_render(error) from error
        return self._with_images(rendered, images) if images else rendered

    def _with_images(self, rendered: Any, images: Sequence[Mapping[str, Any]]) -> Any:
        """What was rendered, with as many placeholders as the images have features."""
        assert self.vision is not None
        spread = self.vision.expand(rendered.token_ids, images)
        columns = ("token_ids", "message_indices", "sampled_mask", "is_content")
        longer = {
            name: [values[index] for index in spread] if values else values
            for name in columns
            if (values := getattr(rendered, name)) is not None
        }
        return dataclasses.replace(rendered, **longer)

    def images(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """The image parts of a conversation, in the order in which :meth:`prompt` writes them.

        Raises:
            ModelUnsupported: there are some, and the model takes text only.
        """
        return self._images(settle_orphans(messages))

    def _images(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        found = images_in(messages)
        if found and self.vision is None:
            raise ModelUnsupported(f"A message holds an image, and {self!r} takes text only.")
        return found

    @cached_property
    def _multimodal(self) -> dict[str, Any]:
        """Renderers that can look at images themselves are told to write one placeholder for each."""
        if getattr(self._renderer, "supports_process_multimodal", False):
            return {"process_multimodal": False}
        return {}

    def _cannot_render(self, error: Exception) -> DataError:
        return DataError(
            f"the chat format {self.name!r} cannot render these messages: {type(error).__name__}: {error}"
        )

    def _messages(self, messages: Sequence[Message]) -> list[Message]:
        return [self._shield.value(normal(message)) for message in messages]

    def _tools(self, tools: Sequence[ToolSchema]) -> list[ToolSchema] | None:
        return [self._shield.value(tool) for tool in tools] or None

    def _unreadable(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> ParsedTurn:
        text = self.decode(completion_ids)
        error = "the call could not be read: it is not written in the form that was asked for"
        call = ParsedCall(name=None, arguments=None, raw=text, error=error, id=f"call_{len(prompt_ids)}_0")
        return ParsedTurn(content="", reasoning=None, calls=(call,))

    @cached_property
    def _takes_tool_messages(self) -> bool:
        """Every renderer does; only a chat template of unknown make may ignore or refuse them."""
        if self.name != "default":
            return True
        probe = "observed-7391"
        call = {"id": "call_0", "type": "function", "function": {"name": "probe", "arguments": {}}}
        messages: list[Message] = [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_0", "name": "probe", "content": probe},
        ]
        try:
            return probe in self.decode(self.prompt(messages))
        except DataError:
            return False
