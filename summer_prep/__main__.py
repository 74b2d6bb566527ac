"""Run the command line as `python -m summer_prep`."""

from summer_prep.cli import main

main()
