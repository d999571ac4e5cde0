"""The report on a GPU: all of its code at tiny size, on the CPU."""

import contextlib
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lens_cache.errors import ConfigError
from pipelines.benchmark.gpu import report, sections
from pipelines.benchmark.gpu.device import attention_shapes
from pipelines.benchmark.gpu.findings import Findings, SavedFindings, markdown
from pipelines.benchmark.gpu.scale import TINY
from tests.faults.processes import wait_for
from tests.support.stores import Quiet


@pytest.mark.parametrize(
    "name", sorted(sections.SECTIONS.keys() - {"end-to-end", "compiled"}), ids=str
)
def test_a_section_finds_a_table(name):
    found = Findings()
    sections.run_section(name, TINY, "cpu", found)
    assert found.rows
    assert len({tuple(row) for row in found.rows}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["end-to-end", "compiled"])
def test_a_long_section_finds_a_table(name):
    found = Findings()
    sections.run_section(name, TINY, "cpu", found)
    if name == "end-to-end":
        assert any("byte-identical" in note for note in found.notes)
    assert len(found.rows) >= 2


def test_a_section_that_fails_does_not_end_the_others(tmp_path):
    found, good = report.gpu_report(
        tmp_path, TINY, "no-such-device", Quiet(), names=["environment", "decode"]
    )
    first, second = found.document["sections"]
    assert not good
    assert first["error"].startswith("exit 1: ")
    assert second["error"] == ""
    assert [row["precision"] for row in second["rows"]] == ["model", "fp8", "int8"]
    assert json.loads((tmp_path / "report.json").read_text()) == found.document
    text = (tmp_path / "report.md").read_text()
    assert "**Failed.** exit 1" in text
    assert "| int8 |" in text


def test_without_time_a_section_says_so(tmp_path):
    found, good = report.gpu_report(
        tmp_path, TINY, "cpu", Quiet(), names=["environment"], minutes=0.01
    )
    assert not good
    assert found.document["sections"][0]["error"].startswith("not run: no time left")


def test_a_stopped_section_leaves_no_process_and_no_file(tmp_path, monkeypatch):
    """Ten seconds end in the middle of an extraction on Ray."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    found, good = report.gpu_report(
        tmp_path / "out", TINY, "cpu", Quiet(), names=["end-to-end"], minutes=10 / 60
    )
    assert not good
    (section,) = found.document["sections"]
    assert section["error"].startswith("stopped after 10 s")
    wait_for(lambda: processes_in(scratch) == [])  # Ray ends a moment after its driver
    assert list(scratch.glob("lens-cache-gpu-*")) == []


def processes_in(folder):
    """Return the processes with a working folder in a folder that may be gone."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if str(link.readlink()).startswith(str(folder)):
                found.append(link)
    return found


def test_an_unknown_section_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"found nonsense"):
        report.gpu_report(tmp_path / "new", TINY, "cpu", Quiet(), names=["nonsense"])
    assert not (tmp_path / "new").exists()


def test_what_was_found_before_a_failure_is_kept(tmp_path):
    found = SavedFindings(tmp_path / "found.json")
    found.row(way="one", speed=1.0)
    found.note("a sentence")
    kept = json.loads((tmp_path / "found.json").read_text())
    assert kept == {"rows": [{"way": "one", "speed": 1.0}], "notes": ["a sentence"]}


def test_a_table_in_markdown():
    text = markdown([{"a|b": 1.23456, "c": None}], ["done"])
    assert text.splitlines()[2:] == ["| 1.235 | - |", "", "- done"]


def test_attention_is_counted_by_kind_and_shapes():
    query, key = torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 5, 4)
    with attention_shapes() as found:
        F.scaled_dot_product_attention(query, key, key)
        F.scaled_dot_product_attention(query, key, key, attn_mask=torch.zeros(3, 5))
        F.scaled_dot_product_attention(key, key, key, is_causal=True)
    assert found == {
        ("full", (1, 2, 3, 4), (1, 2, 5, 4)): 1,
        ("masked", (1, 2, 3, 4), (1, 2, 5, 4)): 1,
        ("causal", (1, 2, 5, 4), (1, 2, 5, 4)): 1,
    }
