"""The demo: on drawn shapes, and on your own photographs."""
