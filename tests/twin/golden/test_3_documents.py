"""The golden trial in the user's own documents."""

from __future__ import annotations

import re

import pytest
from attachments import DOCUMENTS, MEMORY, REGISTRY, RESEARCH, said, texts

pytestmark = pytest.mark.twin

LABEL = "gemma-4-E4B-it-Q4_K_M"


def test_the_trial_is_in_all_three_documents(golden):
    assert said(golden.text) == dict.fromkeys(DOCUMENTS, "written")
    after = texts(golden.docs)
    assert "no benchmarks exist yet" not in after[RESEARCH]
    assert f"| nav | {LABEL} | gemma-4-E2B-it before | gemma-4-E2B-it after |" in after[RESEARCH]
    assert re.search(rf"^\| {LABEL} \| 11437 \| 6\.\d \| PENDING REVIEW \|$", after[REGISTRY], re.MULTILINE)
    assert "\nSteady-state peak: 12.8 GB\n" in after[REGISTRY]
    assert after[REGISTRY].count(golden.folder.name) == 1
    assert after[MEMORY].startswith(golden.before[MEMORY])
    assert golden.folder.name in after[MEMORY]
