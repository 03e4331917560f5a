"""Compiled hot path with a pure-Python twin.

Each module here is a dispatcher over ``_x_c`` (Cython) and ``_x_py`` (the readable reference): same names, same
results, same exceptions. Numbers and bytes go in, numbers and bytes come out. Only ``h1`` knows asyncio.
"""
