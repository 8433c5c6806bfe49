"""Jobs: the work behind the pieces of a run, as top-level functions of paths and plain values.

A job makes its piece whole or not at all; what it has to say goes into the facts of the piece.
"""
