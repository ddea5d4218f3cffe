"""OpenAI's chat completions."""

from collections.abc import Callable, Sequence

from tollhouse.guardrails.answers.formats.base import Channel, Object, Slot, an_object, objects

_SAID = ("content", "refusal")
# What a delta may have besides, and which comes whole.
_WHOLE = frozenset({"annotations", "audio"})
_THOUGHT = ("reasoning_content", "reasoning")


class ChatFormat:
    """Chunks hold pieces of several choices' texts; a choice's end is told by its finish_reason."""

    def answers(self, body: Object) -> list[str]:
        found = []
        for choice in objects(body.get("choices")):
            content = an_object(choice.get("message")).get("content")
            if isinstance(content, list):
                content = "".join(str(part.get("text", "")) for part in objects(content))
            found.append(content if isinstance(content, str) else "")
        return found

    def slots(self, name: str, event: Object) -> list[Slot]:  # noqa: ARG002
        found: list[Slot] = []
        for choice in objects(event.get("choices")):
            number, delta = choice.get("index", 0), an_object(choice.get("delta"))
            found += [
                Slot((number, key), delta, key, "content" if key in _SAID else "other")
                for key in (*_SAID, *_THOUGHT)
                if isinstance(delta.get(key), str)
            ]
            found += [
                Slot((number, "content"), part, "text", "content")
                for part in objects(delta.get("content"))
                if isinstance(part.get("text"), str)
            ]
            audio = an_object(delta.get("audio"))
            if isinstance(audio.get("transcript"), str):
                found.append(Slot((number, "transcript"), audio, "transcript", "other"))
            for call in objects(delta.get("tool_calls")):
                function = an_object(call.get("function"))
                if isinstance(function.get("arguments"), str):
                    found.append(Slot((number, "call", call.get("index", 0)), function, "arguments", "json"))
            function = an_object(delta.get("function_call"))
            if isinstance(function.get("arguments"), str):
                found.append(Slot((number, "function_call"), function, "arguments", "json"))
        return found

    def ended(self, name: str, event: Object) -> Callable[[Channel], bool] | None:  # noqa: ARG002
        over = {choice.get("index", 0) for choice in objects(event.get("choices")) if choice.get("finish_reason")}
        return (lambda channel: channel[0] in over) if over else None

    def tail(self, channel: Channel, template: Object, text: str) -> tuple[str, Object]:
        delta: Object
        if channel[1] == "call":
            delta = {"tool_calls": [{"index": channel[2], "function": {"arguments": text}}]}
        elif channel[1] == "function_call":
            delta = {"function_call": {"arguments": text}}
        elif channel[1] == "transcript":
            delta = {"audio": {"transcript": text}}
        else:
            delta = {str(channel[1]): text}
        choice = {"index": channel[0], "delta": delta, "logprobs": None, "finish_reason": None}
        event = {**template, "choices": [choice]}
        if "usage" in event:
            event["usage"] = None
        return "", event

    def is_bare(self, name: str, event: Object) -> bool:  # noqa: ARG002
        if event.get("usage") is not None:
            return False
        for choice in objects(event.get("choices")):
            delta = an_object(choice.get("delta"))
            if choice.get("finish_reason") or delta.get("role") or not delta.keys().isdisjoint(_WHOLE):
                return False
            if any(call.get("id") for call in objects(delta.get("tool_calls"))) or "function_call" in delta:
                return False
        return True

    def wholes(self, event: Object) -> Sequence[tuple[Object, str]]:  # noqa: ARG002
        return ()

    def repeats(self, name: str, event: Object) -> bool:  # noqa: ARG002
        return False
