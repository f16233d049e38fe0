"""``python -m daskmlr``."""

from daskmlr.cli import main

main()
