import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipelines.sweeps import one_run, processes
from pipelines.sweeps.processes import Processes, default_jobs, visible_gpus
from tests.support import REPOSITORY


def run(pool, log, statement):
    """Run a statement in a process of the pool, with a module of the standard library."""
    words = ["-n", "1", "-r", "1", statement]
    return pool.run("timeit", words, log=log, environment={"EXTRA": "e"}, pass_fds=())


@pytest.mark.parametrize("jobs", [2, 4])
def test_each_process_sees_one_gpu(tmp_path, monkeypatch, jobs):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,7")
    assert (visible_gpus(), default_jobs()) == (["3", "7"], 2)
    pool, logs = Processes(jobs), [tmp_path / str(number) for number in range(jobs)]
    # Files make all processes run at the same time.
    together = (
        f"import os, pathlib, time; pathlib.Path(r'{tmp_path}', str(os.getpid()) + '.up').touch()\n"
        f"while len(list(pathlib.Path(r'{tmp_path}').glob('*.up'))) < {jobs}: time.sleep(0.01)\n"
        "print('gpu', os.environ['CUDA_VISIBLE_DEVICES'], os.environ['EXTRA'])"
    )
    with ThreadPoolExecutor(jobs) as threads:
        codes = list(threads.map(lambda log: run(pool, log, together), logs))
    assert codes == [0] * jobs
    seen = sorted(log.read_text().splitlines()[0] for log in logs)
    assert seen == sorted(["gpu 3 e", "gpu 7 e"] * (jobs // 2))


def test_without_a_gpu_there_is_one_run_per_core(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(processes.os, "cpu_count", lambda: 5)
    assert (visible_gpus(), default_jobs()) == ([], 5)


def test_a_folder_that_has_a_package_of_the_same_name_is_not_imported(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines/__init__.py").write_text("print('the wrong package')")
    monkeypatch.chdir(tmp_path)
    arguments = [str(tmp_path / "run"), str(tmp_path / "store"), "test"]
    log = tmp_path / "log"
    code = Processes(1).run(one_run.__name__, arguments, log=log, environment={}, pass_fds=())
    assert code == 1
    assert log.read_text().startswith("lens-cache: ")


def test_a_stopped_pool_leaves_no_process(tmp_path):
    pool, started = Processes(1), tmp_path / "started"
    sleep = f"import pathlib, time; pathlib.Path(r'{started}').touch(); time.sleep(600)"
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(run, pool, tmp_path / "first", sleep)
        while not started.exists() and not first.done():
            pass
        pool.stop()
        assert first.result() == -signal.SIGTERM
        assert threads.submit(run, pool, tmp_path / "later", sleep).result() == -signal.SIGTERM


def test_the_interpreter_is_the_same(tmp_path):
    log = tmp_path / "log"
    assert run(Processes(1), log, "import sys; print(sys.executable)") == 0
    assert log.read_text().splitlines()[0] == sys.executable
