"""What ``report.py`` prints and plots: finished runs, published rows, and the masks and zeros of models."""
