"""The episode log: writer, reader, bit-exact replay and reports.

Import what you need from its modules; this package root stays empty so that the recorder process starts fast.
"""
