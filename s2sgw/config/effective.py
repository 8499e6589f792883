"""The values of all keys in force, in the file's form, for `s2sgw config`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path, PurePath
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from s2sgw.config.errors import KeyPath, TOMLSource, key_text
from s2sgw.config.loading import REPEATED, SECTIONS
from s2sgw.config.sections import Config, parse_bridge, parse_lease, parse_negotiation
from s2sgw.policy.values import format_duration, format_size, parse_duration, parse_resume, parse_share, parse_size

#: The functions that parse a duration.
DURATIONS = (parse_duration, parse_resume, parse_negotiation, parse_lease, parse_bridge)
#: The keys that a section needs before the defaults of its other keys are known.
_SMALLEST: dict[str, Any] = {"gateway": {"domains": ["example.org"]}, **{name: [{}] for name in REPEATED}}


class Setting(NamedTuple):
    """One key: its value as TOML, whether that is the default, and the line that sets it, if there is one."""

    key: str
    text: str
    default: bool
    line: int | None


def effective_settings(config: Config, text: str) -> Iterator[Setting]:
    """Yield every key of `config`, which was read from `text`.

    Keys without a value are left out. Of peers, only written keys are shown.
    """
    source = TOMLSource(text)
    sections = {name: getattr(config, "backends" if name == "backend" else name) for name in SECTIONS}
    defaults = dict(_settings(_default_sections(config.path.parent)))
    for path, value in _settings(sections):
        is_default = path != ("gateway", "domains") and defaults.get(path) == value
        yield Setting(key_text(path), value, is_default, source.exact_line(_written_path(path, source)))


def _written_path(path: KeyPath, source: TOMLSource) -> KeyPath:
    """Return the path of a key in the file's form: a single [backend] or [listen] table has no index."""
    if len(path) > 1 and path[1] == 0 and source.exact_line(path) is None:
        return (path[0], *path[2:])
    return path


def _default_sections(folder: Path) -> dict[str, Any]:
    """Return the sections of an empty file in `folder`."""
    context = {"folder": folder}
    return {
        name: TypeAdapter(type_).validate_python(_SMALLEST.get(name, {}), context=context) for name, type_ in SECTIONS.items()
    }


def _settings(sections: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    for name, section in sections.items():
        yield from _leaves((name,), section, None, written=name == "peers")


def _leaves(path: KeyPath, value: Any, field: FieldInfo | None, written: bool) -> Iterator[tuple[KeyPath, str]]:
    if value is None:
        return
    if isinstance(value, BaseModel):
        for name, inner in type(value).model_fields.items():
            if not written or name in value.model_fields_set:
                yield from _leaves((*path, name), getattr(value, name), inner, written)
    elif isinstance(value, dict) and (field is None or not value or isinstance(next(iter(value.values())), BaseModel)):
        for name, inner_value in value.items():
            yield from _leaves((*path, name), inner_value, None, written)
    elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        for index, inner_value in enumerate(value):
            yield from _leaves((*path, index), inner_value, None, written)
    else:
        yield path, json.dumps(as_written(value, None if field is None else parser_of(field)), ensure_ascii=False)


@cache
def parsers_of(table: type[BaseModel]) -> Mapping[str, object]:
    """Return the function that parses the values of each key of a table."""
    return {name: parser_of(field) for name, field in table.model_fields.items()}


def parser_of(field: FieldInfo) -> object:
    """Return the function that parses the values of a key."""
    metadata = [*field.metadata, *_metadata(field.annotation)]
    return next((each.func for each in metadata if hasattr(each, "func")), None)


def _metadata(annotation: Any) -> Iterator[Any]:
    """Yield the metadata within an annotation such as `Duration | None`."""
    if get_origin(annotation) is Annotated:
        yield from annotation.__metadata__
    for each in get_args(annotation):
        yield from _metadata(each)


def as_written(value: Any, parser: object) -> Any:
    """Return a value in the file's form. `parser` is the function that parses the key."""
    if parser in DURATIONS and isinstance(value, int | float):
        return format_duration(value)
    if parser is parse_size and isinstance(value, int):
        return format_size(value)
    if parser is parse_share:
        return f"{value * 100:g}%"
    if isinstance(value, PurePath | Path) or hasattr(value, "_fields"):
        return str(value)
    if isinstance(value, tuple | list):
        return [as_written(each, None) for each in value]
    return value if isinstance(value, str | int | float | bool | dict) else str(value)
