from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from streams.config import docs as reference
from streams.config.settings import DECLARED, Kafka, Settings, names

DOCS = Path(__file__).parents[3] / "docs"


def test_every_setting_is_documented():
    """A field of the settings that is not declared, or whose meaning is no sentence, fails here."""
    fields = [*dataclasses.fields(Kafka), *dataclasses.fields(Settings)]
    assert [each.field for each in DECLARED] == [field.name for field in fields if field.name != "kafka"]
    assert [each.variable for each in DECLARED] == [name for name, _ in names(Settings())]
    assert [each.variable for each in DECLARED if not each.setting.meaning.endswith(".")] == []


def test_the_documented_reference_is_the_one_of_now():
    """docs/configuration.md is what `millrace config --reference` prints: it cannot lie."""
    written = (DOCS / "configuration.md").read_text(encoding="utf-8")
    assert written == reference.reference(), "run: millrace config --reference > docs/configuration.md"


def test_an_unknown_name_is_noticed_with_what_may_be_meant(monkeypatch):
    """A misspelt setting would else change nothing without a word; other programs' variables are not ours to judge."""
    monkeypatch.setenv("MILLRACE_MAX_INFLIGHT", "5")
    monkeypatch.setenv("MILLRACE_ZZZ", "5")
    monkeypatch.setenv("KAFKA_SASL_PASWORD_FILE", os.devnull)
    monkeypatch.setenv("KAFKA_HEAP_OPTS", "-Xmx1g")
    monkeypatch.setenv("MILLRACE_WEB_TOKEN_FILE", os.devnull)
    assert list(reference.unknown_names()) == [
        "KAFKA_SASL_PASWORD_FILE is not a setting: did you mean KAFKA_SASL_PASSWORD?",
        "MILLRACE_MAX_INFLIGHT is not a setting: did you mean MILLRACE_MAX_IN_FLIGHT?",
        "MILLRACE_ZZZ is not a setting and has no effect",
    ]
