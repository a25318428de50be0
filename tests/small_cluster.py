"""A Ray cluster of two nodes on this machine, pictures that it fetches from here, and drivers to be killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[1] / "src"
STORE_BYTES = 100_000_000  # Of each node, so that both have 200 MB
DEADLINE = 300.0  # Seconds after which a driver is taken for hung


@contextmanager
def picture_server(files: dict[str, bytes], seconds: float) -> Iterator[tuple[str, Counter[str]]]:
    """An address below which the files are, each served after so many seconds; and how often each was asked for."""
    asked: Counter[str] = Counter()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.strip("/")
            with lock:
                asked[name] += 1
            time.sleep(seconds)
            data = files.get(name)
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


class TwoNodes:
    """Two nodes of one core each, of which the second may be killed; the first is Ray's head."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        # Short, since the names of sockets are.
        self.folder = tempfile.mkdtemp(prefix="hr")
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 1,
                "object_store_memory": STORE_BYTES,
                "temp_dir": self.folder,
                "include_dashboard": False,
            },
        )
        self.second: Any = None
        self.add_node()

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add_node(self) -> None:
        """Start the second node."""
        self.second = self.cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)

    def kill_node(self) -> None:
        """SIGKILL for the second node."""
        os.kill(_raylet(self.second), signal.SIGKILL)

    def replace_node(self) -> None:
        """Another second node in the place of the one that was killed."""
        self.cluster.remove_node(self.second, allow_graceful=False)
        self.add_node()

    def workers(self) -> list[int]:
        """Processes that predict."""
        found = []
        for node in (self.cluster.head_node, self.second):
            raylet = _raylet(node)
            for pid in Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split():
                try:
                    name = Path(f"/proc/{pid}/cmdline").read_bytes()
                except OSError:
                    continue
                if name.startswith(b"ray::MapWorker(MapBatches(Worker"):
                    found.append(int(pid))
        return found

    def stop(self) -> None:
        """End all processes that were started here."""
        self.cluster.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)


def _raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def start_driver(arguments: list[str], address: str) -> subprocess.Popen[str]:
    """``hrformer`` on the cluster, in a process of its own."""
    command = [sys.executable, "-m", "hrformer", *arguments, "--engine", "ray", "--ray-address", address]
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """All rows of a job's results, by id."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [pq.read_table(file) for file in sorted((folder / "results").glob("*.parquet"))]
    return sorted(pa.concat_tables(tables).to_pylist(), key=lambda row: row["id"])


def finished_uris(folder: Path) -> set[str]:
    """The pictures that a job has finished so far."""
    import pyarrow.parquet as pq

    bases = {file.stem for file in (folder / "finished").glob("*/*.parquet") if not file.stem.endswith(".pending")}
    files = [file for file in (folder / "results").glob("*.parquet") if file.name.rpartition("-")[0] in bases]
    return {uri for file in files for uri in pq.read_table(file, columns=["uri"])["uri"].to_pylist()}
