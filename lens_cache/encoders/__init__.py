"""The frozen models: LLaVA and SAM as they are published, run only as far as LENS needs them."""
