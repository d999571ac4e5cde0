"""The plan: which images and questions a store holds. Made before any model runs."""
