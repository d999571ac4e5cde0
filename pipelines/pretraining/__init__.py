"""Train the package's tiny LLaVA and tiny SAM from random weights on scenes of shapes.

``lens-cache pretrain FOLDER`` paints the scenes and runs the stages ``tower``, ``sam`` and
``llava``.
"""
