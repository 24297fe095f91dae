"""``make screenshots``: the pictures of docs/ui.md, of the demo's store, into docs/images/.

python -m tests.pages.screenshots examples/lenet_mnist/out/mlflow.db
"""

import io
import shutil
import sys
import tempfile
from pathlib import Path

from mlflow import MlflowClient
from PIL import Image

from tests.pages.driving import browser
from tests.servers import mlflow_server

IMAGES = Path(__file__).parents[2] / "docs" / "images"
NAME = "lenet-edge"
MODE = "?workflowType=machine_learning"
_MOST_BYTES = 100_000


def keep(page, name, **options):
    """Write what the tab shows as WebP."""
    picture = Image.open(io.BytesIO(page.screenshot(**options))).convert("RGB")
    path = IMAGES / f"{name}.webp"
    picture.save(path, quality=70, method=6)
    size = path.stat().st_size
    assert size < _MOST_BYTES, f"{path} has {size} bytes"
    print(path.name, size)


def take(address, tab):
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name(NAME).experiment_id
    (search, *_) = client.search_runs([experiment], "tags.`compress.kind` = 'search'")
    version = client.get_model_version_by_alias(NAME, "browser").version
    page = tab(viewport={"width": 1280, "height": 860}).open(
        f"{address}/compress/models/{NAME}", "#layers-figure .main-svg"
    )
    page.wait_for_timeout(1000)
    keep(page, "compress")
    run = f"experiments/{experiment}/runs/{search.info.run_id}"
    for name, path, until, width in (
        ("search-run", run, "table:has-text('drop, points')", 1500),
        ("models-tab", f"experiments/{experiment}/models", "text=prune 0,9", 2100),
        ("registered", f"models/{NAME}", "table:has-text('raspberry-pi-4')", 1500),
        ("version", f"models/{NAME}/versions/{version}", "text=compress.rate", 1500),
    ):
        size = {"width": width, "height": 760}
        page = tab(viewport=size).open(f"{address}/#/{path}{MODE}", until)
        page.wait_for_timeout(3000)
        # MLflow's assistant takes a third of the window
        assistant = page.locator("button[aria-label*='lose']")
        if assistant.count():
            assistant.last.click()
        page.wait_for_timeout(1500)
        keep(page, name)


def main(database):
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(database, folder)
        store = f"sqlite:///{folder}/{Path(database).name}"
        with (
            mlflow_server(Path(folder), store, "--app-name", "compress") as address,
            browser() as tab,
        ):
            take(address, tab)


if __name__ == "__main__":
    main(sys.argv[1])
