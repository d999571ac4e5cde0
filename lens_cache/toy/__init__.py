"""A world of drawn shapes with exact masks, small enough to train a multimodal LLM on.

``scene`` samples the content of an image, ``drawing`` paints it, ``language`` describes it.
``instructions`` makes the instructions for LENS, ``questions`` the questions and answers on which
the MLLM is trained. ``world`` writes images and instructions in the layout of the ``jsonl``
dataset. ``small_llava`` builds a LLaVA of any size; ``trained_models`` has the sizes of the two
models that come with the package, ``random_checkpoints`` writes models with random weights.
"""
