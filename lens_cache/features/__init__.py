"""The contract between the two phases: features, and the frozen parts that go with them."""
