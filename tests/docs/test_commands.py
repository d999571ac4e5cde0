"""Every command, option, setting and variable that a page names exists."""

import re
import shlex
from dataclasses import fields, is_dataclass
from itertools import pairwise
from typing import get_args, get_type_hints

import pytest
import typer

from lens_cache.config.extract import ExtractConfig
from lens_cache.config.train import TrainConfig
from pipelines.cli import app
from tests.docs.test_pages import PAGES
from tests.support.markdown import blocks, commands, inline_code

CLI = typer.main.get_command(app)
BY_NAME = {"ids": lambda page: page.name}


def settings(kind, prefix=""):
    """Return the dotted names of a configuration's fields, sections included."""
    names = set()
    for field in fields(kind):
        names.add(prefix + field.name)
        hint = get_type_hints(kind)[field.name]
        for section in (hint, *get_args(hint)):
            if is_dataclass(section):
                names |= settings(section, f"{prefix}{field.name}.")
    return names


SETTINGS = settings(ExtractConfig) | settings(TrainConfig)
SECTIONS = {name.partition(".")[0] for name in SETTINGS if "." in name}


def unknown(words):
    """Return which option or setting of a lens-cache command line does not exist, if one does."""
    command, rest = CLI, list(words)
    while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
        name = rest.pop(0)
        if name not in command.commands:
            return [name]
        command = command.commands[name]
    options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
    wrong = [word for word in rest if re.match(r"--?[a-z]", word) and word not in options]
    wrong.extend(
        value
        for option, value in pairwise(rest)
        if option == "--set" and value.partition("=")[0] not in SETTINGS
    )
    return [word for word in wrong if word != "--help"]


@pytest.mark.parametrize("page", PAGES, **BY_NAME)
def test_every_command_and_option_exists(page):
    wrong = {}
    for number, line in commands(page):
        for part in re.split(r"&&|;", line):
            if part.strip().startswith("lens-cache "):
                found = unknown(shlex.split(part, comments=True)[1:])
                wrong.update({f"line {number}": found} if found else {})
    assert wrong == {}


@pytest.mark.parametrize("page", PAGES, **BY_NAME)
def test_every_setting_exists(page):
    named = [code.partition("=")[0] for code in inline_code(page)]
    dotted = [name for name in named if re.fullmatch(r"[a-z_0-9]+(\.[a-z_0-9]+)+", name)]
    wrong = [
        name
        for name in dotted
        if name.partition(".")[0] in SECTIONS
        and name not in SETTINGS
        and not name.endswith((".json", ".jsonl"))
    ]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, **BY_NAME)
def test_a_page_sets_its_own_variables(page):
    known, wrong = set(), []
    for number, line in commands(page):
        used = re.findall(r"\$(\w+)", line)
        wrong += [f"line {number}: ${name}" for name in used if name not in known]
        known.update(re.findall(r"(?:^|\s)([A-Z_0-9]+)=", line))
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, **BY_NAME)
def test_a_block_that_is_not_run_has_a_reason(page):
    for block in blocks(page):
        assert block.language, f"{page.name}, line {block.line}: no language"
        assert block.reason is None or len(block.reason) > 10
