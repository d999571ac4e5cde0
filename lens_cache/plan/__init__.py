"""The plan: the images and questions of a store, made from a dataset before any model runs.

* ``plan.Plan`` is the result: tables of images, queries and skipped entries. Start there.
  ``planned`` has one row of it as an object.
* ``build.build_plan`` makes it: ``rows`` turns records of a dataset into rows, chunk by chunk, and
  ``assembly`` joins the chunks.
* ``schema`` has the columns of the tables and their Parquet form.
* ``lisa_draws`` restricts a plan to the draws of LISA's sampler; ``exclusion`` finds the images
  that benchmarks test on; ``lisa_check`` is the check of LISA's folder (``data check``).
"""
