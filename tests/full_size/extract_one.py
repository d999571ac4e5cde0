"""Extract one photograph in a process of its own; print what was loaded and the peak memory."""

import json
import sys
import time
from pathlib import Path

import torch

from lens_cache.config.extract import ExtractConfig
from lens_cache.config.load import load_config
from lens_cache.extraction.extractor import ShardExtractor
from pipelines.extraction.extract import extract
from pipelines.extraction.ledger import Ledger


class Silent:
    def progress(self, what, done, total):
        pass

    def message(self, text):
        print(text, file=sys.stderr)


def main(store: Path, data: Path, checkpoints: Path) -> None:
    config = load_config(
        ExtractConfig,
        None,
        [
            f"data.root={data}",
            "data.split=train2017",
            "data.limit=1",
            f"encoders.root={checkpoints}",
            "encoders.llava.checkpoint=llava",
            "encoders.sam.checkpoint=sam.pth",
            f"workers.threads_per_worker={torch.get_num_threads()}",
        ],
    )
    found = {}

    def runner(run, ledger: Ledger) -> None:
        began = time.perf_counter()
        extractor = ShardExtractor(run.root, run.config, run.groups, "cpu")
        found["load_seconds"] = time.perf_counter() - began
        runners = extractor._engine._runners
        language = runners["hidden_states"].model._encoder.model
        sam = runners["image_embeddings"].model._encoder.model
        found["decoder_layers"] = len(language.language_model.layers)
        found["parameters"] = sum(p.numel() for p in language.parameters())
        found["sam_parameters"] = sum(p.numel() for p in sam.parameters())
        while (task := ledger.next()) is not None:
            report = extractor.extract(task.shard, task.groups)
            found["seconds"] = report.seconds
            run.on_report(report)
            ledger.done(task)

    extract(store, config, Silent(), runner)
    status = Path("/proc/self/status").read_text()
    found["peak_bytes"] = int(status.split("VmHWM:")[1].split()[0]) * 1024
    print(json.dumps(found))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
