"""Families: a file for each name of `general.architecture` that runs ("-" is "_" there), some made of another one.
Nothing outside of this folder asks which it is."""
