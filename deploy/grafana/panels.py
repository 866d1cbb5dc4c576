"""What the dashboard shows: rows of panels, and the queries of each.

`$node` and `$model` are chosen above the panels. The first row has the ten panels that the first
exo-rkllama's figures were for.
"""

from collections.abc import Sequence
from typing import NamedTuple

_EXO = 'job="exo", node=~"$node"'
_MODEL = f'{_EXO}, model=~"$model"'
_NPU = 'job="rkllama", node=~"$node"'


class Query(NamedTuple):
    """What is drawn, and what each line is called."""

    expr: str
    legend: str = "__auto"


class Panel(NamedTuple):
    title: str
    what: str
    queries: Sequence[Query]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    stacked: bool = False
    most: float | None = None


class Row(NamedTuple):
    title: str
    panels: Sequence[Panel]


def rate(metric: str, labels: str) -> str:
    return f"rate({metric}{{{labels}}}[$__rate_interval])"


def quantiles(metric: str, labels: str, *which: float, by: str = "") -> list[Query]:
    """Those of a histogram, in one line each, or one for each value of the label `by`."""
    grouped = f"le, {by}" if by else "le"
    named = f"{{{{{by}}}}} " if by else ""
    return [
        Query(
            f"histogram_quantile({each}, sum by ({grouped}) ({rate(f'{metric}_bucket', labels)}))",
            f"{named}{each:.0%}",
        )
        for each in which
    ]


OVERVIEW = Row(
    "Overview",
    [
        Panel(
            "Nodes",
            "In the cluster, as the node sees it that sees most.",
            [Query('max(exo_nodes_active{job="exo"})', "nodes")],
            kind="stat",
            width=6,
        ),
        Panel(
            "NPU servers",
            "That run.",
            [Query("sum(rkllm_server_up)", "NPU servers")],
            kind="stat",
            width=6,
        ),
        Panel(
            "Requests in progress",
            "Waiting ones included. One that was passed on is in progress on both nodes.",
            [Query(f"sum(exo_requests_in_progress{{{_EXO}}})", "in progress")],
            kind="stat",
            width=6,
        ),
        Panel(
            "Decode speed",
            "Of each model's latest answer.",
            [Query(f"max by (model) (exo_tokens_per_second{{{_MODEL}}})", "{{model}}")],
            unit="tokens/s",
            kind="stat",
            width=6,
        ),
        Panel(
            "Requests",
            "Answered, failed and left, per second.",
            [Query(f"sum by (status) ({rate('exo_requests_total', _EXO)})", "{{status}}")],
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Duration of requests",
            "From arrival to the end of the answer.",
            quantiles("exo_request_duration_seconds", _MODEL, 0.5, 0.95, 0.99),
            unit="s",
        ),
        Panel(
            "First token",
            "From arrival to the first token: queue, load and prefill included.",
            quantiles("exo_first_token_latency_seconds", _MODEL, 0.5, 0.95, 0.99),
            unit="s",
        ),
        Panel(
            "Tokens",
            "Generated per second, thought or said.",
            [Query(f"sum by (model) ({rate('exo_tokens_generated_total', _MODEL)})", "{{model}}")],
            unit="tokens/s",
            stacked=True,
        ),
        Panel(
            "Errors",
            "By kind, per second.",
            [Query(f"sum by (type) ({rate('exo_errors_total', _EXO)})", "{{type}}")],
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Inference on the NPU",
            "The NPU's time for an answer, without the wait for its turn.",
            quantiles("rkllm_inference_duration_seconds", _NPU, 0.5, 0.95),
            unit="s",
        ),
    ],
)

CLUSTER = Row(
    "Cluster",
    [
        Panel(
            "Nodes",
            "What they are.",
            [Query('exo_node_info{job="exo"}')],
            kind="table",
            width=12,
        ),
        Panel(
            "Whole cluster",
            "Requests and tokens per second; what one node passed on to another counts once.",
            [
                Query("cluster:exo_requests:rate5m", "requests"),
                Query("cluster:exo_tokens_generated:rate5m", "tokens"),
            ],
            width=12,
        ),
        Panel(
            "Requests by node",
            "Those that it passes on included.",
            [Query(f"sum by (node) ({rate('exo_requests_total', _EXO)})", "{{node}}")],
            unit="reqps",
        ),
        Panel(
            "Running and waiting",
            "Requests that have a slot, and those that wait for one.",
            [
                Query(f"sum by (node) (exo_model_requests_running{{{_EXO}}})", "{{node}} running"),
                Query(f"sum by (node) (exo_requests_waiting{{{_EXO}}})", "{{node}} waiting"),
            ],
        ),
        Panel(
            "Wait for a slot",
            "Of 95 % of the requests; loading the model included.",
            [Query(f"node:exo_queue_seconds:p95_rate5m{{{_EXO}}}", "{{node}}")],
            unit="s",
        ),
        Panel(
            "Memory of models",
            "Of what they may take together.",
            [
                Query(
                    f"sum by (node) (exo_model_memory_bytes{{{_EXO}}})"
                    f" / sum by (node) (exo_memory_budget_bytes{{{_EXO}}})",
                    "{{node}}",
                )
            ],
            unit="percentunit",
            most=1,
        ),
        Panel(
            "Free memory",
            "Of the machine.",
            [Query('min by (node) (exo_device_memory_free_bytes{node=~"$node"})', "{{node}}")],
            unit="bytes",
        ),
        Panel(
            "Temperature",
            "The machine's hottest sensor.",
            [Query('max by (node) (exo_device_temperature_celsius{node=~"$node"})', "{{node}}")],
            unit="celsius",
        ),
        Panel(
            "Free disk",
            "Where models are downloaded to.",
            [Query(f"min by (node) (exo_disk_free_bytes{{{_EXO}}})", "{{node}}")],
            unit="bytes",
        ),
        Panel(
            "Memory of the node itself",
            "Resident, models on the CPU included.",
            [Query(f"sum by (node) (process_resident_memory_bytes{{{_EXO}}})", "{{node}}")],
            unit="bytes",
        ),
        Panel(
            "CPU time of the node itself",
            "Cores that it keeps busy.",
            [Query(f"sum by (node) ({rate('process_cpu_seconds_total', _EXO)})", "{{node}}")],
        ),
    ],
)

MODELS = Row(
    "Models",
    [
        Panel(
            "In memory",
            "What each model takes, by node.",
            [Query(f"sum by (node, model) (exo_model_memory_bytes{{{_MODEL}}})", "{{node}} {{model}}")],
            unit="bytes",
            stacked=True,
        ),
        Panel(
            "Prefill speed",
            "Prompt tokens per second of the latest answer, without those that were cached.",
            [
                Query(
                    f"max by (node, model) (exo_prefill_tokens_per_second{{{_MODEL}}})", "{{node}} {{model}}"
                )
            ],
            unit="tokens/s",
        ),
        Panel(
            "Decode speed",
            "Tokens per second that one answer gets, as a mean of all.",
            [
                Query(
                    f"sum by (model) ({rate('exo_tokens_generated_total', _MODEL)})"
                    f" / sum by (model) ({rate('exo_decode_seconds_total', _MODEL)})",
                    "{{model}}",
                )
            ],
            unit="tokens/s",
        ),
        Panel(
            "Between tokens",
            "From one token of an answer to the next.",
            quantiles("exo_inter_token_seconds", _MODEL, 0.5, 0.95),
            unit="s",
        ),
        Panel(
            "Prompts from the cache",
            "Share of prompt tokens that a KV cache had.",
            [
                Query(
                    f"sum by (model) ({rate('exo_prompt_cached_tokens_total', _MODEL)})"
                    f" / sum by (model) ({rate('exo_prompt_tokens_total', _MODEL)})",
                    "{{model}}",
                )
            ],
            unit="percentunit",
            most=1,
        ),
        Panel(
            "Time to load",
            "Mean, by model.",
            [
                Query(
                    f"sum by (model) (exo_model_load_seconds_sum{{{_MODEL}}})"
                    f" / sum by (model) (exo_model_load_seconds_count{{{_MODEL}}})",
                    "{{model}}",
                )
            ],
            unit="s",
        ),
    ],
)

NPU = Row(
    "NPU",
    [
        Panel(
            "Load",
            "Mean of the NPU's cores. It is root's to read, so rkllama may not be able to say it.",
            [Query(f"max by (node) (exo_npu_load_ratio{{{_NPU}}})", "{{node}}")],
            unit="percentunit",
            most=1,
        ),
        Panel(
            "Frequency",
            "Of the NPU.",
            [Query(f"max by (node) (exo_npu_frequency_hertz{{{_NPU}}})", "{{node}}")],
            unit="hertz",
        ),
        Panel(
            "Temperature",
            "The board's hottest sensor.",
            [Query(f"max by (node) (exo_device_temperature_celsius{{{_NPU}}})", "{{node}}")],
            unit="celsius",
        ),
        Panel(
            "Running and waiting",
            "Requests on the NPU server. An NPU answers one at a time.",
            [
                Query(f"sum by (node) (exo_model_requests_running{{{_NPU}}})", "{{node}} running"),
                Query(f"sum by (node) (exo_requests_waiting{{{_NPU}}})", "{{node}} waiting"),
            ],
        ),
        Panel(
            "Inference by model",
            "The NPU's time for an answer.",
            quantiles("rkllm_inference_duration_seconds", _NPU, 0.95, by="model"),
            unit="s",
        ),
        Panel(
            "Time to load",
            "Of 95 % of the loads since the servers were started.",
            [
                Query(
                    "histogram_quantile(0.95, sum by (le, model) "
                    f"(rkllm_model_load_duration_seconds_bucket{{{_NPU}}}))",
                    "{{model}}",
                )
            ],
            unit="s",
        ),
        Panel(
            "Memory of processes",
            "Resident: the server's, and that of each model.",
            [
                Query(
                    f"sum by (node, process) (rkllm_process_resident_bytes{{{_NPU}}})", "{{node}} {{process}}"
                )
            ],
            unit="bytes",
            stacked=True,
        ),
        Panel(
            "HTTP answers",
            "By status, per second.",
            [Query(f"sum by (status) ({rate('rkllm_http_requests_total', _NPU)})", "{{status}}")],
            unit="reqps",
        ),
    ],
)

ROUTING = Row(
    "Routing",
    [
        Panel(
            "Where requests are sent",
            "By the node that was asked, per second.",
            [Query(f"sum by (node, to) ({rate('exo_routes_total', _EXO)})", "{{node}} to {{to}}")],
            unit="reqps",
        ),
        Panel(
            "What spoke for the node",
            "It was the only one, had the shorter queue, the model in memory, the conversation in its cache, "
            "was faster, as good as the next, or others had failed.",
            [Query(f"sum by (reason) ({rate('exo_routes_total', _EXO)})", "{{reason}}")],
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Answers for other nodes",
            "Requests that another node passed on to this one, per second.",
            [Query(f"sum by (node) ({rate('exo_hop_requests_total', _EXO)})", "{{node}}")],
            unit="reqps",
        ),
        Panel(
            "Failovers",
            "Answers that another node had to give, before their first token or within, in the last hour.",
            [Query(f"sum by (when) (increase(exo_failovers_total{{{_EXO}}}[1h]))", "{{when}}")],
        ),
        Panel(
            "What auto meant",
            "Requests that left the choice of a model to the node, per second.",
            [Query(f"sum by (kind, model) ({rate('exo_auto_choices_total', _EXO)})", "{{kind}}: {{model}}")],
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Models that left memory",
            "In the last hour: evicted for another, idle, asked to, or dead.",
            [
                Query(
                    'sum by (node, why) (increase(exo_model_unloads_total{node=~"$node"}[1h]))',
                    "{{node}} {{why}}",
                )
            ],
        ),
    ],
)

ROWS = (OVERVIEW, CLUSTER, MODELS, NPU, ROUTING)
