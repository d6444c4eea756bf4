"""Families: a file for each name of `general.architecture` that runs ("-" is "_" there). No other file names one."""
