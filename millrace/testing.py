"""Helpers for tests of plugins and sources; see `agents.testing`, whose names these are."""

from agents.testing import Asked, AsyncHarness, Harness, Reply, answer, answer_async

__all__ = ["Asked", "AsyncHarness", "Harness", "Reply", "answer", "answer_async"]
