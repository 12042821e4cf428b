"""Helpers for tests of plugins and sources, from `agents.testing`."""

from agents.testing import AsyncHarness, Harness, Published, Reply, UpstreamRequest, answer, answer_async, replay

__all__ = ["AsyncHarness", "Harness", "Published", "Reply", "UpstreamRequest", "answer", "answer_async", "replay"]
