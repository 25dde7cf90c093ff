"""Layer 1: the only code that runs beside student code.

It imports the standard library, torch, msgspec and its siblings, and holds nothing secret: no tests, no reference, no expected values.
Of it the trusted side imports `wire` alone.
"""
