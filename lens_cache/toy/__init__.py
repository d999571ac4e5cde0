"""A world of drawn shapes, small enough to train a multimodal LLM on, with exact masks.

``scene`` says what is in a picture, ``drawing`` paints it, ``language`` describes it,
``questions`` asks about it in words (for the MLLM), ``instructions`` asks for masks (for LENS), and
``files`` writes it all to disk in the layout of the ``jsonl`` dataset.
"""
