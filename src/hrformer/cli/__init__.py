"""The commands of the program ``hrformer``: parse, call, print."""
