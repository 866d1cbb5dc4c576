"""The first exo's downloads. What it calls a pool are the models that are here, or could be."""

from exo.wire import downloads
from exo.wire.openapi.operations import ID, Json, as_json, asking, reading, ref, stream

SCHEMAS: tuple[type, ...] = (
    downloads.DownloadBody,
    downloads.DownloadAnswer,
    downloads.InitialModel,
    downloads.PoolModel,
    downloads.RepoProgress,
)


def paths() -> Json:
    progress = reading("progress", "Downloads under way", downloads.RepoProgress)
    initial = reading("initial", "The models that are here or could be, with names", downloads.InitialModel)
    for operation, of in ((progress, downloads.RepoProgress), (initial, downloads.InitialModel)):
        schema = {"type": "object", "additionalProperties": ref(of)}
        operation["responses"]["200"]["content"] = {"application/json": {"schema": schema}}
    pool = reading("pool", "The models that are here or could be", downloads.PoolModel)
    pool["responses"]["200"]["content"] = stream(
        "text/event-stream",
        "Events whose data is an object with one model's state under its id, the last one [DONE].",
        ref(downloads.PoolModel),
    )
    answer = as_json(downloads.DownloadAnswer)
    download = asking("download", "Download a model in the background", downloads.DownloadBody, answer)
    return {
        "/download": {"post": download},
        "/download/{id}": {
            "delete": reading(
                "stopDownload",
                "Stop a download, or forget that it failed; what has come is kept",
                downloads.DownloadAnswer,
                403,
                404,
            ),
            "parameters": [ID],
        },
        "/v1/download/progress": {"get": progress},
        "/modelpool": {"get": pool},
        "/initial_models": {"get": initial},
        "/models/{id}": {
            "delete": reading("delete", "Take a model off the disk", downloads.DownloadAnswer, 403, 404),
            "parameters": [ID],
        },
    }
