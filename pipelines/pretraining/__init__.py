"""Training the tiny LLaVA and the tiny SAM of the package, from nothing, on scenes of shapes.

``lens-cache pretrain FOLDER`` paints the scenes and runs the stages: ``tower``, ``sam``, ``llava``.
"""
