"""Which jobs a job is a better version of."""

from __future__ import annotations

import json

import pytest
from recdreamer_extension.addon.jobs.origin import ORIGIN, Origin, earlier_versions
from recdreamer_extension.backend.recdreamer.shared.protocol import JobFolder


@pytest.fixture
def jobs(tmp_path):
    """Make job folders by name, each with its origin."""

    def make(**origins):
        for name, origin in origins.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / ORIGIN).write_text(origin if isinstance(origin, str) else origin.to_json())
        return lambda name: earlier_versions(JobFolder(tmp_path / name), None)

    return make


def test_all_versions_back_to_the_draft(jobs):
    draft = Origin("vary", "", ("draft", "other"))
    versions = jobs(draft=draft, fine=Origin("refine", "draft"), again=Origin("retry", "fine"))
    assert versions("again") == ["fine", "draft"] and versions("draft") == []


def test_a_job_that_only_continues_another_is_no_better_version(jobs):
    assert jobs(next=Origin("", "first"))("next") == []


def test_a_deleted_draft_is_still_known_by_its_name(jobs):
    assert jobs(fine=Origin("refine", "gone"))("fine") == ["gone"]


def test_a_circle_ends(jobs):
    versions = jobs(a=Origin("retry", "b"), b=Origin("retry", "a"), c=Origin("retry", "c"))
    assert versions("a") == ["b"] and versions("c") == []


@pytest.mark.parametrize("of", ["../../etc", "/etc", "a/b", 7, None, ["x"]])
def test_a_strangers_origin_leads_nowhere_else(jobs, of):
    found = jobs(odd=json.dumps({"how": "refine", "of": of}))("odd")
    assert len(found) <= 1 and all(isinstance(name, str) for name in found)
