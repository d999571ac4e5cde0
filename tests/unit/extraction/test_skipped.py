from lens_cache.plan.plan import Plan
from pipelines.extraction.skipped import skipped_lines
from tests.support.lisa_sets import only_fake_kinds, write_set
from tests.support.pictures import write_coco


def test_a_plan_of_many_images_ends_and_lists_the_bad_ones(tmp_path, lens_cache):
    root = write_coco(tmp_path / "coco", num_images=70)
    for number in (3, 31, 32, 40, 69):
        (root / f"train2017/{number:04d}.png").write_bytes(b"")
    options = ["--set", f"data.root={root}", "--set", "data.split=train2017"]
    code, out, _ = lens_cache("plan", tmp_path / "store", *options)
    lines = out.splitlines()
    table = tmp_path / "store/plan/quarantine.parquet"
    assert code == 0
    assert lines[0].startswith("planned 65 images and ")
    assert lines[1] == f"skipped 5 files or queries; the whole list is {table}"
    assert [line.split(",")[0].strip() for line in lines[2:]] == [
        f"train2017/{number:04d}.png" for number in (3, 31, 32, 40, 69)
    ]
    assert all("the file is empty" in line for line in lines[2:])
    plan = Plan.load(tmp_path / "store/plan")
    assert plan.quarantine.num_rows == 5
    assert skipped_lines(plan.quarantine.slice(0, 0), "there") == []


def test_only_the_first_few_are_shown(tmp_path, lens_cache):
    root = write_coco(tmp_path / "coco", num_images=10)
    for number in range(8):
        (root / f"train2017/{number:04d}.png").unlink()
    options = ["--set", f"data.root={root}", "--set", "data.split=train2017"]
    lines = lens_cache("plan", tmp_path / "store", *options)[1].splitlines()
    assert len(lines) == 8
    assert lines[-1] == "  ... and 3 more"


def test_images_to_test_on_are_counted_apart(tmp_path, monkeypatch, lens_cache):
    only_fake_kinds(monkeypatch)
    one = [["Thing"]]
    records = [
        ("a.png", 1, one, "short"),
        ("b.png", 2, one, "short"),
        ("c.png", None, one, "short"),
    ]
    write_set(tmp_path, "ade20k", records)
    write_set(tmp_path, "reason_seg", [("t.png", 1, one, "long")], "test")
    settings = {"kind": "lisa", "root": tmp_path, "lisa.sets": "[ade20k]"}
    settings |= {"lisa.exclude_eval_images": "true", "lisa.draws": 40}
    options = [word for k, v in settings.items() for word in ("--set", f"data.{k}={v}")]
    code, out, _ = lens_cache("plan", tmp_path / "store", *options)
    assert code == 0
    assert "planned 1 images and " in out
    assert " of 40 draws into " in out
    assert "skipped 1 training images that benchmarks test on" in out
    assert "c.png, image with 1 query: No such file or directory" in out


def test_data_check(tmp_path, monkeypatch, lens_cache):
    only_fake_kinds(monkeypatch)
    write_set(tmp_path, "ade20k", [("a.png", 1, [["Thing"]], "short")])
    code, out, _ = lens_cache("data", "check", tmp_path, "--sets", "ade20k")
    assert (code, out.splitlines()[-1]) == (0, f"{tmp_path}: good")
    code, out, _ = lens_cache("data", "check", tmp_path, "--sets", "ade20k,refcoco|val", "--json")
    assert code == 1
    assert '"good": false' in out
    assert lens_cache("data", "check", tmp_path, "--sets", "nope")[0] == 2
