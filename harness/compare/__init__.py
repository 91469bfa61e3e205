"""Run folders to numbers: what is read are files, and nothing here needs torch."""
