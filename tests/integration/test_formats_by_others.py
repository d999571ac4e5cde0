"""Stores read by other programs: Zarr, xarray and WebDataset, without our readers."""

import dataclasses
import io
import os
import pickle
import re
import subprocess
import sys
import tarfile
import tomllib

import numpy as np
import pytest
import torch
import webdataset
import xarray
import zarr

from lens_cache.config.train import LossConfig, ModelConfig
from lens_cache.errors import ConfigError, CorruptShardError
from lens_cache.models.lens import LensModel
from lens_cache.store.convert import convert
from lens_cache.store.store import Store
from lens_cache.store.verify import verify_store
from lens_cache.store.webdataset.decode import SampleDecoder, sample_features
from lens_cache.store.webdataset.pipeline import sample_pipeline
from lens_cache.training.data import FeatureDataset
from lens_cache.training.losses import LensLoss
from lens_cache.training.sampling import Draw
from tests.integration.test_precision import stored_as
from tests.support import REPOSITORY
from tests.support.stores import contents, copied, extracted, settings, vouch

PRECISIONS = ("float32", "bfloat16", "int8")
NAMES = ("layer_4/image_tokens", "layer_4/text_tokens", "layer_4/prefix", "image_embeddings")


@pytest.fixture(scope="module")
def config(tiny_coco, tiny_checkpoints):
    return settings(tiny_coco, tiny_checkpoints, dtype="bfloat16")


@pytest.fixture(scope="module")
def arrays(tmp_path_factory, tiny_store, config):
    """Stores in the Zarr format by precision; int8 has embeddings in fp8. Do not write there."""
    folder = tmp_path_factory.mktemp("arrays")
    extracted(folder / "bfloat16", config)
    extracted(folder / "int8", stored_as(config))
    return {"float32": tiny_store, "bfloat16": folder / "bfloat16", "int8": folder / "int8"}


@pytest.fixture(scope="module")
def tars(tmp_path_factory, arrays):
    """The same stores in the webdataset format."""
    folder = tmp_path_factory.mktemp("tars")
    for name, root in arrays.items():
        convert(root, folder / name, wanted="webdataset")
    return {name: folder / name for name in arrays}


def array_paths(root):
    specs = Store(root).features.spec
    return {name: specs(name).path for name in NAMES}


def stored_numbers(store, name, image):
    """Return an image's part of an array as our reader gives it, in float32."""
    features = store.features
    data = features.prefix(name) if name.endswith("prefix") else features.part(name, image)
    return features.tensor(name, data).float().numpy()


# Zarr and xarray


@pytest.mark.parametrize("precision", PRECISIONS)
def test_zarr_reads_numbers(arrays, precision):
    store, group = Store(arrays[precision]), zarr.open_group(arrays[precision], mode="r")
    for name, path in array_paths(arrays[precision]).items():
        array = group[path]
        assert array.dtype == np.float32
        assert array.attrs["dtype"] == ("float32" if precision == "float32" else "bfloat16")
        if name.endswith("prefix"):
            np.testing.assert_array_equal(array[:], stored_numbers(store, name, 0))
            continue
        for image in store.images(None):
            first = store.catalogue.first_row(image)
            rows = slice(first, first + store.catalogue.text_rows(image))
            found = array[rows] if name.endswith("text_tokens") else array[image]
            np.testing.assert_array_equal(found, stored_numbers(store, name, image))


def test_xarray_reads_numbers(arrays):
    store = Store(arrays["int8"])
    with pytest.warns(zarr.errors.ZarrUserWarning, match="not recognized as a component"):
        data = xarray.open_zarr(store.root, consolidated=False, chunks=None)
    assert data.image_embeddings.dims == ("image", "channel", "y", "x")
    found = data.image_embeddings[1].values
    np.testing.assert_array_equal(found, stored_numbers(store, "image_embeddings", 1))
    states = xarray.open_zarr(
        store.root,
        group="hidden_states/layer_4",
        consolidated=False,
        chunks=None,
        drop_variables=["prefix", "text_tokens"],  # their axis of tokens has another length
    )
    found = states.image_tokens.isel(image=1).values
    np.testing.assert_array_equal(found, stored_numbers(store, "layer_4/image_tokens", 1))


@pytest.fixture
def installed(tmp_path):
    """The environment of a process that has this package installed, as pyproject.toml says."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    folder = tmp_path / "site" / "lens_cache-0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: lens-cache\nVersion: 0\n")
    (folder / "entry_points.txt").write_text("\n".join(lines))
    return os.environ | {"PYTHONPATH": f"{folder.parent}{os.pathsep}{REPOSITORY}"}


def run(script, *arguments, env=None):
    """Run an example and return what it printed."""
    command = [sys.executable, str(REPOSITORY / "examples" / script), *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_program_that_does_not_import_lens_cache_reads_numbers(arrays, installed, precision):
    printed = run("read_with_zarr.py", arrays[precision], env=installed).splitlines()
    assert len(printed) == len(NAMES)
    values = stored_numbers(Store(arrays[precision]), "image_embeddings", 0)
    (embeddings,) = [line for line in printed if line.startswith("image_embeddings: float32")]
    assert embeddings.endswith(f"first image: {values.min():.4g} to {values.max():.4g}")


def test_numcodecs_finds_the_codecs_by_entry_point(installed):
    script = (
        "import numcodecs, sys; assert 'lens_cache' not in sys.modules; "
        "print(numcodecs.get_codec({'id': 'lens_cache.fp8', 'channels': 8, 'dtype': 'float32'}), "
        "numcodecs.get_codec({'id': 'lens_cache.bfloat16'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=installed, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["Fp8Tokens(channels=8,", "dtype='float32')", "Bfloat16()"]


def describe_as_before(root):
    """Describe the arrays of a store as versions before the codecs did, and seal it."""
    described = root.parent / "described"
    for specs in Store(root).manifest.arrays.values():
        for spec in specs.values():
            code = {} if spec.code is None else {"tokens": dataclasses.asdict(spec.code)}
            zarr.create_array(
                described / spec.path,
                shape=spec.shape,
                chunks=spec.chunk,
                shards=spec.shard,
                dtype={"bfloat16": "uint16"}.get(spec.dtype, spec.dtype),
                compressors=None,
                filters=None,
                fill_value=0,
                dimension_names=spec.dimensions,
                attributes={"dtype": spec.dtype} | code,
            )
            (described / spec.path / "zarr.json").replace(root / spec.path / "zarr.json")
    vouch(root)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_a_store_written_before_the_codecs_stays_as_it_is(tmp_path, arrays, config, precision):
    root = copied(arrays[precision], tmp_path / "store")
    describe_as_before(root)
    before = contents(root)
    array = zarr.open_array(root / "image_embeddings", mode="r")
    assert array.dtype == (np.uint16 if precision == "bfloat16" else np.uint8)
    assert not verify_store(root).problems
    extracted(root, config if precision == "bfloat16" else stored_as(config))
    assert contents(root) == before
    here, now = Store(root), Store(arrays[precision])
    for name in NAMES:
        np.testing.assert_array_equal(stored_numbers(here, name, 1), stored_numbers(now, name, 1))
    changed = {name for name, data in contents(now.root).items() if data != before[name]}
    assert changed == {
        "commits/shared/000000.json",
        *(f"{path}/zarr.json" for path in array_paths(root).values()),
    }
    array = root / "image_embeddings/zarr.json"
    array.write_text(array.read_text() + " ")  # damaged: replaced by a description of numbers
    extracted(root, config if precision == "bfloat16" else stored_as(config))
    assert zarr.open_array(root / "image_embeddings", mode="r").dtype == np.float32


# WebDataset


def decoded(root, **options):
    """Return the samples of a plain WebDataset pipeline by image."""
    urls = sorted(str(path) for path in (root / "samples").glob("*.tar"))
    decoder = SampleDecoder(Store(root).manifest)
    samples = webdataset.WebDataset(urls, shardshuffle=False, **options).map(decoder)
    return {sample["json"]["index"]: sample for sample in samples}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_webdataset_gives_what_a_store_reads(arrays, tars, precision):
    store, samples = Store(arrays[precision]), decoded(tars[precision])
    assert list(samples) == store.images(None)
    for image, sample in samples.items():
        queries = store.plan.query_range(image)
        assert [query["query_id"] for query in sample["json"]["queries"]] == [
            store.plan.query(query).query_id for query in queries
        ]
        here = sample_features(
            sample, range(len(queries)), layer=4, prefix=Store(tars[precision]).prefix(4)
        )
        there = store.read(image, queries, 4)
        assert torch.equal(here.prefix, there.prefix)
        assert torch.equal(here.image_tokens, there.image_tokens)
        assert torch.equal(here.image_embedding, there.image_embedding)
        assert here.image_tokens.dtype == there.image_tokens.dtype
        assert len(here.text_tokens) == len(there.text_tokens)
        for one, other in zip(here.text_tokens, there.text_tokens, strict=True):
            assert torch.equal(one, other)


def test_the_pipeline_of_a_store_can_select_members_and_runs_in_workers(tars):
    store = Store(tars["bfloat16"])
    options = {"select_files": lambda name: name.endswith((".json", ".image_embeddings.npy"))}
    samples = list(sample_pipeline(store, **options))
    assert [sample["json"]["index"] for sample in samples] == store.images(None)
    for sample in samples:
        assert {name for name in sample if not name.startswith("__")} == {
            "json",
            "image_embeddings.npy",
        }
    loader = webdataset.WebLoader(sample_pipeline(store), batch_size=None, num_workers=2)
    assert sorted(sample["json"]["index"] for sample in loader) == store.images(None)


def test_a_pipeline_needs_tars(arrays):
    with pytest.raises(ConfigError, match="lens-cache convert STORE DEST --format webdataset"):
        sample_pipeline(Store(arrays["float32"]))


class Armed:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("extra.pyd", pickle.dumps(Armed()), "is not a member of this store"),
        ("image_embeddings.npy", pickle.dumps(Armed()), "is not the array that the manifest"),
        ("json", b"[1]", "is damaged"),
        ("json", None, "has no JSON"),
    ],
)
def test_a_foreign_member_is_refused_and_not_executed(tmp_path, tars, capfd, name, data, message):
    root = copied(tars["float32"], tmp_path / "store")
    path = root / "samples/000000.tar"
    with tarfile.open(path) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    key = next(iter(members)).partition(".")[0]
    foreign = f"{key}.{name}"
    members = {f"{key}.json": members.pop(f"{key}.json"), foreign: data} | members
    members[foreign] = data
    with tarfile.open(path, "w") as tar:
        for member, content in members.items():
            if content is not None:
                header = tarfile.TarInfo(member)
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
    with pytest.raises(CorruptShardError, match=message):
        decoded(root)
    assert "executed" not in capfd.readouterr().out


def one_step(store, features):
    """Return the loss of the first images and queries, and the gradients of the modules."""
    torch.manual_seed(0)
    model = LensModel(ModelConfig(layer=4), store.frozen()).train()
    loss = LensLoss(LossConfig(), side=store.manifest.side)
    dataset = FeatureDataset(store, 4, LossConfig())
    draws = [Draw(image, (store.plan.query_range(image).start,)) for image in store.images(None)]
    batch = FeatureDataset.collate([dataset.item(draw, features(draw)) for draw in draws])
    total = loss(model(batch.features.to("cpu", torch.float32)), batch.targets).total
    total.backward()
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    return total.item(), gradients


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_step_from_webdataset_is_a_step_from_arrays(arrays, tars, precision):
    """Invariant I4 for training loops that read the tars themselves."""
    store, samples = Store(arrays[precision]), decoded(tars[precision])

    def from_tars(draw):
        return sample_features(samples[draw.image], [0], layer=4, prefix=store.prefix(4))

    def from_arrays(draw):
        return store.read(draw.image, draw.queries, 4)

    here, there = one_step(store, from_tars), one_step(store, from_arrays)
    assert here[0] == there[0]
    assert len(here[1]) == len(there[1]) > 0
    assert all(torch.equal(one, other) for one, other in zip(here[1], there[1], strict=True))


def test_the_example_trains_from_tars(tars):
    printed = run("train_from_tars.py", tars["bfloat16"], 2, env=os.environ).splitlines()
    assert [line.partition(":")[0] for line in printed] == ["step 1", "step 2"]
    assert all(np.isfinite(float(line.split()[-1])) for line in printed)


def test_the_documented_snippets_run(tmp_path, arrays, tars, installed):
    text = (REPOSITORY / "docs/reading-a-store.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 6
    script = "\n".join(blocks)
    for name, value in (("STORE", arrays["int8"]), ("TARS", tars["int8"]), ("LAYER", 4)):
        script = script.replace(name, str(value))
    (tmp_path / "snippets.py").write_text(script)
    command = [sys.executable, str(tmp_path / "snippets.py")]
    done = subprocess.run(command, env=installed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "(64, 264)" in done.stdout
