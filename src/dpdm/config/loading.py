"""Configuration in and out: presets, YAML files, ``--set a.b=c``, and errors that name the key."""

from __future__ import annotations

import difflib
import json
from collections.abc import Hashable, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from dpdm.config.schema import Config, SamplerSettings
from dpdm.errors import RequestError

_LONGEST_VALUE_SHOWN = 60


def dotted_keys(model: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Every leaf key of the tree, dotted: ``training.steps``."""
    keys = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += dotted_keys(field.annotation, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def flatten(config: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Every leaf value by its dotted key."""
    flat: dict[str, Any] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def from_mapping(values: Mapping[str, Any], source: str) -> Config:
    """Validates a nested mapping. ``source`` (a file or a preset) is named in the error.

    Raises:
        RequestError: one line with every wrong key, its value, and the nearest right key.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise RequestError(f"{source}: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        key = _one_line(".".join(str(part) for part in item["loc"]))
        value = item["input"]
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown key {key}{_nearest(key)}")
        elif item["type"] == "model_type":
            lines.append(f"{key}={_shown(value)}: a section belongs here, a mapping of its keys")
        elif item["type"] == "value_error" and isinstance(value, Mapping | BaseModel):
            lines.append((f"{key}: " if key else "") + str(item["ctx"]["error"]))
        else:
            message = item["msg"].removeprefix("Value error, ")
            lines.append(f"{key}={_shown(value)}: {message[0].lower()}{message[1:]}")
    return "; ".join(lines)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _shown(value: object) -> str:
    """A value as YAML has it (``true``, ``null``, ``"text"``), on one line and not without end."""
    text = _one_line(json.dumps(value, default=str, ensure_ascii=False, skipkeys=True))
    short = len(text) <= _LONGEST_VALUE_SHOWN
    return text if short else text[: _LONGEST_VALUE_SHOWN - 3] + "..."


def _with_leaf(leaf: str) -> list[str]:
    """The dotted keys whose last part is ``leaf``."""
    return [key for key in dotted_keys() if key.rsplit(".", 1)[-1] == leaf]


def _nearest(key: str) -> str:
    """A hint: the right key whose spelling, or those whose last part, is closest."""
    parent, _, leaf = key.rpartition(".")
    named = parent.startswith("sampling.alternatives.")
    keys = dotted_keys(SamplerSettings, f"{parent}.") if named else dotted_keys()
    close = [] if parent else _with_leaf(leaf)
    close = close or difflib.get_close_matches(key, [*keys, *Config.model_fields], n=1, cutoff=0.6)
    if not close:
        leaves = {known.rsplit(".", 1)[-1] for known in keys}
        closest = difflib.get_close_matches(leaf, sorted(leaves), n=1, cutoff=0.6)
        close = _with_leaf(closest[0]) if closest else []
    if not close:
        return "; `dpdm presets digits` lists the keys"
    *others, last = close
    return f"; did you mean {', '.join(others)}{' or ' if others else ''}{last}?"


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key that stands twice is an error: the first is not silently lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"the key {key.value} stands here a second time",
                        problem_mark=key.start_mark,
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(text: str, source: str) -> Any:
    """The value of a YAML document.

    Raises:
        RequestError: not YAML, with the line where there are several.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark and "\n" in text else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise RequestError(
            f"{source}: not readable as YAML ({where}{_one_line(problem)})"
        ) from None


def _parse_override(override: str) -> tuple[str, Any]:
    """``a.b=c`` to its key and its value, read as YAML."""
    shown = f"--set {_one_line(override)}"
    key, separator, text = override.partition("=")
    key = key.strip()
    if not separator or not all(key.split(".")):
        raise RequestError(f"{shown}: expected key=value, for example training.steps=100")
    return key, read_yaml(text, shown)


def _override(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets one dotted key in a nested mapping."""
    node = values
    *parents, leaf = key.split(".")
    for position, part in enumerate(parents, start=1):
        if node.get(part) is None:
            node[part] = {}
        node = node[part]
        if not isinstance(node, dict):
            parent = ".".join(parents[:position])
            raise RequestError(
                f"{_one_line(key)}={_shown(value)}: {parent} is a value, not a section"
            )
    node[leaf] = value


def preset_names() -> list[str]:
    """Names of the shipped presets, own ones first."""
    folder = resources.files("dpdm") / "presets"
    names = [
        entry.name.removesuffix(".yaml")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    ]
    return sorted(
        names, key=lambda name: ("-eps" in name, "-cpu-" not in name, "-gpu-" not in name, name)
    )


def load_config(source: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Reads a preset by name or a YAML file by path, with ``key=value`` overrides.

    Raises:
        RequestError: no such preset or file, not YAML, unknown key, wrong value.
    """
    return _load(source, [_parse_override(override) for override in overrides])


def _load(source: str | Path, overrides: Iterable[tuple[str, Any]]) -> Config:
    shown = _one_line(str(source))
    values = read_yaml(_text_of(source, shown), shown)
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise RequestError(
            f"{shown}: a configuration is a mapping of sections, not {type(values).__name__}"
        )
    for key, value in overrides:
        _override(values, key, value)
    # A section whose keys are all commented out reads as null; it is as good as absent.
    return from_mapping({key: v for key, v in values.items() if v is not None}, shown)


def _text_of(source: str | Path, shown: str) -> str:
    """The YAML text of a preset or a file; ``shown`` is its name in errors."""
    if str(source) in preset_names():
        return (resources.files("dpdm") / "presets" / f"{source}.yaml").read_text("utf-8")
    path = Path(source)
    try:
        if path.suffix in (".yaml", ".yml") or path.is_file():
            return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise RequestError(f"{shown}: cannot read the configuration ({reason})") from None
    close = difflib.get_close_matches(str(source), preset_names(), n=1)
    hint = f"did you mean {close[0]}?" if close else "`dpdm presets` lists them"
    raise RequestError(f"{shown}: neither a preset nor a .yaml file; {hint}")


def preset(name: str, /, **overrides: Any) -> Config:
    """A shipped preset with changes, by key: ``preset("digits", epsilon=1)``.

    The last part of a key is enough where it is unambiguous; in full, two underscores stand for
    the dot: ``training__steps=100``.

    Raises:
        RequestError: unknown preset, or a key that is unknown or stands in several sections.
    """
    if name not in preset_names():
        close = difflib.get_close_matches(name, preset_names(), n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(preset_names())}"
        raise RequestError(f"{_one_line(name)}: no such preset; {hint}")
    return _load(name, [(_full_key(name, key), value) for key, value in overrides.items()])


def _full_key(name: str, key: str) -> str:
    """``epsilon`` or ``privacy__epsilon`` to ``privacy.epsilon``."""
    if "__" in key:
        return key.replace("__", ".")
    matches = _with_leaf(key)
    if len(matches) == 1:
        return matches[0]
    shown = f"preset({name!r}, {key}=...)"
    if matches:
        choices = ", ".join(match.replace(".", "__") for match in matches)
        raise RequestError(f"{shown}: stands in several sections; write one of {choices}")
    if key in Config.model_fields:
        raise RequestError(f"{shown}: is a section; write {key}__ and the name of its key")
    raise RequestError(f"{shown}: unknown key{_nearest(key)}")


def to_yaml(config: Config) -> str:
    """The whole tree as YAML; ``load_config`` of it gives the same tree."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
