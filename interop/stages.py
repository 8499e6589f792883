"""All stages, in the order they are played."""

from __future__ import annotations

from interop import (
    admitted,
    direct,
    matrix,
    multiplexing,
    onestream,
    outward,
    peculiar,
    policy_filters,
    policy_reload,
    pressure,
    refused,
    resuming,
    routed,
    through,
    transports,
    trust_cases,
    trust_dane,
    trust_posh,
    trust_secrets,
)
from interop.launch import START

STAGES = [
    direct.stage("prosody", "prosody"),
    direct.stage("prosody", "ejabberd"),
    direct.stage("prosody", "jabberd2"),
    direct.stage("ejabberd", "jabberd2"),
    direct.stage("prosody", "jabberd2", encrypted=False),
    direct.stage("ejabberd", "jabberd2", encrypted=False),
    through.stage("prosody", "prosody"),
    onestream.gateway_first, onestream.peer_first,
    resuming.both_ways, resuming.each_way, resuming.raw,
    *(matrix.stage(behind) for behind in START),
    peculiar.plain, peculiar.secured, peculiar.peer, peculiar.crashing,
    pressure.servers, pressure.crowd,
    routed.stage,
    refused.stage,
    admitted.stage,
    outward.stage,
    transports.stage, transports.announced,
    multiplexing.stage,
    policy_filters.stage, policy_filters.users,
    policy_reload.stage,
    trust_dane.stage,
    trust_posh.stage,
    trust_cases.stage,
    trust_secrets.stage, trust_secrets.gateways,
]
