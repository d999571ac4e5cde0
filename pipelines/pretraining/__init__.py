"""Training the tiny LLaVA and the tiny SAM of the package, from nothing, on scenes of shapes.

    python -m pipelines.pretraining FOLDER

The stages run one after another and may be run alone: ``scenes``, then ``tower`` and ``sam``, then
``llava``.
"""
