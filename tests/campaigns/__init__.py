"""Programs that try to break the trainer in very many ways; `python -m tests.campaigns NAME` runs one.

A campaign is a module here with a value `CAMPAIGN`. Its cases follow from a seed and their number, so each failure is
printed with the command that repeats it. tests/test_campaigns.py runs a few cases of each; docs/reliability.md has the
figures of whole campaigns.
"""
