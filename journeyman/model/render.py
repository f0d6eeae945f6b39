"""Messages to tokens and back, so that what the model sampled is never tokenized again.

A conversation grows by appending, and every position has one owner:

    open(messages)   <|user|> jump twice <|end|> <|assistant|>       read,    mask 0
    sampled          JUMP  JUMP <|end|>                              sampled, mask 1
    observe(...)     <|tool|> ok <|end|> <|assistant|>               read,    mask 0

What stands between two replies is not assumed but asked of the chat template: a probe conversation is
rendered, and what follows the probe's reply is what `observe` appends. Templates that change what they said
before (Qwen3 drops the thoughts of earlier turns) are appended to all the same: the model keeps reading
exactly what it read and wrote when it acted. A template whose text after a reply depends on the messages
before it cannot be appended to, and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from tokenizers.decoders import ByteLevel
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from journeyman.errors import CheckpointError, UsageError
from journeyman.model.texts import Pieces, StopTexts, spelled_bytes
from journeyman.types import Message, Role

_RULE, _ASK, _REPLY, _MORE = "probe-rule-70", "probe-ask-71", "probe-reply-72", "probe-more-73"
_CONTENTS = (
    _MORE,
    f"{_MORE} \"a\" 'b' <i>&</i> \\ é",
    f"{_MORE}\n  b\n",
    f" {_MORE}",
    f"{_MORE}</think>",
    f"{{{{{_MORE}}}}}",
)
"""Contents that a template would have to change if it trims, escapes or parses what it is given."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as tokens; `mask` is true on the replies and their end tokens."""

    tokens: list[int]
    mask: list[bool]


@dataclass(frozen=True)
class _Gap:
    """What follows a reply's text: `before + content + after`, when the template shows contents verbatim."""

    before: str
    after: str
    verbatim: bool


class Renderer:
    """Renders one tokenizer's conversations. Rendering is cached: repeated prompts and observations are free.

    Roles the template does not name are shown as the user's; a system message that it refuses, or moves
    when the conversation grows, is put in front of the first user message. The text of a special token
    inside a message is broken up by a zero-width space, so that no content can pass for a control token.

    Args:
        tokenizer: a Hugging Face tokenizer.
        template: a chat template (Jinja) to use instead of the tokenizer's; it becomes the tokenizer's, so
            that a saved checkpoint carries what it learned with.
        options: variables for the template, e.g. `{"enable_thinking": False}`.
        remembered: renderings that are kept, for those that come again.

    Attributes:
        end_id: the token that ends a reply in the template.
        end_ids: all tokens that end a reply: `end_id` and the tokenizer's end of text.

    Raises:
        CheckpointError: there is no chat template.
        UsageError: the template cannot be appended to, does not mark the end of a reply, or breaks.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        template: str | None = None,
        options: Mapping[str, Any] | None = None,
        remembered: int = 1 << 12,
    ) -> None:
        self.tokenizer: Any = tokenizer
        self.options = dict(options or {})
        if template is not None:
            self.tokenizer.chat_template = template
        if not self.tokenizer.chat_template:
            raise CheckpointError(
                "the tokenizer has no chat template",
                reason="it says how messages become the model's tokens; base models often come without one",
                fix="take an instruct checkpoint, put a chat_template.jinja into the model's folder, or pass "
                "Renderer(tokenizer, template=PLAIN_TEMPLATE) from journeyman.model.tokenizer",
            )
        self._source = str(self.tokenizer.chat_template)
        self._backend: Any = None
        if isinstance(tokenizer, PreTrainedTokenizerFast):
            self._backend = tokenizer.backend_tokenizer
            if self._backend.truncation is not None:  # what is set already must not be set while others encode
                self._backend.no_truncation()
            if self._backend.padding is not None:
                self._backend.no_padding()
        self._specials = self._special_tokens()
        forged = "|".join(re.escape(text) for text in sorted(self._specials, key=len, reverse=True))
        self._forged = re.compile(forged) if forged else None
        self._end_text, self.end_id = self._find_end()
        eos = self.tokenizer.eos_token_id
        self.end_ids = frozenset({self.end_id} if eos is None else {self.end_id, int(eos)})
        self._gaps = self._find_gaps()
        self._system_known = self._stands([Message("system", _RULE), Message("user", _ASK)], shows=_RULE)
        self._anchor, self._lead = self._find_anchor()
        self._anchor_ids = self.encode(self._anchor)
        self._stop_texts = lru_cache(maxsize=8)(lambda texts: StopTexts(texts, self._bytes()))
        self._open = lru_cache(maxsize=remembered)(self._open_ids)
        self._observe = lru_cache(maxsize=4 * remembered)(self._observe_ids)

    # -- messages to tokens -----------------------------------------------------------------------------

    def open(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of the conversation so far and of the prompt for a reply.

        Raises:
            UsageError: there is nothing to reply to, or the template refuses these messages.
        """
        if not messages or messages[-1].role == "assistant":
            raise UsageError("a conversation opens with a message that is not the assistant's")
        return list(self._open(tuple(messages)))

    def reply_ids(self, text: str) -> list[int]:
        """Tokens of a reply that was written, not sampled (a demonstration), with its end token."""
        text = self._lead + self._harmless(text)
        ids = self.encode(self._anchor + text + self._end_text)
        start = len(self._anchor_ids)
        if ids[:start] == self._anchor_ids and ids[-1] == self.end_id:
            return ids[start:]
        return [*self.encode(text), self.end_id]

    def observe(self, content: str, role: Role = "tool", *, ended: bool = True) -> list[int]:
        """Tokens from after a reply's end token to the next prompt for a reply.

        With `ended` false they start with the end token, for a reply that was cut before it came to one.
        """
        ids = self._observe(content, role)
        return list(ids[1:] if ended else ids)

    def conversation(self, messages: Sequence[Message]) -> Rendered:
        """A whole conversation for supervised training, appended turn by turn as when it is sampled.

        Every assistant message is a reply; what follows the last one is left out.

        Raises:
            UsageError: no reply, a reply to nothing, or a reply to a reply.
        """
        last = max((index for index, message in enumerate(messages) if message.role == "assistant"), default=-1)
        if last < 0:
            raise UsageError("the conversation has no assistant message to learn from")
        return self.so_far(messages[: last + 1])

    def so_far(self, messages: Sequence[Message]) -> Rendered:
        """A conversation under way, appended turn by turn as when it is sampled.

        Where its last message is not the assistant's, the prompt for the next reply stands at its end.

        Raises:
            UsageError: no message, a reply to nothing, or a reply to a reply.
        """
        first = next((index for index, message in enumerate(messages) if message.role == "assistant"), len(messages))
        opening = self.open(messages[:first])
        rest = self._appended(messages[first:])
        return Rendered(opening + rest.tokens, [False] * len(opening) + rest.mask)

    def further(self, messages: Sequence[Message], *, ended: bool = True) -> Rendered:
        """What follows a reply's end token: messages, with replies of others among them, and the next prompt for one.

        With `ended` false it starts with the end token, for a reply that was cut before it came to one.

        Raises:
            UsageError: there is nothing to reply to, or a reply to a reply.
        """
        if not messages or messages[-1].role == "assistant":
            raise UsageError("a conversation goes on with a message that is not the assistant's")
        first = next((index for index, message in enumerate(messages) if message.role == "assistant"), len(messages))
        heard = [*([] if ended else [self.end_id]), *self._between(messages[:first])]
        rest = self._appended(messages[first:])
        return Rendered(heard + rest.tokens, [False] * len(heard) + rest.mask)

    def _appended(self, messages: Sequence[Message]) -> Rendered:
        """Replies, each with the messages that follow it."""
        replies = [index for index, message in enumerate(messages) if message.role == "assistant"]
        tokens: list[int] = []
        mask: list[bool] = []
        for index, following in pairwise([*replies, len(messages)]):
            reply = self.reply_ids(messages[index].content)
            tokens += reply
            mask += [True] * len(reply)
            if index + 1 < len(messages):
                between = self._between(messages[index + 1 : following])
                tokens += between
                mask += [False] * len(between)
        return Rendered(tokens, mask)

    def encode(self, text: str) -> list[int]:
        """Tokens of plain text, nothing added. The text of a special token becomes that token."""
        if self._backend is not None:
            return list(self._backend.encode(text, add_special_tokens=False).ids)
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    # -- tokens to text ---------------------------------------------------------------------------------

    def text(self, ids: Sequence[int]) -> str:
        """A reply's text. End tokens are dropped; other special tokens show: they were said, too."""
        said = [int(token) for token in ids if token not in self.end_ids]
        return self._decode(said).removeprefix(self._lead)

    def stop_texts(self, texts: Sequence[str]) -> StopTexts:
        """Texts at which a reply is to end, as engines want them (one object for the same texts).

        Raises:
            UsageError: one of them is empty.
        """
        return self._stop_texts(tuple(texts))

    def _bytes(self) -> list[bytes]:
        """What each token of the vocabulary adds to a reply; nothing for special ones."""
        special = set(self._specials.values()) | set(self.tokenizer.all_special_ids)
        spelled = self._backend is not None and isinstance(self._backend.decoder, ByteLevel)
        before = self.encode("a")  # a first token may lose the space that it begins with
        shown = self._decode(before)
        found: list[bytes] = []
        for token in range(len(self.tokenizer)):
            if token in special:
                found.append(b"")
            elif spelled:
                found.append(spelled_bytes(self.tokenizer.convert_ids_to_tokens(token)))
            else:
                found.append(self._decode([*before, token]).removeprefix(shown).encode())
        return found

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """What each token adds to the text. A character spread over several tokens shows at its last one."""
        stream = self.pieces_as_they_come()
        pieces = [stream.feed(int(token)) for token in ids]
        if pieces:
            pieces[-1] += stream.rest()
        return pieces

    def pieces_as_they_come(self) -> Pieces:
        """The same for tokens that are not all there yet."""
        return Pieces(self._decode)

    # -- how the template speaks ------------------------------------------------------------------------

    def _find_end(self) -> tuple[str, int]:
        """The special token right after a reply's text (white space before it aside)."""
        tail = self._after_reply([Message("user", _ASK)], _REPLY, [Message("user", _MORE)]).lstrip()
        found = max((text for text in self._specials if tail.startswith(text)), key=len, default="")
        if not found:
            raise UsageError(
                "the chat template does not end a reply with a special token",
                reason=f"what follows a reply is {tail[:40]!r}; the model could not say that it is done",
                fix="pass a template that does: Renderer(tokenizer, template=...)",
            )
        return found, self._specials[found]

    def _find_gaps(self) -> dict[Role, _Gap]:
        user = self._gap("user")
        if user is None or not self._stands([Message("user", _ASK)]):
            raise UsageError(
                "this chat template cannot be appended to",
                reason="what it says around a reply depends on the messages before or after it",
                fix="pass another template: Renderer(tokenizer, template=...)",
            )
        gaps: dict[Role, _Gap] = {"user": user}
        for role in ("tool", "system"):
            named = f"'{role}'" in self._source or f'"{role}"' in self._source
            gaps[role] = (self._gap(role) if named else None) or user
        return gaps

    def _gap(self, role: Role) -> _Gap | None:
        """What follows a reply before and after a message of this role, or None if that is not settled."""
        openings = [
            [Message("user", _ASK)],
            [Message("user", f"{_ASK} again"), Message("assistant", "so"), Message("user", "?")],
        ]
        try:
            texts = {
                self._after_reply(opening, reply, [Message(role, _MORE)])
                for opening in openings
                for reply in (_REPLY, f"{_REPLY}: 1\n2", f"no {_REPLY}")
            }
            later = [[Message(role, content)] for content in _CONTENTS]
            shown = [self._after_reply(openings[0], _REPLY, message) for message in later]
        except UsageError:
            return None
        parts = texts.pop().split(_MORE)
        if texts or len(parts) != 2:
            return None
        before, after = parts[0].lstrip(), parts[1]
        verbatim = all(
            text.lstrip() == before + content + after for text, content in zip(shown, _CONTENTS, strict=True)
        )
        return _Gap(before, after, verbatim)

    def _stands(self, opening: list[Message], shows: str = _ASK) -> bool:
        """Whether the opening is shown, and stays as it was read when the conversation goes on behind it."""
        try:
            read = self._chat(opening)
            if shows not in read:
                return False
            longer = [*opening, Message("assistant", _REPLY)]
            once = [Message("user", _MORE)]
            twice = [*once, Message("assistant", "yes"), Message("user", "more")]
            for later in (once, twice):
                kept, reply, _ = self._chat([*longer, *later]).partition(_REPLY)
                if not reply or not (read.startswith(kept) or kept.startswith(read)):
                    return False
        except UsageError:
            return False
        return True

    def _find_anchor(self) -> tuple[str, str]:
        """What a reply's first token stands behind, and the space the template puts before a reply, if any.

        The former is the prompt for a reply from its last special token on; the latter is there where the
        prompt ends with `[/INST]` and a reply is shown as `[/INST] yes`.
        """
        prompt = self._chat([Message("user", _ASK)])
        shown = self._chat([Message("user", _ASK), Message("assistant", _REPLY), Message("user", _MORE)])
        lead = shown.partition(_REPLY)[0].removeprefix(prompt)
        starts = [prompt.rfind(text) for text in self._specials if text in prompt]
        return prompt[max(starts) :] if starts else "", lead if lead.isspace() else ""

    # -- plumbing -----------------------------------------------------------------------------------------

    def _open_ids(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        return tuple(self.encode(self._chat(self._prepared(messages))))

    def _observe_ids(self, content: str, role: Role) -> tuple[int, ...]:
        gap, content = self._gaps.get(role, self._gaps["user"]), self._harmless(content)
        if gap.verbatim:
            return self._gap_ids(gap.before + content + gap.after)
        later = [Message(self._shown(role), content)]
        return self._gap_ids(self._after_reply([Message("user", _ASK)], _REPLY, later).lstrip())

    def _between(self, messages: Sequence[Message]) -> list[int]:
        """Tokens between the end tokens of one reply and the next reply."""
        if not messages:
            raise UsageError("an assistant message follows another: a reply needs something to reply to")
        if len(messages) == 1:
            return self.observe(messages[0].content, messages[0].role)
        later = [Message(self._shown(m.role), self._harmless(m.content)) for m in messages]
        text = self._after_reply([Message("user", _ASK)], _REPLY, later).lstrip()
        return list(self._gap_ids(text))[1:]

    def _gap_ids(self, text: str) -> tuple[int, ...]:
        """Tokenized with the end token in front: what a tokenizer does behind a special token is done."""
        ids = tuple(self.encode(text))
        assert ids[0] == self.end_id, "the text after a reply starts with its end token"
        return ids

    def _shown(self, role: Role) -> Role:
        """The role to show a message as: its own, or the user's where the template does not name it."""
        known = role == "assistant" or self._gaps.get(role, self._gaps["user"]) is not self._gaps["user"]
        return role if known else "user"

    def _prepared(self, messages: Sequence[Message]) -> list[Message]:
        """Contents made harmless, roles the template knows, the system message where it accepts it."""
        prepared = [Message(m.role, self._harmless(m.content)) for m in messages]
        if prepared[0].role == "system" and not self._system_known and len(prepared) > 1:
            system, first, *rest = prepared
            prepared = [Message(first.role, f"{system.content}\n\n{first.content}"), *rest]
        head = 1 if prepared[0].role == "system" and self._system_known else 0
        return [*prepared[:head], *(Message(self._shown(m.role), m.content) for m in prepared[head:])]

    def _after_reply(self, opening: list[Message], reply: str, later: list[Message]) -> str:
        text = self._chat([*opening, Message("assistant", reply), *later])
        _, found, tail = text.partition(reply)
        if not found:
            raise UsageError("the chat template does not show a reply as it was written")
        return tail

    def _chat(self, messages: Sequence[Message]) -> str:
        """The conversation as the template writes it, with the prompt for a reply."""
        plain = [{"role": message.role, "content": message.content} for message in messages]
        try:
            apply = self.tokenizer.apply_chat_template
            return str(apply(plain, tokenize=False, add_generation_prompt=True, **self.options))
        except Exception as error:  # templates are programs: they raise whatever they like
            roles = ", ".join(message.role for message in messages)
            raise UsageError(
                f"the chat template refuses a conversation of {roles}",
                reason=f"{type(error).__name__}: {error}",
                fix="order the messages as the model expects, or pass Renderer(tokenizer, template=...)",
            ) from error

    def _special_tokens(self) -> dict[str, int]:
        """Special tokens by their text."""
        added = self.tokenizer.added_tokens_decoder
        found = {str(token.content): int(index) for index, token in added.items() if token.special}
        if self.tokenizer.eos_token is not None:
            found[str(self.tokenizer.eos_token)] = int(self.tokenizer.eos_token_id)
        return found

    def _harmless(self, content: str) -> str:
        """The content without control tokens, and without the lone surrogates that no tokenizer takes."""
        if not content.isascii():
            content = content.encode("utf-8", "replace").decode("utf-8")
        if self._forged is None or self._forged.search(content) is None:
            return content
        return self._forged.sub(lambda found: f"{found[0][:1]}\u200b{found[0][1:]}", content)

    def _decode(self, ids: list[int]) -> str:
        if self._backend is not None:
            return str(self._backend.decode(ids, skip_special_tokens=False))
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))
