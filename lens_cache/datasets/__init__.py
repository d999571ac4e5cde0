"""Dataset adapters: read the files of a dataset as images, instructions and masks.

``base`` defines the records, ``registry.open_dataset`` opens the adapter of a ``data.kind``
(``coco``, ``huggingface``, ``jsonl``, ``lisa``), ``source`` carries a dataset to other processes.
``mask_parsing`` reads masks, ``questions`` words the question of an instruction.
"""
