"""Artifacts that are larger than any that is written here are not read."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import mlflow
import pytest

from mlflow_compress.errors import CompressError
from mlflow_compress.mlflow_plugin.pages.caller import Caller
from mlflow_compress.tracking import artifacts
from mlflow_compress.tracking.artifacts import MOST_BYTES, read_small


def test_the_size_is_asked_for_before_it_is_fetched(tmp_path, monkeypatch):
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/m.db")
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "a").as_uri())
    run = client.create_run(experiment).info.run_id
    client.log_text(run, "{}", "sub/table.json")
    assert read_small(client, run, "sub/table.json") == "{}"
    with pytest.raises((FileNotFoundError, mlflow.MlflowException)):
        read_small(client, run, "none.json")
    monkeypatch.setattr(artifacts, "MOST_BYTES", 1)
    monkeypatch.setattr(client, "download_artifacts", None)
    with pytest.raises(ValueError, match=r"sub/table\.json of run .* has 2 bytes, at most 1 do"):
        read_small(client, run, "sub/table.json")


class Endless(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        if "told" in self.path:
            self.send_header("Content-Length", str(MOST_BYTES + 1))
        self.end_headers()
        try:
            while True:
                self.wfile.write(b" " * 65536)
        except OSError:
            self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.mark.parametrize("path", ["told.json", "report.json"])
def test_a_page_reads_no_more_than_there_may_be(path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            caller = Caller(f"http://127.0.0.1:{server.server_port}", {})
            with pytest.raises(CompressError, match=f"{path} of run r is larger than 8 MiB"):
                caller.artifact("r", path)
        finally:
            server.shutdown()
