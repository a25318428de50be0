"""One process that answers over HTTP: models behind a batcher, an API, and a page to drop pictures on.

Whole as an extra: ``pip install 'hrformer[serve]'``.
"""
