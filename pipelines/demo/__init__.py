"""The demo commands: drawn shapes, and photographs of your own."""
