"""Where every file of a store lies."""

from __future__ import annotations

PLAN_FOLDER = "plan"


MANIFEST_FILE = "manifest.json"


FROZEN_FOLDER = "frozen"


RUNS_FOLDER = "runs"


# Everything that the plan set aside, and why.
QUARANTINE_TABLE = f"{PLAN_FOLDER}/quarantine.parquet"


# Says what the store is when its manifest is damaged; nothing else in the store could.
SPARE_MANIFEST = f"{RUNS_FOLDER}/{MANIFEST_FILE}"
