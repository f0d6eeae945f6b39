"""`python -m journeyman` is the `journeyman` command."""

from journeyman.cli import main

main()
