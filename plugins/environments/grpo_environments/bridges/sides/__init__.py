"""What runs beside a bridged library: each file is loaded by ``worker.py`` in that library's interpreter.

Nothing here may import what that interpreter lacks: only the standard library and the bridged one.
"""
