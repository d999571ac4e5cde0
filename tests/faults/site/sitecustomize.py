"""Spoils a process from inside; Python imports this by itself at its start.

``LENS_FAULTS`` is a JSON object: ``slow`` (seconds that decoding an image takes longer), ``gate``
(a file: until it is there, a process decodes only nine images), ``skew`` (the clock is wrong by up
to so many seconds, otherwise in every process), ``oom`` (two numbers: after so many
attentions of a process, so many run out of memory), ``device`` (a file and a number: so many
attentions of all processes fail with their device; the file counts them).
"""

import importlib.abc
import importlib.machinery
import json
import os
import pathlib
import random
import sys
import time

faults = json.loads(os.environ.get("LENS_FAULTS", "{}"))


class Spoiler(importlib.abc.MetaPathFinder):
    """Changes a module as soon as it is loaded."""

    def __init__(self, changes):
        self.changes = changes

    def find_spec(self, name, path, target=None):
        if name not in self.changes:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            self.changes[name](module)

        spec.loader.exec_module = exec_module
        return spec


def slow_images(reading):
    read, done = reading.read_image, []

    def read_image(data):
        time.sleep(faults.get("slow", 0))
        while "gate" in faults and len(done) >= 9 and not pathlib.Path(faults["gate"]).exists():
            time.sleep(0.05)
        done.append(data)
        return read(data)

    reading.read_image = read_image


def wrong_dates(module):
    """The module's own name for ``datetime`` tells the wrong time; everybody else's is right."""
    import datetime
    import types

    class Wrong(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime.fromtimestamp(time.time(), tz)

    module.datetime = types.SimpleNamespace(datetime=Wrong, UTC=datetime.UTC)


def little_memory(functional):
    import torch

    attention, (after, times) = functional.scaled_dot_product_attention, faults["oom"]
    calls = iter(range(1 << 60))

    def scaled_dot_product_attention(*arguments, **options):
        if after <= next(calls) < after + times:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return attention(*arguments, **options)

    functional.scaled_dot_product_attention = scaled_dot_product_attention


def broken_device(functional):
    import torch

    attention, (file, times) = functional.scaled_dot_product_attention, faults["device"]

    def scaled_dot_product_attention(*arguments, **options):
        with open(file, "a+") as count:
            count.seek(0)
            if len(count.read()) < times:
                count.write("x")
                raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")
        return attention(*arguments, **options)

    functional.scaled_dot_product_attention = scaled_dot_product_attention


changes = {}
if faults.get("slow") or faults.get("gate"):
    changes["lens_cache.extraction.image_reader"] = slow_images
if faults.get("skew"):
    by = random.uniform(-1, 1) * faults["skew"]
    right, right_ns = time.time, time.time_ns
    time.time = lambda: right() + by
    time.time_ns = lambda: right_ns() + int(by * 1e9)
    changes["lens_cache.store.run_log"] = changes["pipelines.provenance"] = wrong_dates
if faults.get("oom"):
    changes["torch.nn.functional"] = little_memory
if faults.get("device"):
    changes["torch.nn.functional"] = broken_device
sys.meta_path.insert(0, Spoiler(changes))
