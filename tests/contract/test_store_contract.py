"""What every store must do, in both formats and on every storage."""

import dataclasses
import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lens_cache.config.extract import ExtractConfig
from lens_cache.errors import StoreError, StoreMismatchError
from lens_cache.extraction.extractor import ShardExtractor
from lens_cache.store.folder import StoreFolder
from lens_cache.store.formats import arrays_of_objects, open_features, open_writers
from lens_cache.store.io.remote import store_path
from lens_cache.store.layout import GROUPS
from lens_cache.store.store import Store
from lens_cache.store.verify import verify_store
from lens_cache.store.webdataset.stream import SampleStream
from pipelines.extraction.runners import run_in_process
from pipelines.extraction.verify import repair_store
from tests.support.data import own_data, photos, truncated
from tests.support.s3 import BUCKET
from tests.support.stores import Quiet, extracted, flip, settings

FORMATS = ("zarr", "webdataset")
STORAGES = ("file", "memory", "s3")
numbers = itertools.count()


class Interruption(Exception):
    """Ends an extraction in the middle."""


def files(root):
    """Return every file of a store by name, on any storage, but the records of runs."""
    found = {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }
    return {n: data for n, data in found.items() if not n.startswith(("runs/", ".lo", ".le"))}


def assert_same_files(root, expected):
    found = files(root)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


def features(root):
    """Return a reader of parts, at random in every format and on every storage."""
    return open_features(root, Store(root).catalogue, fetch=True)


def parts(root, images):
    """Return every array's part of some images, and the prefixes, as bytes."""
    reader = features(root)
    catalogue = reader.catalogue
    found = {
        (name, image): reader.part(name, image).tobytes()
        for group in GROUPS
        for name in catalogue.image_arrays(group)
        for image in images
    }
    prefixes = catalogue.prefixes("hidden_states")
    return found | {(name, None): reader.prefix(name).tobytes() for name in prefixes}


@pytest.fixture(params=itertools.product(FORMATS, STORAGES), ids="-".join, scope="module")
def kind(request):
    """A format and a storage."""
    return request.param


@pytest.fixture(scope="module")
def new_root(kind, tmp_path_factory, request):
    """Return a function that gives a place on the storage where there is nothing yet."""
    storage = kind[1]
    if storage == "s3":
        request.getfixturevalue("s3")

    def make():
        name = f"contract-{next(numbers)}"
        if storage == "file":
            return tmp_path_factory.mktemp("contract") / name
        bucket = BUCKET if storage == "s3" else "stores"
        return store_path(f"{storage}://{bucket}/{name}")

    return make


@pytest.fixture(scope="module")
def config(kind, tiny_coco, tiny_checkpoints) -> ExtractConfig:
    made = settings(tiny_coco, tiny_checkpoints)
    return dataclasses.replace(made, store=dataclasses.replace(made.store, format=kind[0]))


@pytest.fixture(scope="module")
def whole(new_root, config):
    """A complete store of five images in three shards; do not write into it."""
    root = new_root()
    extracted(root, config)
    return root


@pytest.fixture
def copy(whole, new_root):
    """A copy of the complete store, to be spoilt."""
    root = new_root()
    for name, data in files(whole).items():
        path = root / name
        if isinstance(root, type(store_path("."))):
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    # Repairing a manifest needs its spare, which is with the records of runs.
    StoreFolder(root).save_spare_manifest()
    return root


class TestStoreContract:
    def test_every_array_of_every_group_comes_back_bit_for_bit(self, whole, tiny_store):
        images = range(5)
        expected = parts(tiny_store, images)
        assert len(expected) == 5 * 3 + 1
        assert parts(whole, images) == expected

    def test_images_and_queries_are_in_the_order_of_the_plan(self, kind, whole, tiny_store):
        ours, theirs = Store(whole), Store(tiny_store)
        assert ours.images(None) == [0, 1, 2, 3, 4]
        assert ours.plan.digest() == theirs.plan.digest()
        for mine, other in zip(ours.questions.token_ids, theirs.questions.token_ids, strict=True):
            np.testing.assert_array_equal(mine, other)
        if kind[0] == "webdataset":
            stream = SampleStream(whole, ours.catalogue, ["image_embeddings"])
            read = [list(stream.read(shard, ours.catalogue.images(shard))) for shard in range(3)]
            assert [image for shard in read for image, _ in shard] == [0, 1, 2, 3, 4]

    def test_a_root_may_be_a_string(self, whole):
        assert Store(str(whole)).images(None) == Store(whole).images(None)
        assert verify_store(str(whole)).problems == []
        assert StoreFolder(str(whole)).committed("hidden_states") == {0, 1, 2}

    def test_many_readers_read_the_same(self, whole):
        expected = parts(whole, range(5))
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: parts(whole, range(5)), range(4)))
        assert found == [expected] * 4

    def test_a_reader_never_sees_an_uncommitted_shard_and_extraction_resumes(
        self, new_root, config, whole
    ):
        def one_shard(job, ledger):
            extractor = ShardExtractor(job.root, job.config, job.groups, "cpu")
            task = ledger.next()
            job.on_report(extractor.extract(task.shard, task.groups))
            raise Interruption

        root = new_root()
        with pytest.raises(Interruption):
            extracted(root, config, runner=one_shard)
        with pytest.raises(StoreError, match="has not finished"):
            Store(root)
        assert Store(root, incomplete=True).images(None) == [0, 1]
        summary = extracted(root, config)
        assert [report.shard for report in summary.reports] == [1, 2]
        assert_same_files(root, files(whole))

    def test_a_partly_written_shard_leaves_no_file(self, copy, whole):
        catalogue = Store(copy).catalogue
        values = {
            name: features(copy).part(name, 2).tobytes()
            for name in catalogue.image_arrays("image_embeddings")
        }
        with (  # noqa: PT012
            pytest.raises(Interruption),
            open_writers(copy, catalogue, 1, ["image_embeddings"]) as writers,
        ):
            writers["image_embeddings"].add(catalogue.image_id(2), values)
            raise Interruption
        found = {name: data for name, data in files(copy).items() if not name.startswith("tmp/")}
        assert found == files(whole)

    @pytest.mark.parametrize(
        "name", ["layer_4/image_tokens", "layer_4/text_tokens", "image_embeddings"]
    )
    def test_a_flipped_byte_names_shard_and_image(self, copy, whole, name):
        catalogue = Store(copy).catalogue
        group = "image_embeddings" if name == "image_embeddings" else "hidden_states"
        (path,) = [
            copy / path
            for path, names in arrays_of_objects(catalogue.manifest, group, 1).items()
            if name in names
        ]
        part = features(copy).part(name, 3).tobytes()
        flip(path, at=path.read_bytes().index(part[:64]) + 9)
        (problem,) = verify_store(copy).problems
        assert (problem.group, problem.shard) == (group, 1)
        assert f"damaged: {catalogue.image_id(3)}" in problem.what
        assert catalogue.image_id(2) not in problem.what

    def test_other_settings_are_refused_and_nothing_changes(self, copy, config):
        before = files(copy)
        llava = dataclasses.replace(config.encoders.llava, layers=(5,))
        encoders = dataclasses.replace(config.encoders, llava=llava)
        with pytest.raises(StoreMismatchError, match=r"layers is \[4\] in the store and \[5\]"):
            extracted(copy, dataclasses.replace(config, encoders=encoders))
        assert files(copy) == before

    def test_an_image_that_fails_is_quarantined_and_the_others_are_stored(
        self, new_root, config, tmp_path
    ):
        data = own_data(tmp_path / "data", photos(3) | {"1.png": truncated()})
        root = new_root()
        summary = extracted(root, dataclasses.replace(config, data=data))
        assert {(q.group, q.path) for q in summary.quarantined} == {(g, "1.png") for g in GROUPS}
        store = Store(root)
        assert (store.images(None), store.num_quarantined) == ([0, 2], 1)
        assert len(parts(root, [0, 2])) == 2 * 3 + 1
        (record,) = StoreFolder(root).quarantined("hidden_states").values()
        assert (record.stage, record.image_id) == ("read", store.plan.image(1).image_id)
        assert verify_store(root).problems == []

    @pytest.mark.parametrize("groups", [("image_embeddings",), GROUPS])
    def test_a_forgotten_shard_is_extracted_again_to_the_same_bytes(
        self, copy, whole, config, groups
    ):
        for group in groups:
            StoreFolder(copy).forget_shard(group, 1)
        assert StoreFolder(copy).todo(3) == {1: groups}
        if groups == GROUPS:
            repair_store(copy, (), Quiet(), runner=run_in_process)
        else:
            summary = extracted(copy, config)
            assert [report.shard for report in summary.reports] == [1]
        assert_same_files(copy, files(whole))
