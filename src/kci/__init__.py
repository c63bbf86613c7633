"""kci: Kingsoft Cloud Container Instance joined to Kubernetes by a virtual node, both sides in Python.

docs/architecture.md draws the programs and the two flows; each package's docstring says what it
owns, what it may import and what it may touch.
"""

__version__ = "0.1.0"
