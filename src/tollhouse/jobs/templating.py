"""Prompt templates of reports: plain TOML files, shipped or an operator's, and the calls that are made from them."""

import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template as Text
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tollhouse.errors import InvalidRequest, NotFound, StartError
from tollhouse.jobs.model import Output
from tollhouse.kit.validation import decode_json

DEFAULT_TEMPLATE = "summary"
_OF_A_ROW = frozenset({"row", "number"})
_encode = msgspec.json.Encoder().encode


class TemplateFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a template's file says.

    Attributes:
        user_message: the question; ``${name}`` stands for the param of that name, and ``$$`` for a dollar sign.
        for_each: the param that is a list, with a completion for each of its entries; "" for a single one.
        rest: the param that the params without a place of their own become, where it is not given; "" refuses them.
        schema_param: the param that is the JSON Schema of the answer.
        defaults: params that may be left out.
    """

    description: Annotated[str, Meta(min_length=1)]
    user_message: Annotated[str, Meta(min_length=1)]
    system_prompt: str = ""
    output: Output = "text"
    for_each: str = ""
    rest: str = ""
    schema_param: str = ""
    response_schema: dict[str, Any] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    defaults: dict[str, Any] = {}


class Prompt(msgspec.Struct, frozen=True):
    """One completion that a report needs."""

    system_prompt: str
    user_message: str
    response_schema: dict[str, Any] | None


class Template:
    """A template, checked.

    Attributes:
        fields: the params that it has a place for.
    """

    def __init__(self, name: str, content: TemplateFile) -> None:
        self.name = name
        self.content = content
        self._texts = [Text(content.system_prompt.strip()), Text(content.user_message.strip())]
        named = {field for text in self._texts for field in text.get_identifiers()}
        self._named = named
        if not content.for_each:
            self.fields = frozenset(named | ({content.schema_param} - {""}))
            return
        self.fields = frozenset(named - _OF_A_ROW | {content.for_each} | ({content.schema_param} - {""}))

    def problem(self) -> str | None:
        """Return what is wrong with it, or None."""
        if not all(text.is_valid() for text in self._texts):
            return "a $ that stands for itself is written as $$"
        unknown = sorted({*self.content.defaults, self.content.rest} - self.fields - {""})
        if unknown:
            return f"{unknown[0]} is named in defaults or rest, but no text has a place for it"
        return None

    def prompts(self, params: Mapping[str, Any], most: int) -> list[Prompt]:
        """Return the completions to be made, one unless the template is for each of a list.

        Args:
            most: how many a report may have.

        Raises:
            InvalidRequest: a param is missing, unknown or of another type than is needed.
        """
        content = self.content
        values = self._values(params)
        schema = values[content.schema_param] if content.schema_param else content.response_schema
        if schema is not None and not isinstance(schema, dict):
            raise InvalidRequest(f"params.{content.schema_param}: expected a JSON Schema, as an object")
        # Written once, and not for each row: a list of a megabyte would be a gigabyte for a thousand of its entries.
        texts = {name: _as_text(value) for name, value in values.items() if name in self._named}
        if not content.for_each:
            return [self._prompt(texts, schema)]
        rows = values[content.for_each]
        if not isinstance(rows, list) or not 0 < len(rows) <= most:
            raise InvalidRequest(f"params.{content.for_each}: expected a list of 1 to {most} entries")
        return [
            self._prompt({**texts, "row": _as_text(row), "number": str(number)}, schema)
            for number, row in enumerate(rows, 1)
        ]

    def _values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        content = self.content
        given = {name: value for name, value in params.items() if name != "template"}
        own = {name: value for name, value in given.items() if name in self.fields}
        others = {name: value for name, value in given.items() if name not in self.fields}
        if others and content.rest and content.rest not in own:
            own[content.rest], others = others, {}
        if others:
            known = ", ".join(sorted(self.fields))
            raise InvalidRequest(f"params.{_shown(min(others))}: unknown for template {self.name}; known are {known}")
        values = {**content.defaults, **own}
        missing = sorted(self.fields - values.keys())
        if missing:
            raise InvalidRequest(f"params.{missing[0]}: is required by template {self.name}")
        return values

    def _prompt(self, texts: Mapping[str, str], schema: dict[str, Any] | None) -> Prompt:
        system_prompt, user_message = (text.substitute(texts) for text in self._texts)
        return Prompt(system_prompt, user_message, schema)


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else _encode(value).decode()


class Templates:
    """All templates that there are, by name."""

    def __init__(self, templates: Mapping[str, Template]) -> None:
        self._templates = templates

    @property
    def names(self) -> Sequence[str]:
        return sorted(self._templates)

    def get(self, name: str) -> Template:
        """Return a template; raises NotFound."""
        template = self._templates.get(name)
        if template is None:
            raise NotFound(f"params.template: there is no template {_shown(name)}; known are {', '.join(self.names)}")
        return template


def load_templates(folder: Path | None) -> Templates:
    """Return the shipped templates and those of an operator's folder, which go before shipped ones of the same name.

    Raises:
        StartError: the folder or a file in it cannot be read, or is no template.
    """
    shipped = files("tollhouse.jobs").joinpath("templates")
    found = {
        entry.name.removesuffix(".toml"): _template(entry.name, entry.read_bytes())
        for entry in shipped.iterdir()
        if entry.name.endswith(".toml")
    }
    if folder is not None:
        try:
            paths = sorted(folder.iterdir())
            own = {path.stem: _template(str(path), path.read_bytes()) for path in paths if path.suffix == ".toml"}
        except OSError as error:
            raise StartError(
                f"{error.filename or folder}: cannot be read ({error.strerror}): expected templates"
            ) from error
        found |= own
    return Templates(found)


_TEMPLATE = msgspec.json.Decoder(TemplateFile)


def _template(file: str, raw: bytes) -> Template:
    try:
        # By way of JSON, so that mistakes are told as everywhere else.
        content = decode_json(_TEMPLATE, _encode(tomllib.loads(raw.decode())))
    except (ValueError, RecursionError) as error:
        raise StartError(f"{file}: is no template: {error}") from error
    template = Template(Path(file).stem, content)
    problem = template.problem()
    if problem is not None:
        raise StartError(f"{file}: is no template: {problem}")
    return template


def _shown(name: str) -> str:
    return repr(name[:64])
