"""Episodes in other people's formats: exporters, importers, and what each format cannot keep.

One file a format and direction; heavy libraries are imported inside, when a format is asked for.
"""
