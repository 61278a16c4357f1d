"""Puts tests/ on the path (pytest does it for the folder of a conftest.py), for `from goldens import ...` in every test folder."""
