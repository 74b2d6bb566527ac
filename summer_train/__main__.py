"""Run the command line as `python -m summer_train`."""

from summer_train.cli import main

main()
