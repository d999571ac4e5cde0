"""Every stage between an image and its mask places a shape at the same point.

A disc in an image is read by each stage on its own. The stage must answer with the disc's centre,
and a disc moved by one pixel must move the answer by one pixel.
"""

import numpy as np
import pytest
import torch

from lens_cache.evaluation.baselines import masks_above, peak_points
from lens_cache.images.geometry import (
    grid_to_normalised,
    logits_to_image,
    mask_to_square,
    normalised_to_image,
)
from lens_cache.images.masks import encode
from lens_cache.images.panels import Panel
from lens_cache.models.keypoints import refine_keypoints, sample_neighbourhood, select_keypoints
from lens_cache.training.losses import attention_loss

WIDTH, HEIGHT, SIDE, GRID, RADIUS = 640, 480, 1024, 24, 60
CELL = 1 / GRID
CONVENTIONS = ["centre", "corner"]
# (x, y) in pixels: in three parts of the image, no one at the same place within its cell.
PLACES = [(130.0, 150.0), (487.0, 121.0), (331.0, 392.0)]


def disc(centre):
    """A mask of the image, bool (H, W); pixel i covers i to i + 1."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= RADIUS**2


def positions(convention, grid=GRID):
    """(x, y) of every cell in normalised coordinates, (grid, grid, 2)."""
    y, x = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    return grid_to_normalised(torch.stack([x, y], dim=-1).double(), (grid, grid), convention)


def distances(centre, convention, grid=GRID):
    middle = torch.tensor(np.array(centre) / WIDTH)
    return (positions(convention, grid) - middle).norm(dim=-1)[None]


def soft_disc(centre, convention, grid=GRID):
    """A map over the grid that is high on the disc, (1, grid, grid)."""
    outside = distances(centre, convention, grid) - RADIUS / WIDTH
    return (-outside / (CELL / 2)).sigmoid().float()


def centroid(mask):
    """(x, y) in pixels of a mask."""
    rows, columns = np.nonzero(np.asarray(mask))
    return np.array([columns.mean(), rows.mean()]) + 0.5


def by_target(centre, convention):
    return centroid(mask_to_square(encode(disc(centre)), SIDE)) * WIDTH / SIDE


def by_attention_loss(centre, convention):
    """The place at which a map has the lowest loss, along each axis."""
    target = torch.from_numpy(mask_to_square(encode(disc(centre)), SIDE // 4))[None]
    steps = np.linspace(-24, 24, 13)  # pixels; a cell is 26.7
    found = []
    for axis in (0, 1):
        moved = [np.array(centre) + step * np.eye(2)[axis] for step in steps]
        maps = torch.cat([soft_disc(place, convention) for place in moved]).clamp(1e-6, 1 - 1e-6)
        losses = attention_loss(maps, target.expand(len(maps), -1, -1), coordinates=convention)
        best = int(losses[1:-1].argmin()) + 1
        before, lowest, after = losses[best - 1 : best + 2].double().tolist()
        vertex = (before - after) / (2 * (before - 2 * lowest + after))
        found.append(centre[axis] + steps[best] + vertex * (steps[1] - steps[0]))
    return np.array(found)


def refined(centre, convention):
    heatmap = (-((distances(centre, convention) / (2.5 * CELL)) ** 2)).exp().float()
    cells, _ = select_keypoints(heatmap, max_keypoints=1)
    return heatmap, refine_keypoints(heatmap, cells)


def by_keypoint(centre, convention):
    _, cells = refined(centre, convention)
    points = grid_to_normalised(cells, (GRID, GRID), convention)[0, 0].double().numpy()
    return normalised_to_image(points, width=WIDTH, height=HEIGHT)


def by_neighbourhood(centre, convention):
    """The middle of the neighbourhood, in features that hold the position of their own cell."""
    _, cells = refined(centre, convention)
    features = positions(convention)[None]
    middle = sample_neighbourhood(features, cells, torch.tensor([0]))[0, 0, 4]
    return normalised_to_image(middle.numpy(), width=WIDTH, height=HEIGHT)


def by_panel(centre, convention):
    """The hottest part of the grounding map as drawn."""
    panel = Panel(
        image=np.zeros((HEIGHT, WIDTH, 3), np.uint8),
        title="",
        grounding_map=soft_disc(centre, convention)[0].numpy(),
        keypoints=np.zeros((0, 2), np.float32),
        prediction=np.zeros((HEIGHT, WIDTH), bool),
        coordinates=convention,
    )
    heat = np.asarray(panel.images(WIDTH)["grounding map"])[..., 0].astype(float)
    return centroid(heat > heat.max() / 2)


def by_mask(centre, convention):
    logits = soft_disc(centre, "centre", grid=256)[0] - 0.5
    return centroid(logits_to_image(logits, width=WIDTH, height=HEIGHT, side=SIDE) > 0)


def by_baseline(centre, convention):
    """The baselines' maps are those of the frozen model, always with centred cells."""
    heat = soft_disc(centre, "centre")[0]
    return centroid(masks_above(heat, [0.5], width=WIDTH, height=HEIGHT, side=SIDE)[0])


STAGES = [
    by_target,
    by_attention_loss,
    by_keypoint,
    by_neighbourhood,
    by_panel,
    by_mask,
    by_baseline,
]


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_finds_the_disc_where_it_is(stage, convention):
    for place in PLACES:
        # A twelfth of a cell; a cell's corner taken for its centre is up to half a cell away.
        np.testing.assert_allclose(stage(place, convention), place, atol=WIDTH * CELL / 12)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_disc_moved_by_a_pixel_moves_every_stage_by_a_pixel(stage, convention):
    for place in PLACES:
        for step in ((1.0, 0.0), (0.0, 1.0)):
            moved = stage((place[0] + step[0], place[1] + step[1]), convention)
            np.testing.assert_allclose(moved - stage(place, convention), step, atol=0.4)


def test_the_strongest_cell_is_the_one_that_holds_the_centre():
    for place in PLACES:
        point = peak_points(-distances(place, "centre"))[0, 0].numpy()
        found = normalised_to_image(point, width=WIDTH, height=HEIGHT)
        assert (np.abs(found - place) <= WIDTH * CELL / 2 + 1e-6).all()
