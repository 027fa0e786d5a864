"""Flags, environment and secret files, checked and summed up in one Config."""
