"""Run all stages in order; each one is a folder that appears when the stage is complete."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lens_cache.encoders.sam import build_sam
from lens_cache.errors import ConfigError
from lens_cache.progress import no_progress
from lens_cache.store.io.files import folder_in_one_step
from lens_cache.toy.scene import SIDE
from lens_cache.toy.small_llava import build_llava
from lens_cache.toy.trained_models import SHAPES_LLAVA, SHAPES_SAM, shapes_tokenizer
from lens_cache.toy.vocabulary import WORDS
from pipelines.pretraining import chat, llava, sam
from pipelines.pretraining.scenes import write_scenes
from pipelines.pretraining.stage import Processes, Schedule, Stage, fit, run_in_processes
from pipelines.pretraining.tower import TowerStage, load_tower
from pipelines.progress import Bars

# The image in two sizes, and the map of visible things.
BYTES_PER_SCENE = SIDE * SIDE * 4 + SHAPES_LLAVA.image_side**2 * 3
SCENES, TOWER, SAM, LLAVA, CHAT, MODELS = "scenes", "tower", "sam", "llava", "chat", "models"
TRAINED = (TOWER, SAM, LLAVA, CHAT)
TOWER_SCHEDULE = Schedule(steps=3700, batch=40, lr=2.5e-3, seed=0)
SAM_SCHEDULE = Schedule(steps=2000, batch=8, lr=2e-3, seed=1)
LLAVA_SCHEDULE = Schedule(steps=2600, batch=32, lr=2.5e-3, seed=2)
CHAT_SCHEDULE = Schedule(steps=3900, batch=32, lr=2e-3, seed=3)


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """All settings on which the two models depend.

    Attributes:
        scenes: Number of scenes of each split.
        tower: Schedule of the vision tower.
        sam: Schedule of SAM.
        llava: Schedule of projector and language model.
        chat: Schedule of the later layers of the language model, on requests to an agent.
    """

    scenes: Mapping[str, int] = field(
        default_factory=lambda: {"val": 1000, "easy": 16000, "train": 50000}
    )
    tower: Schedule = TOWER_SCHEDULE
    sam: Schedule = SAM_SCHEDULE
    llava: Schedule = LLAVA_SCHEDULE
    chat: Schedule = CHAT_SCHEDULE


def pretrain(folder: Path, settings: Pretraining, processes: int, bars: Bars) -> Path:
    """Train both models from random weights and return their folder.

    Stages that an earlier call has completed are skipped.

    Args:
        folder: Folder for scenes (about 6 GB), logs and models.
        settings: Sizes and schedules.
        processes: Number of processes with one thread each, which share every batch.
        bars: Progress bars.

    Raises:
        ConfigError: If there are more processes than images in a batch.
    """
    smallest = min(getattr(settings, name).batch for name in TRAINED)
    if not 0 < processes <= smallest:
        raise ConfigError(
            f"training the tiny models: expected 1 to {smallest} processes, got {processes}"
        )
    _finish(folder / SCENES, lambda new: _paint(new, settings, bars))
    for name in TRAINED:
        bars.message(f"{name}: {getattr(settings, name).steps} steps, {processes} processes")
        with bars.paused():
            _finish(
                folder / name,
                partial(_train_in_processes, processes, name, settings, folder),
            )
    _finish(folder / MODELS, lambda new: _collect(folder, new))
    return folder / MODELS


def describe(settings: Pretraining) -> str:
    """Return one line per stage about its work, and the total duration that was measured."""
    scenes = ", ".join(f"{count} {split}" for split, count in settings.scenes.items())
    lines = [f"scenes: {scenes}; {sum(settings.scenes.values()) * BYTES_PER_SCENE / 1e9:.1f} GB"]
    for name in TRAINED:
        schedule: Schedule = getattr(settings, name)
        lines.append(f"{name}: {schedule.steps} steps of {schedule.batch} images")
    return "\n".join([*lines, "about two and a half hours on two cores with bfloat16 instructions"])


def _finish(final: Path, make: Callable[[Path], None]) -> None:
    """Fill a folder with ``make``; it appears when it is complete. Skip it if it exists."""
    if not final.exists():
        with folder_in_one_step(final) as new:
            make(new)


def _paint(new: Path, settings: Pretraining, bars: Bars) -> None:
    for split, count in settings.scenes.items():
        write_scenes(new / split, split, count, SHAPES_LLAVA.image_side, bars.progress)


def _train_in_processes(
    count: int, name: str, settings: Pretraining, folder: Path, new: Path
) -> None:
    run_in_processes(count, _train, name, settings, folder, new)


def _train(processes: Processes, name: str, settings: Pretraining, folder: Path, new: Path) -> None:
    """Train one stage; each process calls this."""
    schedule: Schedule = getattr(settings, name)
    torch.manual_seed(schedule.seed)  # the same weights in every process
    stage = build_stage(name, folder, new, processes.device)
    with ExitStack() as stack:
        bars = stack.enter_context(Bars()) if processes.rank == 0 else None
        fit(stage, schedule, new, processes, bars.progress if bars else no_progress)


def build_stage(name: str, folder: Path, new: Path, device: torch.device) -> Stage:
    """Build a stage at its start.

    Args:
        name: Name of the stage.
        folder: Folder of the scenes and of earlier stages.
        new: Folder in which it saves.
        device: Device on which it trains.
    """
    scenes = folder / SCENES
    if name == SAM:
        return sam.SamStage(build_sam(SHAPES_SAM), scenes, new, device)
    tokenizer = shapes_tokenizer(WORDS)
    # Eager attention is the fastest to train on CPUs.
    model: Any = build_llava(SHAPES_LLAVA, tokenizer, attention="eager")
    if name == TOWER:
        return TowerStage(model.model.vision_tower, scenes, new, device)
    if name == CHAT:
        load_trained(model, folder / LLAVA / llava.FOLDER)
        return chat.ChatStage(model, tokenizer, scenes, new, device)
    load_tower(model.model.vision_tower, folder / TOWER)
    return llava.LlavaStage(model, tokenizer, scenes, new, device)


def load_trained(model: Any, folder: Path) -> None:
    """Load the weights of a LLaVA that stage 3 has saved."""
    trained = model.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    model.load_state_dict(trained.state_dict())


def _collect(folder: Path, new: Path) -> None:
    shutil.copytree(folder / CHAT / llava.FOLDER, new / llava.FOLDER)
    shutil.copy(folder / SAM / sam.FILE, new / sam.FILE)
