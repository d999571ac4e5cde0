"""The frozen models: the published LLaVA and SAM, run only as far as LENS needs them."""
