"""Files by address, such as s3://bucket/a.jpg, through fsspec's file systems."""

from __future__ import annotations

from typing import Any

_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "az": "adlfs",
}
"""Scheme of an address -> the package that brings its file system, where that is not part of fsspec."""


def file_system(address: str) -> tuple[Any, str]:
    """The file system of an address (an ``fsspec.AbstractFileSystem``), and the address's path within it.

    Raises:
        ImportError: the package for this kind of address is not installed; the message has the line that installs it.
        ValueError: no file system is known for it.
    """
    scheme = address.partition("://")[0].lower()
    try:
        import fsspec

        found, path = fsspec.url_to_fs(address)
    except ImportError as error:
        package = _PACKAGES.get(scheme)
        raise ImportError(f"{address}: {f'pip install {package}' if package else error}") from error
    except ValueError as error:
        raise ValueError(f"{address}: {error}") from error
    return found, path


def fetch(address: str) -> bytes:
    """The bytes behind an address, in one request where the file system allows it.

    Raises:
        ImportError, ValueError: see :func:`file_system`.
        OSError: they could not be read.
    """
    files, path = file_system(address)
    try:
        return bytes(files.cat_file(path))
    except OSError:
        raise
    except Exception as error:  # clients of object stores have errors of their own
        raise OSError(f"{address}: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from error
