"""How a setting is declared, a dataclass field `name: Annotated[type, Setting(...)] = default`, and read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, cast, get_type_hints
from urllib.parse import unquote, urlsplit

from environs import Env, EnvValidationError, FileAwareEnv

from streams.config.validators import validator

MASK = "********"
_LOGIN = re.compile(r"\A(https?://)[^/?#]*@")  # up to the last @: a password may hold others


class Secret(NamedTuple):
    """How a secret setting is shown, and the texts in it that no log may show."""

    mask: Callable[[str], str]
    texts: Callable[[str], Iterable[str]]


def _login_texts(url: str) -> set[str]:
    password = urlsplit(url).password or ""
    return {password, unquote(password)} - {""}


WHOLE = Secret(lambda _: MASK, lambda text: (text,))
LOGIN = Secret(lambda url: _LOGIN.sub(rf"\1{MASK}@", url), _login_texts)
"""Of a URL, its user and password."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a setting means, what validates its text (raises ValidationError), and what makes the value of the text
    (raises ValueError); without `parse` the text is read as the field's type.
    """

    meaning: str
    validate: Callable[[Any], Any] | None = None
    parse: Callable[[str], Any] | None = None
    secret: Secret | None = None


class Declaration(NamedTuple):
    """A setting with its variable, its place in the settings and its default."""

    variable: str
    section: type[Any]
    field: str
    type: Any
    default: Any
    setting: Setting

    @property
    def secret(self) -> Secret | None:
        """Return how the value is kept secret, None if it is not."""
        return self.setting.secret

    def read(self, env: Env) -> Any:
        """Return the value in the environment, or the default; `env` collects what is invalid."""
        if self.variable in os.environ:  # as FileAwareEnv does with a file: `--env-file` keeps blanks and CRs
            os.environ[self.variable] = os.environ[self.variable].strip()
        validate, parse = self.setting.validate, self.setting.parse
        if parse is not None:
            text = env.str(self.variable, None, validate=validate or validator(parse))
            return self.default if text is None else parse(text)
        read = env.int if self.type is int else env.float if self.type is float else env.str
        value = read(self.variable, None, validate=validate)
        # `${NAME:-}` of compose makes an empty one of what is not set
        return self.default if value is None or (value == "" and self.default is None) else value

    def value(self, settings: Any) -> Any:
        """Return the effective value in `settings`."""
        return getattr(settings.kafka if self.variable.startswith("KAFKA_") else settings, self.field)


def declared(section: type[Any], prefix: str) -> Iterator[Declaration]:
    """Yield the settings of a dataclass, in order; fields without a Setting are none."""
    hints = get_type_hints(section, include_extras=True)
    for field in fields(section):
        for setting in getattr(hints[field.name], "__metadata__", ()):
            variable = f"{prefix}_{field.name.upper()}"
            yield Declaration(variable, section, field.name, hints[field.name].__origin__, field.default, setting)


def read(declarations: Iterable[Declaration]) -> tuple[dict[type[Any], dict[str, Any]], list[str]]:
    """Return the fields of each section from the environment, and what is invalid there, one problem a line."""
    declarations = list(declarations)
    problems = _file_problems({each.variable for each in declarations})
    env = Env(eager=False) if problems else FileAwareEnv(eager=False, strip_whitespace=True)
    values: dict[type[Any], dict[str, Any]] = {}
    for each in declarations:
        values.setdefault(each.section, {})[each.field] = each.read(env)
    try:
        env.seal()
    except EnvValidationError as exc:
        found = cast("Mapping[str, list[str]]", exc.error_messages)
        problems += [f"{name}: {reason}" for name, reasons in found.items() for reason in reasons]
    return values, problems


def _file_problems(variables: Collection[str]) -> list[str]:
    """Report each `<NAME>_FILE` of a setting that cannot be read as it is, or is given beside the variable itself."""
    problems: list[str] = []
    for name, path in os.environ.items():
        variable = name.removesuffix("_FILE")
        if variable == name or variable not in variables:  # other programs have such variables, too
            continue
        if variable in os.environ:
            problems.append(f"{name}: {variable} is given too; give one of them")
        try:
            if Path(path).read_text(encoding="utf-8").startswith("\ufeff"):  # it would be a part of the secret
                problems.append(f"{name}: {path!r} begins with a byte order mark; save it without")
        except (OSError, UnicodeDecodeError) as exc:
            problems.append(f"{name}: {path!r} cannot be read: {getattr(exc, 'strerror', None) or 'not UTF-8'}")
    return problems
