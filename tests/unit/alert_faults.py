"""What Prometheus is told when something goes wrong, for each alert of deploy/observability/alerts.yml."""

from dataclasses import dataclass

_MODEL = 'gen_ai_request_model="gpt"'
Series = dict[str, str]
"""Series -> its values, every 15 s, as promtool has them: `0+1x40` grows by 1 forty times, `5x40` stays."""


@dataclass(frozen=True)
class Fault:
    series: Series
    fires_after: str
    """When the alert has to fire, at the latest."""
    well_until: str = "0s"
    """When it must not fire yet."""


def _buckets(name: str, bound: float, labels: str) -> Series:
    """A histogram of which all values are above a bound."""
    return {
        f'{name}_bucket{{le="{bound:g}",{labels}}}': "0x80",
        f'{name}_bucket{{le="+Inf",{labels}}}': "0+5x80",
    }


FAULTS: dict[str, Fault] = {
    "AntiphonNoWorkers": Fault({'antiphon_processes{role="worker",instance="a"}': "2x4 0x40"}, "3m", "1m"),
    "AntiphonRoleGone": Fault(
        {'antiphon_processes{role="tool_runner",instance="a"}': "2x4 0x40"}, "3m", "1m"
    ),
    "AntiphonProcessSilent": Fault({'up{job="antiphon",instance="a"}': "1x4 0x40"}, "4m", "1m"),
    "AntiphonNothingTold": Fault({'up{job="antiphon",instance="b"}': "1x40"}, "4m"),
    "AntiphonRedisAway": Fault({'antiphon_redis_up{instance="a"}': "1x4 0x40"}, "2m", "1m"),
    "AntiphonResponsesWait": Fault(
        {f'antiphon_queue_oldest_age_seconds{{{_MODEL},tier="default"}}': "0+15x40"}, "6m", "2m"
    ),
    "AntiphonTakeoversWait": Fault({f'antiphon_queue_depth{{{_MODEL},tier="other"}}': "0 1x40"}, "4m", "1m"),
    "AntiphonFirstTokenLate": Fault(
        _buckets("gen_ai_server_time_to_first_token_seconds", 30, _MODEL), "15m", "5m"
    ),
    "AntiphonTokensSlow": Fault(
        _buckets("gen_ai_server_time_per_output_token_seconds", 0.5, _MODEL), "15m", "5m"
    ),
    "AntiphonResponsesFail": Fault(
        {
            f'antiphon_responses_total{{{_MODEL},outcome="failed"}}': "0+1x80",
            f'antiphon_responses_total{{{_MODEL},outcome="completed"}}': "0+9x80",
        },
        "12m",
        "3m",
    ),
    "AntiphonFault": Fault({'antiphon_attempt_failures_total{cause="crashed"}': "0x4 1x40"}, "3m", "1m"),
    "AntiphonWorkersLost": Fault({'antiphon_takeovers_total{cause="lapsed"}': "0x4 30x40"}, "3m", "1m"),
    "AntiphonStalled": Fault({'antiphon_generations_stalled{instance="a"}': "0x4 1x40"}, "4m", "1m"),
    "AntiphonLoopLate": Fault(_buckets("antiphon_loop_delay_seconds", 0.5, 'instance="a"'), "12m", "3m"),
    "AntiphonReadersBehind": Fault(
        {
            'antiphon_hub_readers{instance="a"}': "100x80",
            'antiphon_hub_readers_behind{instance="a"}': "0x4 80x76",
        },
        "12m",
        "3m",
    ),
    "AntiphonToolServerFails": Fault(
        {
            'antiphon_tool_calls_total{server="wiki",outcome="timed_out"}': "0+1x80",
            'antiphon_tool_calls_total{server="wiki",outcome="completed"}': "0x80",
        },
        "12m",
        "3m",
    ),
    "AntiphonWebhooksGivenUp": Fault(
        {'antiphon_webhook_dead_letters_total{instance="a"}': "0x4 1x40"}, "3m", "1m"
    ),
    "AntiphonWebhooksWait": Fault(
        {'antiphon_webhook_outbox_oldest_age_seconds{instance="a"}': "0+15x80"}, "11m", "5m"
    ),
    "AntiphonCacheFull": Fault(
        {'antiphon_engine_kv_cache_usage_ratio{instance="a"}': "0.5x4 0.99x80"}, "15m", "5m"
    ),
    "AntiphonCellAway": Fault(
        {
            'antiphon_cell_nodes{cell="eu",state="ready",instance="a"}': "0x40",
            'antiphon_cell_nodes{cell="eu",state="ready",instance="b"}': "1x8 0x40",
        },
        "4m",
        "2m",
    ),
}
