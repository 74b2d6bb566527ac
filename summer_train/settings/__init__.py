"""What decides the numbers of a run, where it runs, lists of a study, settings from files."""
